"""Distillation under attack, against the papers' formulas written out example by example."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import FGSM, PGD, ThreatModel
from robustprune.minmax import (
    Ard,
    Checkpoint,
    Iad,
    Objective,
    OnAttacked,
    OptimizerSpec,
    Rslad,
    train,
)
from robustprune.minmax.result import check_objective, points_of
from robustprune.search import (
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_gradual,
    prune_one_shot,
    prune_scores,
)

THREAT = ThreatModel("linf", 0.3)
PGD_3 = PGD(THREAT, steps=3, seed=0)
SPEC = OptimizerSpec(lr=0.05, schedule="constant")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % 3


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]


def kl(taught: list[float], logits: list[float], t: float = 1.0) -> float:
    """KL(softmax(taught/t) ‖ softmax(logits/t)) of one example."""
    p, q = softmax([z / t for z in taught]), softmax([z / t for z in logits])
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


class Answers(nn.Module):
    """Says what it was told for the clean batch, and something else for any other."""

    def __init__(self, x: Tensor, clean: list[list[float]], other: list[list[float]]) -> None:
        super().__init__()
        self.x, self.clean, self.other = x, torch.tensor(clean), torch.tensor(other)
        self.calls: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        same = torch.equal(x, self.x)
        self.calls.append(same)
        return (self.clean if same else self.other) + 0 * x.sum(1, keepdim=True)


X = torch.zeros(2, 4)
Y = torch.tensor([2, 0])
TAUGHT = [[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]]
TAUGHT_ATTACKED = [[0.0, 1.0, -1.0], [3.0, 0.0, 0.0]]
CLEAN = [[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]]
ATTACKED = [[1.0, 0.0, -0.5], [0.0, 2.0, 0.0]]
CROSS_ENTROPY = sum(-math.log(softmax(CLEAN[i])[int(Y[i])]) for i in range(2)) / 2


def by_hand(make: Callable[..., Objective], **options: float) -> tuple[float, Answers]:
    """The loss where both networks' answers are those above, and the teacher that was asked."""
    teacher = Answers(X, TAUGHT, TAUGHT_ATTACKED)
    result = make(teacher, PGD(THREAT, steps=1), **options)(Answers(X, CLEAN, ATTACKED), X, Y, 1.0)
    assert result.adversarial
    assert int(result.right) == 0  # at the attacked points
    return float(result.loss), teacher


@pytest.mark.parametrize(("alpha", "t"), [(1.0, 30.0), (1.0, 1.0), (0.7, 4.0), (0.0, 2.0)])
def test_ard_by_hand(alpha: float, t: float) -> None:
    mean = sum(kl(TAUGHT[i], ATTACKED[i], t) for i in range(2)) / 2
    found, teacher = by_hand(Ard, alpha=alpha, temperature=t)
    assert found == pytest.approx(alpha * t**2 * mean + (1 - alpha) * CROSS_ENTROPY, rel=1e-4)
    assert teacher.calls == [True]  # once a batch, at the clean inputs
    # torch's default, the mean over classes as well, would be a third of it
    softened = (torch.tensor(ATTACKED) / t).log_softmax(1), (torch.tensor(TAUGHT) / t).softmax(1)
    whole = float(F.kl_div(*softened, reduction="batchmean"))
    assert found == pytest.approx(alpha * t**2 * whole + (1 - alpha) * CROSS_ENTROPY, rel=1e-4)


@pytest.mark.parametrize("weight", [1 / 6, 0.0, 0.5, 1.0])
def test_rslad_by_hand(weight: float) -> None:
    robust = sum(kl(TAUGHT[i], ATTACKED[i]) for i in range(2)) / 2
    clean = sum(kl(TAUGHT[i], CLEAN[i]) for i in range(2)) / 2
    found, teacher = by_hand(Rslad, clean=weight)
    assert found == pytest.approx((1 - weight) * robust + weight * clean, rel=1e-5)
    assert teacher.calls == [True]  # for the attack and the loss together
    assert Rslad(teacher, PGD_3).clean == pytest.approx(1 / 6)


@pytest.mark.parametrize(("alpha", "t", "beta"), [(1.0, 1.0, 0.1), (0.6, 3.0, 2.0), (1.0, 2.0, 0)])
def test_iad_by_hand(alpha: float, t: float, beta: float) -> None:
    taught = t**2 * sum(kl(TAUGHT[i], ATTACKED[i], t) for i in range(2)) / 2
    own = 0.0
    for i in range(2):
        doubt = 1 - softmax(TAUGHT_ATTACKED[i])[int(Y[i])] ** beta
        own += doubt * kl(CLEAN[i], ATTACKED[i]) / 2
    options = {"alpha": alpha, "temperature": t, "beta": beta}
    found, teacher = by_hand(Iad, **options)
    rest = (1 - alpha) * CROSS_ENTROPY
    assert found == pytest.approx(alpha * (taught + own) + rest, rel=1e-4)
    assert teacher.calls == [True, False]
    before, teacher = by_hand(Iad, **options, start=2.0)
    assert before == pytest.approx(alpha * taught + rest, rel=1e-4)
    assert teacher.calls == [True]
    if beta == 0:
        assert found == pytest.approx(before)


def test_iad_differentiates_its_own_answer_to_the_clean_example_too() -> None:
    """As in the authors' code, where that answer is not detached."""
    teacher, student, (x, y) = network(1).eval(), network().eval(), batch()
    objective = Iad(teacher, PGD_3, beta=1.0)
    x_adv = objective.points(student, x, y, 1.0)
    objective(student, x, y, 1.0).loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    clean, attacked = student(x), student(x_adv)
    p, q = clean.softmax(1), attacked.log_softmax(1)
    taught = teacher(x).softmax(1).detach()
    doubt = 1 - teacher(x_adv).softmax(1)[torch.arange(12), y].detach()
    own = (doubt * (p * (p.log() - q)).sum(1)).mean()
    ((taught * (taught.log() - q)).sum(1).mean() + own).backward()  # type: ignore[no-untyped-call]
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_rslad_climbs_the_divergence_from_the_teachers_clean_answer() -> None:
    """Its points are those of a PGD that is written out here, and labels take no part."""
    teacher, student, (x, y) = network(1).eval(), network(2).eval(), batch(50)
    objective = Rslad(teacher, PGD(THREAT, steps=4, step_size=0.1, seed=3))
    found = objective.points(student, x, y, 1.0)
    assert torch.equal(found, objective.points(student, x, (y + 1) % 3, 1.0))
    point = THREAT.random_start(x, torch.Generator().manual_seed(3))
    taught = teacher(x).softmax(1).detach()
    for _ in range(4):
        point = point.detach().requires_grad_()
        loss = F.kl_div(student(point).log_softmax(1), taught, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        point = (point + 0.1 * gradient.sign()).clamp(x - 0.3, x + 0.3)
    torch.testing.assert_close(found, point.detach(), atol=1e-5, rtol=0)
    assert all(p.grad is None for p in student.parameters())


@pytest.mark.parametrize("make", [Ard, Rslad, Iad])
@pytest.mark.parametrize("amp", [False, True])
def test_a_teacher_never_changes(make: Callable[..., Objective], amp: bool) -> None:
    teacher, student, loader = network(1), network(), [batch(30)]
    teacher[1].eval()  # a mode that is not that of the whole
    before = copy.deepcopy(teacher.state_dict())
    history = train(
        student, loader, make(teacher, PGD_3), optimizer=SPEC, epochs=20, amp=amp, quiet=True
    )
    assert history[-1].loss < 0.8 * history[0].loss
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [m.training for m in teacher.modules()] == [True, True, False, True, True]
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(p.dtype == torch.float32 for p in student.parameters())


class Foreign(nn.Module):
    """Changes its input in place and returns a tuple."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        x -= 1.0
        x += 1.0
        return self.inner(F.relu(x, inplace=True)), "auxiliary"


@pytest.mark.parametrize("make", [Ard, Rslad, Iad])
def test_foreign_networks_may_teach_and_learn(make: Callable[..., Objective]) -> None:
    (x, y), inner, student = batch(), network(1).eval(), network().eval()
    kept = x.clone()

    def loss(teacher: Any, model: nn.Module) -> float:
        return float(make(teacher, PGD_3)(model, x, y, 1.0).loss.detach())

    found = loss(Foreign(inner), Foreign(student))
    assert torch.equal(x, kept)
    relu = nn.ReLU()
    plain = loss(nn.Sequential(relu, inner), nn.Sequential(relu, student))
    assert found == pytest.approx(plain, rel=1e-5)
    # a teacher need not be a module
    assert loss(lambda x: inner(x.relu()), Foreign(student)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("make", [Ard, Rslad, Iad])
def test_a_distillation_is_an_objective_like_others(make: Callable[..., Objective]) -> None:
    teacher, student, (x, y) = network(1), network(), batch()
    objective = make(teacher, FGSM(THREAT, random_start=True, seed=0))
    check_objective(objective)
    moved = points_of(objective, student, x, y, 1.0)
    assert 0.1 < float((moved - x).abs().max()) <= 0.3 + 1e-6
    wrapped = OnAttacked(FGSM(THREAT), objective)(student, x, y, 1.0)
    assert bool(torch.isfinite(wrapped.loss))
    small = make(teacher, PGD(THREAT, seed=0), warmup=10.0).points(student, x, y, 1.0)  # type: ignore[attr-defined]
    assert float((small - x).abs().max()) <= 0.03 + 1e-6
    assert "Linear" not in repr(objective)


@pytest.mark.parametrize(
    "search",
    [
        find_scratch_ticket,
        prune_admm,
        prune_gradual,
        lambda *a, **o: find_lottery_ticket(*a, rounds=1, **o),
        lambda *a, **o: prune_scores(*a, method="harp", **o),
        lambda model, loader, **o: prune_one_shot(
            model, loader, criterion="snip", density=o["density"], objective=o["objective"]
        ),
    ],
)
def test_every_search_may_be_taught(search: Callable[..., Any]) -> None:
    dense = network()
    before = copy.deepcopy(dense.state_dict())
    ticket = search(
        dense, [batch(30)], density=0.5, objective=Rslad(dense, PGD_3), epochs=20, quiet=True,
        optimizer=SPEC,
    )  # fmt: skip
    assert ticket.masks.density <= 0.6
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def tuned(teacher: nn.Module, epochs: int, **loop: Any) -> Any:
    ticket = prune_one_shot(network(), density=0.3)
    torch.manual_seed(4)
    objective = Rslad(teacher, PGD(THREAT, steps=2))
    loader = [batch(30), batch(20)]
    return finetune_ticket(
        ticket, loader, objective, epochs=epochs, optimizer=SPEC, quiet=True, **loop
    )


def test_a_taught_ticket_goes_on_bit_for_bit_and_with_the_same_teacher_only(
    tmp_path: Path,
) -> None:
    straight = tuned(network(1), 4)
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    tuned(network(1), 2, checkpoint=place)
    resumed = tuned(network(1), 4, checkpoint=place)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="of another call: objective is Rslad"):
        tuned(network(2), 4, checkpoint=place)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ard(network(), PGD_3, alpha=1.5), r"alpha=1.5 must lie in \[0, 1\]"),
        (lambda: Ard(network(), PGD_3, alpha=math.nan), "alpha=nan must lie"),
        (lambda: Ard(network(), PGD_3, temperature=0.0), "temperature=0.0 must be positive"),
        (lambda: Iad(network(), PGD_3, temperature=math.inf), "temperature=inf must be positive"),
        (lambda: Iad(network(), PGD_3, beta=-0.1), "beta=-0.1 must be at least 0"),
        (lambda: Iad(network(), PGD_3, start=math.nan), "start=nan must be"),
        (lambda: Rslad(network(), PGD_3, clean=-0.5), "clean=-0.5 must lie"),
        (lambda: Rslad(network(), PGD_3, warmup=-1.0), "warmup=-1.0 must be"),
        (lambda: Rslad(network(), PGD(THREAT, restarts=2)), "RSLAD makes one whole run .*=2"),
        (lambda: Rslad(network(), PGD(THREAT, loss="dlr")), "RSLAD replaces the attack's loss="),
        (lambda: Rslad(network(), lambda m, x, y: x), "RSLAD climbs .* not function"),  # type: ignore[arg-type]
        (lambda: Rslad(None, PGD_3), "teacher=None is no network; give the trained network"),  # type: ignore[arg-type]
        (lambda: Ard(broken(), PGD_3), "weight 0.weight of the teacher is not finite"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def broken() -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize("make", [Ard, Rslad, Iad])
def test_a_teacher_that_does_not_fit_is_refused(make: Callable[..., Objective]) -> None:
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="the teacher is the very network that is trained"):
        make(model, PGD_3)(nn.DataParallel(model), x, y, 1.0)
    with pytest.raises(ValueError, match=r"teacher's logits have shape \(12, 1\) and the student"):
        make(nn.Linear(4, 1), PGD_3)(model, x, y, 1.0)
    moved = nn.Linear(4, 3)
    objective = make(moved, PGD_3)
    moved.to("meta")
    with pytest.raises(ValueError, match=r"the teacher is on meta and the batch on cpu; call teac"):
        objective(model, x, y, 1.0)
