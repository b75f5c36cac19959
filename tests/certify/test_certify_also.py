"""Certificates of other networks than the headline: made, resumed and verified; forgeries found."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprune.certify import (
    file_digest,
    read_certificates,
    recheck,
    report_lines,
    write_certificates,
)
from robustprune.pipeline import find_sparse_networks, prepare, run_certificates
from robustprune.pipeline.verify import verify_run
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.config import parse_config

OTHER = Path("models", "adversarial")


def config_tree(data: Path, **certify: Any) -> dict[str, Any]:
    return {
        "task": {"name": "npz", "path": str(data), "batch_size": 10},
        "model": {"name": "mlp", "options": {"hidden": [6]}},
        "inner": {"steps": 1},
        "natural": {"epochs": 1},
        "adversarial": {"epochs": 8, "optimizer": {"lr": 0.5}},
        "search": {"epochs": 8, "optimizer": {"lr": 0.5}},
        "finetune": {"modes": []},
        "evaluation": {"steps": 1, "restarts": 1, "curve": False},
        "certify": {"method": "crown-ibp", "examples": 4, "also": ["adversarial"], **certify},
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("also"), np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    x[:, 0] += 2 * np.sign(x[:, 0])
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=1.001 * x[:6], y_test=y[:6])
    return folder / "d.npz"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = prepare(parse_config(config_tree(data)), out=tmp_path_factory.mktemp("runs"), quiet=True)
    with pytest.MonkeyPatch.context() as patch:  # the report takes longer than everything else
        patch.setattr("robustprune.pipeline.write_report", lambda folder: None)
        find_sparse_networks(run)
    return run.folder.path


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recheck, "STEPS", 5)
    monkeypatch.setattr(recheck, "RESTARTS", 1)
    shutil.copytree(finished.parents[1], tmp_path / "runs")
    return tmp_path / "runs" / finished.parent.name / finished.name


def failed(folder: Path) -> set[str]:
    return {finding.name for finding in verify_run(folder, seed=3) if not finding.ok}


def test_both_files_are_bound_to_their_networks_and_verified(folder: Path) -> None:
    manifests = []
    for part in (folder, folder / OTHER):
        manifest, certificates = read_certificates(part / "certificates.jsonl")
        assert len(certificates) == 4
        assert any(c.radius > 0 for c in certificates)
        assert manifest.weights == file_digest(part / "model.safetensors")
        manifests.append(manifest)
    headline, other = manifests
    assert (headline.model, other.model) == ("rst", "adversarial")
    assert headline.masks is not None
    assert other.masks is None
    assert headline.weights != other.weights
    findings = verify_run(folder, seed=3)
    assert all(finding.ok for finding in findings), "\n".join(report_lines(findings))
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    # the same is checked of both; what is said of the whole folder is said once
    own = {name.removeprefix("adversarial: ") for name in names if name.startswith("adversarial: ")}
    once = {"headline", "origin, data", "metrics.json", "where the data are from"}
    assert {*names} - own - {f"adversarial: {n}" for n in own} == once | {"other test examples"}


def test_a_run_goes_on_where_it_was_killed(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / OTHER / "certificates.jsonl").read_bytes()
    (folder / OTHER / "certificates.jsonl").unlink()
    issued: list[object] = []
    issue = run_certificates.issue

    def counting(model: Any, *args: Any, **options: Any) -> Any:
        issued.append(model)
        return issue(model, *args, **options)

    monkeypatch.setattr(run_certificates, "issue", counting)
    monkeypatch.setattr("robustprune.pipeline.write_report", lambda folder: None)
    run = prepare(parse_config(config_tree(data)), out=folder.parents[1], quiet=True)
    find_sparse_networks(run)
    assert len(issued) == 1
    assert (folder / OTHER / "certificates.jsonl").read_bytes() == before


def test_a_missing_file_is_a_failure(folder: Path) -> None:
    (folder / OTHER / "certificates.jsonl").unlink()
    assert failed(folder) == {"adversarial: files"}
    shutil.rmtree(folder / OTHER)
    assert failed(folder) == {"adversarial: files"}


def test_a_forged_radius_is_found(folder: Path) -> None:
    path = folder / OTHER / "certificates.jsonl"
    manifest, certificates = read_certificates(path)
    forged = [replace(c, radius=1.2 * c.radius, attack_radius=None) for c in certificates]
    write_certificates(path, manifest, forged)
    assert {
        "adversarial: crown-ibp: the same radius comes out",
        "adversarial: crown-ibp: margins are positive at the stated radius",
    } <= failed(folder)


def test_the_headline_cannot_stand_in_for_another_network(folder: Path) -> None:
    """Its file is bound to its weights and its name, and its weights to their own file."""
    path = folder / OTHER / "certificates.jsonl"
    shutil.copyfile(folder / "certificates.jsonl", path)
    assert {f"adversarial: manifest, {name}" for name in ("model", "weights", "masks")} <= failed(
        folder
    )


def test_changed_weights_are_found(folder: Path) -> None:
    path = folder / OTHER / "model.safetensors"
    state, meta = load_tensors(path)
    name = next(key for key in state if key.endswith("bias"))
    state[name] += 0.5
    save_tensors(path, state, meta)
    assert "adversarial: manifest, weights" in failed(folder)
    assert not any(name.startswith("manifest") for name in failed(folder))


def test_a_link_is_not_followed(folder: Path) -> None:
    (folder / OTHER).rename(folder.parent / "elsewhere")
    (folder / OTHER).symlink_to(folder.parent / "elsewhere")
    findings = {finding.name: finding for finding in verify_run(folder, seed=3)}
    assert not findings["adversarial: files"].ok
    assert "symbolic link" in findings["adversarial: files"].detail


@pytest.mark.parametrize(
    ("certify", "message"),
    [
        ({"also": ["rst"]}, "names rst, the headline model, which is certified anyway"),
        ({"also": ["natural", "natural"]}, "names a network twice"),
        ({"also": ["../rst"]}, r"'\.\./rst', which is no network .* it has natural, adversarial"),
        ({"method": "none"}, "nothing certifies them; set certify.method"),
    ],
)
def test_what_is_refused(data: Path, tmp_path: Path, certify: dict[str, Any], message: str) -> None:
    config = parse_config(config_tree(data, **certify))
    with pytest.raises(ValueError, match=message):
        prepare(config, out=tmp_path, quiet=True)


def test_a_name_in_a_foreign_config_leads_nowhere(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    assert "- adversarial" in text
    (folder / "config.yaml").write_text(text.replace("- adversarial", "- ../../elsewhere"))
    (finding,) = verify_run(folder, seed=3)
    assert not finding.ok
    assert "no network of this run" in finding.detail
