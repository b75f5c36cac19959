"""What can go wrong around a run: each is told in one line with exit status 2, and mended."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustprune.cli import main
from robustprune.run.config import Config

FILES = ("metrics.json", "model.safetensors", "masks.safetensors", "per_example.csv")
HOLD = """
import sys
from pathlib import Path
from robustprune.run.lock import alone
with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def command(small: Config, tmp_path: Path) -> list[str]:
    config = tmp_path / "small.yaml"
    config.write_text(small.to_yaml())
    return ["run", str(config), "--quiet", "--checkpoint-seconds", "0", "--device", "cpu", "--out"]


def folder_of(small: Config, out: Path) -> Path:
    return out / f"{small.name}-{small.digest()}" / "seed0"


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def error(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    capsys.readouterr()
    assert main(command) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    return captured


def test_a_disk_that_fills_up_again_and_again(
    small: Config,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, filled = tmp_path / "straight", tmp_path / "filled"
    assert main([*command, str(straight)]) == 0
    fsync = os.fsync
    for room in (3, 12, 25, 40):
        left = [room]

        def full(descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr("os.fsync", full)
        said = error(capsys, [*command, str(filled)])
        assert "no space left on the device; make room and give the same command again" in said
        monkeypatch.setattr("os.fsync", fsync)
    assert main([*command, str(filled)]) == 0
    assert contents(folder_of(small, filled)) == contents(folder_of(small, straight))
    assert not list(filled.rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_a_second_process_is_kept_out(
    small: Config, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(small, tmp_path)
    folder.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "inside\n"
        said = error(capsys, [*command, str(tmp_path)])
        assert f"another process ({other.pid} on " in said
        assert [path.name for path in folder.iterdir()] == ["lock"]
        other.kill()
    assert main([*command, str(tmp_path)]) == 0


def test_a_damaged_model_is_made_again_as_it_was(
    small: Config, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(tmp_path)]) == 0
    folder = folder_of(small, tmp_path)
    before = contents(folder)
    model = folder / "models" / "rst"
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    said = error(capsys, [*command, str(tmp_path)])
    assert "model.safetensors is damaged (its content is not what was written" in said
    assert f"delete {model} to have it made again" in said
    for path in model.iterdir():
        path.unlink()
    model.rmdir()
    assert main([*command, str(tmp_path)]) == 0
    assert contents(folder) == before
