"""Accuracy under attack, where a linear model says exactly what is right."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from attacks import FAB, FGSM, PGD, EvaluationWarning, Square, ThreatModel
from robustprune.measure import accuracy_curve, constant_answer, evaluate, nearest_adversarial
from robustprune.measure.statistics import expected_proportion, proportion
from robustprune.sparsity import MaskSet, apply_masks

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
    with pytest.raises(ValueError, match="NaN logits for 60 of 60"):
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
    assert constant_answer(right, labels, right) == expected
    assert constant_answer(right, labels, right, [0] * len(right)) is None


@dataclass(frozen=True)
class Cheat:
    """Leaves its own ball: every answer turns."""

    threat: ThreatModel | None

    def __call__(self, model: object, x: Tensor, y: Tensor) -> Tensor:
        return -100 * x


def test_an_attack_that_leaves_its_ball_breaks_what_the_ball_allows() -> None:
    """The projection of the point decides: on a line the nearest boundary is at r."""
    model, x, y, r = linear()

    def far(model: object, x: Tensor, y: Tensor) -> Tensor:
        sign = (linear()[0].weight[1] - linear()[0].weight[0]).detach().sign()
        return x - 100 * (2 * y - 1)[:, None] * sign

    threat = ThreatModel("linf", EPS)
    told = evaluate(model, x, y, {"far": far}, batch_size=60, threat=threat)
    assert torch.equal(told.robust["far"], r > EPS)
    assert told.unchecked == ()
    alone = evaluate(model, x, y, {"far": far}, batch_size=60)
    assert int(alone.robust["far"].sum()) == 0
    assert alone.unchecked == ("far",)
    assert [f.passed for f in alone.findings if f.name == "ball-unchecked"] == [False]
    cheat = evaluate(model, x, y, {"c": Cheat(ThreatModel("linf", 1e-3))}, batch_size=7)
    assert torch.equal(cheat.robust["c"], r > 0)  # none is so near to the boundary
    assert cheat.unchecked == ()


def test_the_nearest_examples_of_other_attacks_count_in_the_ball_alone() -> None:
    model, x, y, r = linear()
    found = evaluate(model, x, y, {"fab": FAB()}, batch_size=60, threat=PGD3.threat)
    assert torch.equal(found.robust["fab"], r > EPS)
    with pytest.raises(ValueError, match="must be a ThreatModel"):
        evaluate(model, x, y, {}, batch_size=60, threat=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="returned NaN or infinity for"):
        evaluate(model, x, y, {"nan": lambda m, x, y: x * torch.nan}, batch_size=60)


def test_gradients_of_zero_are_not_reported_in_silence() -> None:
    """A staircase: PGD stands still, and all that it left standing is flat."""
    model, x, y, _ = linear()

    class Stairs(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return model((z * 2).round() / 2) + 0 * z[:, :2]

    clean = model((x * 2).round() / 2).argmax(1) == y
    with pytest.warns(EvaluationWarning, match="^zero-gradients: "):
        outcome = evaluate(Stairs(), x, y, {"pgd": PGD3}, batch_size=25)
    assert torch.equal(outcome.flat, outcome.worst)
    assert 0 < int(outcome.flat.sum()) <= int(clean.sum())
    assert not outcome.findings[0].passed
    blind = evaluate(Stairs(), x, y, {"square": Square(PGD3.threat, queries=5)}, batch_size=25)
    assert not bool(blind.flat.any())  # it follows no gradient
    fine = evaluate(model, x, y, {"pgd": PGD3}, batch_size=60)
    assert all(finding.passed for finding in fine.findings)


def test_classes_that_are_ruled_out_are_answers_like_any_other() -> None:
    model, x, y, r = linear()

    def three(z: Tensor) -> Tensor:
        return nn.functional.pad(model(z), (0, 1), value=-torch.inf)

    class Padded(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return three(z)

    outcome = evaluate(Padded(), x, y, {"pgd": PGD3}, batch_size=60)
    assert torch.equal(outcome.worst, r > EPS)


@pytest.mark.parametrize("batch_size", [7, 60])
def test_one_radius_an_example_is_kept_through_batches(batch_size: int) -> None:
    model, x, y, r = linear()
    eps = torch.linspace(0, 1, 60)
    threat = ThreatModel("linf", eps)
    outcome = evaluate(model, x, y, {"fgsm": FGSM(threat)}, batch_size=batch_size)
    assert torch.equal(outcome.robust["fgsm"], (r > 0) & (r > eps))
    told = evaluate(model, x, y, {"fab": FAB()}, batch_size=batch_size, threat=threat)
    assert torch.equal(told.robust["fab"], outcome.robust["fgsm"])


def test_tensors_and_calls_of_inference_mode_are_measured() -> None:
    """With masks, which are computed once for the whole evaluation."""
    model, x, y, _ = linear()
    masked = nn.Sequential(model)
    apply_masks(masked, MaskSet({"0.weight": torch.ones(2, 5, dtype=torch.bool)}))
    right = evaluate(model, x, y, {"pgd": PGD3}, batch_size=25)
    with torch.inference_mode():
        inside_x, inside_y = x.clone(), y.clone()
        inside = evaluate(masked, inside_x, inside_y, {"pgd": PGD3}, batch_size=25)
        near = nearest_adversarial(masked, inside_x, inside_y, PGD3.threat, batch_size=25)
    outside = evaluate(masked, inside_x, inside_y, {"pgd": PGD3}, batch_size=25)
    for outcome in (inside, outside):
        assert torch.equal(outcome.worst, right.worst)
    assert torch.equal(near.r, nearest_adversarial(model, x, y, PGD3.threat, batch_size=25).r)


def test_a_forward_in_place_is_measured_as_its_twin() -> None:
    """Bit for bit, with a module that writes on its input and returns more than its logits."""
    model, x, y, _ = linear()

    class Twin(nn.Module):
        def forward(self, z: Tensor) -> object:
            return model(z - 0.1)

    class InPlace(nn.Module):
        def forward(self, z: Tensor) -> object:
            z -= 0.1
            return {"logits": model(z), "hidden": z}

    given, attacks = x.clone(), {"pgd": PGD3, "square": Square(PGD3.threat, queries=9, seed=0)}
    found = evaluate(InPlace(), given, y, attacks, batch_size=25)
    right = evaluate(Twin(), x, y, attacks, batch_size=25)
    assert torch.equal(given, x)
    assert torch.equal(found.clean, right.clean)
    assert all(torch.equal(found.robust[name], right.robust[name]) for name in attacks)
    near, true = (
        nearest_adversarial(one, given, y, PGD3.threat, batch_size=30).r
        for one in (InPlace(), Twin())
    )
    assert torch.equal(near, true)
