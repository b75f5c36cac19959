"""The run directory: what is removed in it, links in it, and which version began it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from robustprune.certify.certificate import read_certificates
from robustprune.report.fields import read_text
from robustprune.run.checkpoint import load_tensors, save_tensors, write_atomically
from robustprune.run.config import Config
from robustprune.run.lock import alone
from robustprune.run.rundir import RunDir, open_run

ENV = {"robustprune": "1.0", "torch": "2.7", "device": "cpu"}


def opened(root: Path, **env: str) -> Path:
    return open_run(Config(), root, {**ENV, **env}).path


def filled(folder: Path) -> dict[str, str]:
    """Folders and files outside of any run, some named as the run's own are."""
    for name in (".git", ".x.partial", ".y.new", "x", "plain"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kept.txt").write_text(name)
    (folder / ".hidden").write_text("a file")
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def test_only_what_a_training_left_is_removed(tmp_path: Path) -> None:
    path = opened(tmp_path)
    filled(path / "models")
    opened(tmp_path)
    left = sorted(f.name for f in (path / "models").iterdir())
    assert left == [".git", ".hidden", "plain", "x"]


@pytest.mark.parametrize("name", ["models", "measure", "log.jsonl", "env.json", "lock"])
def test_a_link_in_a_run_is_refused_and_nothing_behind_it_changes(
    tmp_path: Path, name: str
) -> None:
    path, outside = opened(tmp_path / "runs"), tmp_path / "outside"
    before = filled(outside)
    target = outside / ".hidden" if "." in name or name == "lock" else outside
    if (path / name).exists():
        (path / name).unlink()
    (path / name).symlink_to(target)
    with pytest.raises(ValueError, match=rf"{name} is a symbolic link"):
        opened(tmp_path / "runs")
    assert contents(outside) == before


def test_saving_a_model_removes_nothing_behind_links(tmp_path: Path) -> None:
    run, outside = RunDir(opened(tmp_path / "runs")), tmp_path / "outside"
    before = filled(outside)
    (run.path / "models").mkdir()
    for name in (".x.new", ".x.partial", ".y.partial"):
        (run.path / "models" / name).symlink_to(outside)
    run.save_model("x", {"w": torch.ones(2)}, None, [])
    assert sorted(f.name for f in (run.path / "models").iterdir()) == [".y.partial", "x"]
    assert contents(outside) == before
    (run.path / "models").rename(run.path / "moved")
    (run.path / "models").symlink_to(outside)
    with pytest.raises(ValueError, match="models is a symbolic link"):
        run.save_model("x", {"w": torch.ones(2)}, None, [])
    with pytest.raises(ValueError, match="models is a symbolic link"):
        run.checkpoint("z")
    assert contents(outside) == before


def test_a_write_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    for name in ("a", ".a.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "other").read_text() == "kept"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_pipes_in_a_run_do_not_hold_it_up(tmp_path: Path) -> None:
    run = RunDir(opened(tmp_path))
    for name in ("metrics.json", "model.safetensors"):
        os.mkfifo(run.path / name)
    with pytest.raises(ValueError, match="is a named pipe"):
        run.read_json("metrics.json")
    with pytest.raises(ValueError, match="is a named pipe"):
        load_tensors(run.path / "model.safetensors")
    (run.path / "lock").unlink()
    os.mkfifo(run.path / "lock")
    with pytest.raises(ValueError, match="is no ordinary file"), alone(run.path):
        raise AssertionError("inside")


def test_a_checkpoint_whose_json_is_no_mapping_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forging:
        forging.setattr(json, "dumps", lambda _: "[1]")
        save_tensors(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    with pytest.raises(ValueError, match="its JSON is no mapping"):
        load_tensors(tmp_path / "a.safetensors")


# -- versions ----------------------------------------------------------------------------------


def test_the_versions_that_began_a_run_are_kept(tmp_path: Path) -> None:
    path = opened(tmp_path)

    def env() -> dict[str, str]:
        found: dict[str, str] = json.loads((path / "env.json").read_text())
        return found

    assert env() == ENV
    opened(tmp_path, device="cuda")
    assert env() == {**ENV, "device": "cuda"}
    opened(tmp_path, robustprune="1.1", torch="2.8")
    assert env() == {
        **ENV,
        "robustprune": "1.1",
        "torch": "2.8",
        "begun": "robustprune 1.0, torch 2.7",
    }
    opened(tmp_path, robustprune="2.0")
    assert env()["begun"] == "robustprune 1.0, torch 2.7"
    assert env()["robustprune"] == "2.0"
    (path / "env.json").write_text("{")
    opened(tmp_path)
    assert env() == ENV


def test_a_config_written_without_later_options_is_the_same_run(tmp_path: Path) -> None:
    """An option that came later renames no folder, and the file stays as it is: certificates hold
    its digest."""
    path = opened(tmp_path)
    older = (path / "config.yaml").read_text()
    for line in ("  header: null\n", "  layout: null\n"):
        assert line in older
        older = older.replace(line, "")
    (path / "config.yaml").write_text(older)
    assert opened(tmp_path) == path
    assert (path / "config.yaml").read_text() == older
    (path / "config.yaml").write_text(older.replace("eps: 0.1", "eps: 0.2"))
    with pytest.raises(ValueError, match=r"config\.yaml does not belong to this run"):
        opened(tmp_path)


def test_readers_of_finished_runs_do_not_wait_at_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "certificates.jsonl")
    for read in (read_certificates, read_text):
        with pytest.raises(ValueError, match="is a named pipe"):
            read(tmp_path / "certificates.jsonl")
        with pytest.raises(ValueError, match=r"cannot read .*nothing: No such file"):
            read(tmp_path / "nothing")
