"""Accuracy under attack, where a linear model says exactly what is right."""

import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, PGD, ThreatModel
from robustprune.measure import accuracy_curve, constant_answer, evaluate
from robustprune.measure.statistics import expected_proportion, proportion

EPS = 0.3
PGD3 = PGD(ThreatModel("linf", EPS), steps=3, seed=0)


def linear(n: int = 60) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A 2-class linear model, data, and each example's exact r*: (w₁−w₀)ᵀx / ‖w₁−w₀‖₁, signed."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(5, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 5, generator=generator))
        model.bias.zero_()
    x = torch.randn(n, 5, generator=generator)
    y = torch.arange(n) % 2
    w = (model.weight[1] - model.weight[0]).detach()
    margin = (2 * y - 1) * (x @ w)
    return model, x, y, margin / w.abs().sum()


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_exactly_the_examples_beyond_eps_survive(batch_size: int) -> None:
    model, x, y, r = linear()
    outcome = evaluate(model, x, y, {"fgsm": FGSM(PGD3.threat), "pgd": PGD3}, batch_size=batch_size)
    assert torch.equal(outcome.clean, r > 0)
    assert torch.equal(outcome.robust["fgsm"], r > EPS)
    assert torch.equal(outcome.worst, r > EPS)
    assert 0 < int(outcome.worst.sum()) < int(outcome.clean.sum()) < 60


def test_the_worst_case_is_taken_per_example() -> None:
    """Two attacks that each break half leave nothing."""
    model, x, y, r = linear()

    class Half:
        def __init__(self, parity: int) -> None:
            self.parity = parity

        def __call__(self, model: object, x: Tensor, y: Tensor) -> Tensor:
            attacked = x.clone()
            attacked[y == self.parity] *= -1
            return attacked

    outcome = evaluate(model, x, y, {"even": Half(0), "odd": Half(1)}, batch_size=60)
    assert int(outcome.robust["even"].sum()) == int(((r > 0) & (y == 1)).sum())
    assert int(outcome.worst.sum()) == 0


def test_an_attack_cannot_make_a_wrong_answer_right() -> None:
    model, x, y, r = linear()

    def helper(model: object, x: Tensor, y: Tensor) -> Tensor:
        return x + 100 * (2 * y - 1)[:, None] * (linear()[0].weight[1] - linear()[0].weight[0])

    outcome = evaluate(model, x, y, {"helper": helper}, batch_size=60)
    assert torch.equal(outcome.robust["helper"], r > 0)


def test_the_curve_is_exact_and_falls_to_zero() -> None:
    model, x, y, r = linear()
    outcome = evaluate(model, x, y, {"pgd": PGD3}, batch_size=60)
    points = accuracy_curve(model, x, y, PGD3, outcome, batch_size=60)
    for eps, accuracy in points:
        assert accuracy == pytest.approx(float((r > eps).float().mean())), eps
    values = [accuracy for _, accuracy in points]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0
    assert values[-2] > 0.0


def test_modes_come_back_and_logits_must_be_finite() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval()
    _, x, y, _ = linear()
    evaluate(model, x, y, {"pgd": PGD3}, batch_size=60)
    assert [m.training for m in model] == [True, False, True]
    with torch.no_grad():
        model[2].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits are not finite"):
        evaluate(model, x, y, {}, batch_size=60)


def test_expected_proportions() -> None:
    assert expected_proportion([1.0, 0.0, 1.0]) == proportion(2, 3)
    half = expected_proportion([0.5] * 10)
    assert half.value == 0.5
    assert half.ci95 == proportion(5, 10).ci95
    for shares, message in (([], "at least one"), ([0.5, 1.1], r"\[0, 1\], got 1\.1")):
        with pytest.raises(ValueError, match=message):
            expected_proportion(shares)


class Always(nn.Module):
    """Class 1, whatever it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3) + 0 * x[:, :1]


def test_one_class_for_everything_is_seen() -> None:
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    outcome = evaluate(Always(), x, y, {}, batch_size=4)
    assert torch.equal(outcome.answers, torch.ones(9).long())
    assert outcome.constant == 1
    assert evaluate(Always(), x[y == 1], y[y == 1], {}, batch_size=4).constant is None
    assert evaluate(Always(), x[y == 2], y[y == 2], {}, batch_size=4).constant == 1
    assert evaluate(nn.Linear(4, 3), x[:0], y[:0], {}, batch_size=4).constant is None
    model, x, y, _ = linear()
    assert evaluate(model, x, y, {}, batch_size=60).constant is None


@pytest.mark.parametrize(
    ("right", "labels", "expected"),
    [
        ([0, 1, 0, 1], [0, 1, 2, 1], 1),
        ([0, 1, 0, 0], [0, 1, 2, 1], None),  # not all of that class
        ([1, 1, 0, 1], [0, 1, 2, 1], None),  # two classes
        ([1, 1], [1, 1], None),  # no other class to be wrong on
        ([0, 0], [0, 1], None),
        ([], [], None),
    ],
)
def test_a_constant_answer_as_right_and_wrong_show_it(right, labels, expected) -> None:
    assert constant_answer(right, labels) == expected
