"""Certificates of a batch, against closed forms; the stage that the config switches off."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from attacks import ThreatModel, minimal_perturbation
from robustprune.certify import SandwichViolation, limits, proofs, smoothed_certificates
from robustprune.measure import nearest_adversarial
from robustprune.pipeline import prepare
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.run_certificates import certify_networks, certify_one
from robustprune.run.config import load_config, parse_config
from robustprune.sparsity import full_masks


@pytest.fixture
def plane():
    """Two classes on either side of a plane: (model, x, y, distances in L∞)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        x = torch.randn(10, 3, 4, generator=generator)
        logits = model(x)
        normal = model[1].weight[0] - model[1].weight[1]
        distance = (logits[:, 0] - logits[:, 1]).abs().double() / normal.abs().sum()
    y = logits.argmax(1)
    y[0] = 1 - y[0]
    distance[0] = 0
    return model, x, y, distance


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_proofs_of_a_linear_network_are_tight(plane, method):
    model, x, y, distance = plane
    threat = ThreatModel("linf", 0.1)
    nearest = nearest_adversarial(model, x, y, threat, batch_size=3)
    certificates = proofs(model, x, y, threat, nearest, method=method)
    radius = torch.tensor([c.radius for c in certificates], dtype=torch.float64)
    assert (radius <= distance).all()
    assert torch.allclose(radius, distance, rtol=2e-3)
    assert [c.index for c in certificates] == list(range(10))
    assert all(c.attack_radius >= c.radius for c in certificates)
    wrong = certificates[0]
    assert (wrong.radius, wrong.attack_radius) == (0, 0)
    assert wrong.prediction == 1 - wrong.label
    assert all(c.confidence == 1 and c.guarantee == "base" for c in certificates)


def test_a_proof_beyond_an_adversarial_example_is_refused(plane):
    model, x, y, _ = plane
    threat = ThreatModel("linf", 0.1)
    nearest = minimal_perturbation(model, x, y)
    shifted = dataclasses.replace(nearest, r=nearest.r.clone().index_fill_(0, torch.tensor(4), 0))
    with pytest.raises(SandwichViolation, match=r"1 of 10 .* examples 4 \("):
        proofs(model, x, y, threat, shifted)


def test_no_smoothed_radius_where_the_answer_is_wrong(plane):
    model, x, y, _ = plane
    certificates = smoothed_certificates(
        model, x, y, sigma=0.1, n0=50, n=400, alpha=0.01, seed=0, batch_size=128
    )
    assert certificates[0].radius == 0
    assert certificates[0].prediction == 1 - certificates[0].label
    assert any(c.radius > 0 for c in certificates[1:])
    assert {c.norm for c in certificates} == {"l2"}


def test_limits_speak_of_what_is_in_the_file():
    assert any("smoothed" in sentence for sentence in limits({"smoothing"}))
    assert any("smoothed" in sentence for sentence in limits({"synonyms"}))
    assert not any("Gaussian" in sentence for sentence in limits({"synonyms"}))
    assert not any("smoothed" in sentence for sentence in limits({"crown"}))
    assert set(limits({"crown"})) < set(limits({"crown", "smoothing"}))
    both = limits({"smoothing", "synonyms"}, sentences=True)
    assert set(limits({"smoothing"}, sentences=True)) < set(both)
    assert set(limits({"synonyms"}, sentences=True)) < set(both)


def test_the_stage_is_off_by_default(tmp_path: Path) -> None:
    off = prepare(parse_config({"model": {"name": "mlp"}}), out=tmp_path, quiet=True)
    model = off.fresh_model()
    fitted = Fitted("rst", "RST", model, full_masks(model))
    certify_networks(off, fitted, [fitted])
    assert not (off.folder.path / "certificates.jsonl").exists()


def test_the_stage_is_done_once(
    certified_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(certified_run.parents[1], tmp_path / "runs")
    config = load_config(certified_run / "config.yaml")
    again = prepare(config, out=tmp_path / "runs", quiet=True)
    model = again.fresh_model()
    monkeypatch.delattr("robustprune.pipeline.run_certificates.proofs")
    path = certify_one(again, Fitted("rst", "RST", model, full_masks(model)), published=True)
    assert path == again.folder.path / "certificates.jsonl"
    assert path.read_bytes() == (certified_run / path.name).read_bytes()
