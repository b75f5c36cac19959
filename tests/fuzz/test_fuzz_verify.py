"""Whatever lies in a run directory, `verify` ends in findings, and passes nothing that changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz, mutated
from hypothesis import strategies as st

from robustprune.certify import CheckResult, recheck, report_lines, resample_noise
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.verify import verify_run
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.config import load_config, parse_config

FEW, MORE = 25, 120
OTHER = "models/adversarial"
FILES = ("certificates.jsonl", "config.yaml", "metrics.json", f"{OTHER}/certificates.jsonl")
TENSORS = ("model.safetensors", "masks.safetensors", f"{OTHER}/model.safetensors")
WHOLE = "whole.yaml"  # the config as the run wrote it


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few numbers with certificates of both kinds."""
    folder, rng = tmp_path_factory.mktemp("fuzz"), np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=1.001 * x[:6], y_test=y[:6])
    training = {"epochs": 1}
    tree = {
        "seed": 1,  # one of which all statements are true: with alpha = 0.1, many have a false one
        "task": {"name": "npz", "path": str(folder / "d.npz"), "batch_size": 10},
        "model": {"name": "mlp", "options": {"hidden": [4]}},
        "inner": {"steps": 1},
        **dict.fromkeys(("natural", "adversarial"), training),
        "search": {**training, "epochs": 5, "optimizer": {"lr": 0.5}},
        "finetune": {"modes": []},
        "evaluation": {"steps": 1, "restarts": 1, "curve": False},
        "certify": {"method": "ibp", "examples": 2, "sigma": 1.0, "n0": 8, "n": 40, "alpha": 0.1},
    }
    tree["certify"]["also"] = ["adversarial"]
    run = prepare(parse_config(tree), out=folder / "runs", quiet=True)
    find_sparse_networks(run)
    return run.folder.path


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recheck, "STEPS", 1)
    monkeypatch.setattr(resample_noise, "STEPS", 1)
    monkeypatch.setattr(recheck, "RESTARTS", 1)
    keep = (*FILES, *TENSORS)
    (tmp_path / "run" / OTHER).mkdir(parents=True)
    for name in keep:
        shutil.copyfile(finished / name, tmp_path / "run" / name)
    shutil.copyfile(finished / "config.yaml", tmp_path / "run" / WHOLE)
    found = verify_run(tmp_path / "run", seed=0)
    assert all(finding.ok for finding in found), "\n".join(report_lines(found))
    return tmp_path / "run"


def findings(folder: Path) -> list[CheckResult]:
    """What `verify` says; an error is allowed only where the config names other data or code."""
    try:
        found = verify_run(folder, seed=0)
    except (ValueError, OSError) as error:
        now, then = load_config(folder / "config.yaml"), load_config(folder / WHOLE)
        assert (now.task, now.model.name) != (then.task, then.model.name)
        return [CheckResult("data", False, " ".join(str(error).split()))]
    assert found
    assert all(finding.name and "\n" not in finding.detail for finding in found)
    return found


def touched_file(folder: Path) -> tuple[Callable[[Any], None], st.SearchStrategy[Any]]:
    """Texts and tensor files with pieces and bits changed."""
    whole = {name: (folder / name).read_bytes() for name in (*FILES, *TENSORS)}

    def check(drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        (folder / name).write_bytes(content)
        try:
            found = findings(folder)
        finally:
            (folder / name).write_bytes(whole[name])
        if name in ("config.yaml", *TENSORS) and content != whole[name]:
            assert not all(finding.ok for finding in found), f"{name} may be changed unseen"

    names = st.sampled_from(sorted(whole))
    return check, names.flatmap(lambda name: st.tuples(st.just(name), mutated([whole[name]])))


def touched_path(folder: Path) -> tuple[Callable[[Any], None], st.SearchStrategy[Any]]:
    """A config that names data which are not there."""
    whole = (folder / "config.yaml").read_text()
    path = str(load_config(folder / "config.yaml").task.path)
    assert path in whole

    def check(drawn: str) -> None:
        (folder / "config.yaml").write_text(whole.replace(path, path + drawn))
        try:
            assert not all(finding.ok for finding in findings(folder))
        finally:
            (folder / "config.yaml").write_text(whole)

    return check, st.text("abc/.", min_size=1, max_size=9)


def touched_numbers(folder: Path) -> tuple[Callable[[Any], None], st.SearchStrategy[Any]]:
    """Weights and masks with one value changed, in files that are whole."""
    whole = {name: (folder / name).read_bytes() for name in TENSORS}

    def check(drawn: tuple[str, int, int, float]) -> None:
        name, which, where, value = drawn
        tensors, meta = load_tensors(folder / name)
        tensor = tensors[sorted(tensors)[which % len(tensors)]].view(-1)
        tensor[where % len(tensor)] = value
        save_tensors(folder / name, tensors, meta)
        same = (folder / name).read_bytes() == whole[name]
        try:
            assert same == all(finding.ok for finding in findings(folder))
        finally:
            (folder / name).write_bytes(whole[name])

    numbers = st.integers(0, 1000)
    values = st.floats(width=32)
    return check, st.tuples(st.sampled_from(TENSORS), numbers, numbers, values)


WAYS = [touched_file, touched_path, touched_numbers]


@pytest.mark.parametrize("way", WAYS)
def test_verify_ends_in_findings(way: Callable[[Path], Any], folder: Path) -> None:
    fuzz(*way(folder), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_verify_over_many_inputs(way: Callable[[Path], Any], folder: Path) -> None:
    fuzz(*way(folder), FEW * MORE)
