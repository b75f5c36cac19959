"""What attacks and certificates promise holds on the accelerator; of use where there is one."""

import copy

import pytest
import torch
from accelerator import DEVICE, INNER, LINF, needs_one

import attacks as a
from attacks import PGD, ThreatModel
from robustprune import bounds, certify, selection
from robustprune.measure import evaluate

pytestmark = needs_one
L2 = ThreatModel("l2", 0.5, bounds=(0.0, 1.0))
L1 = ThreatModel("l1", 2.0, bounds=(0.0, 1.0))


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (a.FGSM(LINF), LINF),
        (PGD(LINF, steps=5, restarts=2, seed=0), LINF),
        (PGD(L2, steps=5, seed=0), L2),
        (PGD(L1, steps=5, seed=0), L1),
        (a.APGD(LINF, steps=5, seed=0), LINF),
        (a.APGD(L2, steps=5, loss="dlr", seed=0), L2),
        (a.APGD(L1, steps=5, seed=0), L1),
        (a.Square(LINF, queries=20, seed=0), LINF),
        (a.Square(L2, queries=20, seed=0), L2),
    ],
    ids=lambda value: type(value).__name__ + getattr(getattr(value, "threat", value), "norm", ""),
)
def test_attacks_stay_within_the_threat(trained, attack, threat) -> None:
    model, x, y = trained
    before = copy.deepcopy(model.state_dict())
    x_adv = attack(model, x, y)
    assert x_adv.device == x.device
    assert threat.distance(x, x_adv).max() <= threat.eps
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "attack",
    [
        a.DeepFool("l2", bounds=(0, 1)),
        a.CW(steps=50, searches=5, initial_c=1.0, bounds=(0, 1)),
        a.DDN(steps=20, bounds=(0, 1)),
        a.FMN("linf", steps=20, bounds=(0, 1)),
        a.FAB("linf", steps=10, bounds=(0, 1)),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_nearest_examples_are_adversarial_and_beyond_the_certificate(trained, attack) -> None:
    model, x, y = trained
    x_adv = attack(model, x, y)
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.any()
    assert (model(x_adv[moved]).argmax(1) != y[moved]).all()
    radius = bounds.certified_radius(
        model, x, y, norm=getattr(attack, "norm", "l2"), bounds=(0.0, 1.0), eps_max=4.0
    )
    order = {"l2": 2, "linf": torch.inf}[getattr(attack, "norm", "l2")]
    distance = torch.linalg.vector_norm((x_adv - x).flatten(1).double(), ord=order, dim=1)
    certify.check_sandwich(radius[moved].cpu(), distance[moved].cpu())


def test_ensembles_and_minimal_perturbation(trained) -> None:
    model, x, y = trained
    found = a.minimal_perturbation(model, x, y, norm="linf", bounds=(0.0, 1.0))
    assert found.r.device.type == DEVICE.type
    names = {"pgd": INNER, "apgd": a.APGD(LINF, steps=5, seed=0)}
    outcome = evaluate(model, x, y, names, batch_size=8)
    ours = evaluate(copy.deepcopy(model).cpu(), x.cpu(), y.cpu(), {"pgd": INNER}, batch_size=8)
    assert torch.equal(outcome.clean, ours.clean)
    x_adv = a.AutoAttack(LINF, seed=0)(model, x, y)
    assert LINF.distance(x, x_adv).max() <= LINF.eps


@pytest.mark.parametrize("method", bounds.METHODS)
def test_bounds_agree_with_those_of_the_cpu(trained, method) -> None:
    model, x, y = trained
    small = ThreatModel("linf", 0.01, bounds=(0.0, 1.0))
    here = bounds.margin_bounds(model, x, y, small, method=method)
    there = bounds.margin_bounds(copy.deepcopy(model).cpu(), x.cpu(), y.cpu(), small, method=method)
    torch.testing.assert_close(here.cpu(), there, rtol=1e-6, atol=1e-6)


def test_smoothing_certifies_and_repeats(trained) -> None:
    model, x, _ = trained
    one, two = (certify.certify(model, x, sigma=0.1, n0=20, n=500, seed=1) for _ in range(2))
    assert (one.radius == two.radius).all()
    assert (one.radius > 0).any()


@pytest.mark.parametrize(
    "method",
    [
        selection.Random(0),
        selection.HighestLoss(),
        selection.BoundaryDistance(LINF),
        selection.KnnShapley(k=2),
    ],
    ids=lambda method: type(method).__name__,
)
def test_selection(trained, method) -> None:
    model, x, y = trained
    pool = selection.Pool(INNER(model, x, y), y, x)
    chosen = selection.select_adversarial_examples(model, pool, (x, y), method=method, keep=0.5)
    assert len(chosen.chosen) == 8
