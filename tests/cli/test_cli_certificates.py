"""`verify` and `certify` as somebody uses them who mistakes one thing for another."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustprune.cli import main
from robustprune.pipeline.verify import run_with_certificates

MODULE = """
from torch import nn

def build():
    return nn.Linear(4, 2)

class Sorted(nn.Linear):
    def forward(self, x):
        return super().forward(x).sort(1).values

def odd():
    return Sorted(4, 2)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A network that answers the sign of the first input, and the options that name it."""
    monkeypatch.chdir(tmp_path)
    Path("certified_nets.py").write_text(MODULE)
    weight = torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    save_file({"weight": weight, "bias": torch.zeros(2)}, "own.safetensors")
    save_file({"weight": -weight, "bias": torch.zeros(2)}, "other.safetensors")
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez("own.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    monkeypatch.delitem(sys.modules, "certified_nets", raising=False)
    return [
        "certified_nets:build",
        "--state",
        "own.safetensors",
        "--data",
        "own.npz",
        "--eps",
        "0.1",
    ]


def empty_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "certificates.jsonl").write_text("")
    return folder


def test_the_only_run_of_a_folder_is_taken(tmp_path: Path) -> None:
    run = empty_run(tmp_path / "runs" / "x-1" / "seed0")
    (tmp_path / "runs" / "y-2" / "seed0").mkdir(parents=True)
    assert run_with_certificates(run) == run
    assert run_with_certificates(run.parent) == run
    assert run_with_certificates(tmp_path / "runs") == run
    empty_run(tmp_path / "runs" / "x-1" / "seed1")
    with pytest.raises(ValueError, match=r"holds 2 runs; give one of them: .*seed0, .*seed1"):
        run_with_certificates(tmp_path / "runs")


def test_what_is_no_run_is_bad_input(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", *own, "--quiet"]) == 0
    (tmp_path / "bare").mkdir()
    shutil.copy(empty_run(tmp_path / "r") / "config.yaml", tmp_path / "bare")
    for folder, said in (
        ("certificates", "holds certificates of your own network; name it and its data"),
        ("bare", "is a run without certificates"),
        (str(tmp_path / "r" / ".."), "verifying"),
        ("nowhere", "there is no run directory nowhere"),
    ):
        status = main(["verify", folder])
        captured = capsys.readouterr()
        if said == "verifying":
            assert status == 1
            assert f"{tmp_path / 'r' / '..' / 'r'}, the only run in" in captured.err
        else:
            assert (status, captured.out) == (2, "")
            assert captured.err.count("\n") == 1
            assert said in captured.err
    (tmp_path / "empty").mkdir()
    assert main(["verify", "empty"]) == 2
    assert "no run with certificates lies in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--samples", "0"], "--samples 0 must be"), (["--seed", "-1"], "--seed -1 must be")],
)
def test_options_of_verify(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(empty_run(tmp_path / "r")), *options]) == 2
    assert message in capsys.readouterr().err


def test_certificates_of_something_else_are_not_lost(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command may come again; another network, radius or method may not."""
    assert main(["certify", *own, "--quiet"]) == 0
    file = Path("certificates/certificates.jsonl")
    before = file.read_bytes()
    assert main(["certify", *own, "--quiet"]) == 0
    assert file.read_bytes() == before
    other = ["other.safetensors" if word == "own.safetensors" else word for word in own]
    for changed in (other, [*own, "--method", "ibp"], [*own, "--eps", "0.2"]):
        assert main(["certify", *changed]) == 2
        assert "give another folder by --out" in capsys.readouterr().err
        assert file.read_bytes() == before
    shutil.copy("other.safetensors", "own.safetensors")
    assert main(["certify", *own]) == 2
    assert "give another folder by --out" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main(["certify", *own, "--out", "elsewhere", "--quiet"]) == 1


def test_a_network_for_which_nothing_is_certified_is_told(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers the opposite of every label: there is nothing to certify."""
    wrong = ["other.safetensors" if word == "own.safetensors" else word for word in own]
    assert main(["certify", *wrong, "--out", "w"]) == 1
    shown = capsys.readouterr().out
    assert "0 of 6 beyond eps 0.1" in shown
    assert "6 answered wrongly" in shown
    assert "nothing is certified by crown" in shown
    assert main(["certify", *wrong, "--out", "w", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["methods"]["crown"]["outcomes"] == {"wrong": 6}
    assert said["idle"] == ["crown"]


def test_a_network_without_bounds_is_bad_input(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ["certified_nets:odd", *own[1:]]
    assert main(["certify", *odd, "--out", "w"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sort" in captured.err.splitlines()[-1]
    assert not Path("w").exists()


def test_a_long_proof_is_told_beforehand(
    own: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustprune.certify import radii
    from robustprune.run import progress

    monkeypatch.setattr(radii, "_LONG", 0.0)
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    assert main(["certify", *own, "--out", "a"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("nearest adversarial examples: ")
    told = next(line for line in said if line.startswith("crown takes up to"))
    assert re.search(r"for 6 of them; crown-ibp takes .* s and ibp takes .* s per example$", told)
    assert any(line.startswith("radii by crown: ") for line in said)
    assert "72 of 72 bounds" in said[-1]
    for flag in ("--quiet", "--json"):
        assert main(["certify", *own, "--out", f"b{flag}", flag]) == 0
        assert capsys.readouterr().err == ""
