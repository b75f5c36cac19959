"""Outer objectives, against the formulas of their papers written out."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import APGD, FGSM, PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Certified,
    Free,
    FreeLB,
    Gaussian,
    Mart,
    Natural,
    OptimizerSpec,
    Repeated,
    Trades,
    train,
)
from robustprune.minmax.objectives import divergence
from robustprune.minmax.result import StepResult, check_objective

THREAT = ThreatModel("linf", 0.3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % 3


def test_divergence_by_definition() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    assert float(divergence(p.log(), q.log() + 3)) == pytest.approx(0.25 * 0.6931472)
    assert float(divergence(p.log(), p.log())) == pytest.approx(0.0, abs=1e-7)


def test_trades_is_clean_loss_plus_weighted_divergence() -> None:
    model, (x, y) = network(), batch()
    attack = PGD(THREAT, steps=5, seed=0)
    result = Trades(attack, beta=2.0)(model, x, y, 1.0)
    clean = model(x)
    attacked = model(Trades(attack, beta=2.0).points(model, x, y, 1.0))
    p, q = clean.softmax(1), attacked.softmax(1)
    expected = F.cross_entropy(clean, y) + 2.0 * (p * (p / q).log()).sum(1).mean()
    assert float(result.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert int(result.right) == int((attacked.argmax(1) == y).sum())
    assert result.adversarial


def test_trades_attacks_the_divergence_itself() -> None:
    """Its inner maximum is at least as far from p(x) as the points a cross-entropy attack finds,
    and both are inside the ball."""
    model, (x, y) = network(), batch(200)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return model(x)

    Trades(PGD(THREAT, steps=20, seed=0))(Spy(), x, y, 1.0)
    own = seen[-1]
    assert float((own - x).abs().max()) <= 0.3
    other = PGD(THREAT, steps=20, seed=0)(model, x, y)
    clean = model(x).detach()
    with torch.no_grad():
        far, near = (float(divergence(clean, model(z)).mean()) for z in (own, other))
    assert far > near


def test_trades_needs_a_random_start() -> None:
    with pytest.raises(ValueError, match="needs random_start"):
        Trades(PGD(THREAT, random_start=False))


def test_mart_by_its_equations() -> None:
    model, (x, y) = network(), batch()
    attack = PGD(THREAT, steps=3, seed=0)
    result = Mart(attack, weight=5.0)(model, x, y, 1.0)
    p, q = model(x).softmax(1), model(attack(model, x, y)).softmax(1)
    terms = []
    for i, label in enumerate(y.tolist()):
        wrong = max(float(q[i, k].detach()) for k in range(3) if k != label)
        boosted = -q[i, label].log() - torch.tensor(1 - wrong).log()
        terms.append(boosted + 5 * (1 - p[i, label]) * (p[i] * (p[i] / q[i]).log()).sum())
    expected = torch.stack(terms).mean().detach()
    assert float(result.loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_gaussian_noise_has_its_size() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x[:, :3]

    x = torch.zeros(4000, 4)
    torch.manual_seed(0)
    result = Gaussian(0.5)(Spy(), x, torch.zeros(4000, dtype=torch.int64), 1.0)
    assert float(seen[0].std()) == pytest.approx(0.5, rel=0.02)
    assert not result.adversarial
    with pytest.raises(ValueError, match="sigma=0 must be positive"):
        Gaussian(0)


def test_free_follows_the_gradient_of_the_outer_pass() -> None:
    """On a linear model with one weight moving by nothing (lr 0) δ is −ε sign(w_y) from the second
    replay on, and it is carried to the next batch."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            out: Tensor = self.inner(x)
            return out

    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    loader = Repeated([(x, y), (x + 1, y)], 3)
    assert len(loader) == 6
    objective, spy, deltas = Free(ThreatModel("linf", 0.5)), Spy(), []
    for step, (xs, ys) in enumerate(loader):
        result = objective(spy, xs, ys, step / 6)
        deltas.append(seen[-1] - xs)
        result.loss.backward()  # type: ignore[no-untyped-call]
    worst = torch.tensor([-0.5, 0.5]).expand(3, 2)
    assert torch.equal(deltas[0], torch.zeros(3, 2))
    for delta in deltas[1:]:
        assert torch.allclose(delta, worst, atol=1e-6)
    objective(spy, x, y, 1.0)  # a new epoch starts at zero
    assert torch.equal(seen[-1], x)


def test_free_costs_one_forward_pass_a_step() -> None:
    calls = []
    model = network()
    model.register_forward_hook(lambda *_: calls.append(1))
    x, y = batch()
    objective = Free(THREAT)
    for _ in range(3):
        objective(model, x, y, 0.0).loss.backward()  # type: ignore[no-untyped-call]
    assert len(calls) == 3
    objective(model, x, y, 0.0)
    with pytest.raises(RuntimeError, match="needs a backward pass between two calls"):
        objective(model, x, y, 0.0)


@pytest.mark.parametrize(
    "objective",
    [
        Trades(PGD(THREAT, steps=2)),
        Mart(PGD(THREAT, steps=2)),
        Gaussian(0.2),
        Free(THREAT),
    ],
)
def test_training_with_each_objective_lowers_it(objective: object) -> None:
    torch.manual_seed(0)
    loader = Repeated([batch(30)], 2)
    spec = OptimizerSpec(lr=0.2, schedule="constant")
    history = train(network(), loader, objective, optimizer=spec, epochs=25)  # type: ignore[arg-type]
    assert history[-1].loss < 0.92 * history[0].loss


def test_repeated_keeps_the_place_of_its_loader() -> None:
    class Loader(list):  # type: ignore[type-arg]
        place = 0

        def state_dict(self) -> dict[str, Tensor]:
            return {"place": torch.tensor(self.place)}

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            self.place = int(state["place"])

    inner = Loader([batch()])
    repeated = Repeated(inner, 2)
    next(iter(repeated))
    inner.place = 5
    state = repeated.state_dict()
    inner.place = 0
    other = Repeated(inner, 2)
    other.load_state_dict(state)
    assert inner.place == 5
    ((x, y),) = list(other)  # one repeat is left, of the last batch
    assert torch.equal(x, batch()[0])
    assert torch.equal(y, batch()[1])
    assert len(list(other)) == 2
    assert Repeated([batch()], 2).state_dict() == {}
    assert len(list(Repeated((batch() for _ in range(3)), 2))) == 6  # has no length
    with pytest.raises(ValueError, match="times=0 must be at least 1"):
        Repeated(inner, 0)


PLAIN = PGD(THREAT, steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trades(PLAIN, beta=-6.0), "beta=-6.0 must be at least 0 and finite"),
        (lambda: Trades(PLAIN, beta=math.nan), "beta=nan must be"),
        (lambda: Trades(PLAIN, warmup=-1.0), "warmup=-1.0 must be"),
        (lambda: Trades(replace(PLAIN, restarts=2)), "TRADES makes one whole run .* restarts=2"),
        (lambda: Trades(replace(PLAIN, early_stop=True)), "TRADES .* early_stop=True; set"),
        (lambda: Trades(replace(PLAIN, loss="dlr")), "TRADES replaces the attack's loss='dlr'"),
        (lambda: Trades(APGD(THREAT)), "TRADES climbs .* not APGD"),  # type: ignore[arg-type]
        (lambda: Mart(PLAIN, weight=-1.0), "weight=-1.0 must be"),
        (lambda: Mart(PLAIN, weight=math.inf), "weight=inf must be"),
        (lambda: Mart(PLAIN, warmup=math.nan), "warmup=nan must be"),
        (lambda: Adversarial(PLAIN, warmup=-0.5), "warmup=-0.5 must be"),
        (lambda: Gaussian(math.inf), "sigma=inf must be positive and finite"),
        (lambda: Gaussian(math.nan), "sigma=nan must be positive and finite"),
        (lambda: FreeLB(PLAIN, warmup=-1.0), "warmup=-1.0 must be"),
        (lambda: FreeLB(replace(PLAIN, restarts=2)), "FreeLB makes one whole run"),
        (lambda: FreeLB(replace(PLAIN, momentum=0.5)), "FreeLB climbs .* not momentum=0.5"),
        (lambda: FreeLB(replace(PLAIN, loss="margin")), "FreeLB climbs .* loss='margin'"),
        (lambda: FreeLB(FGSM(THREAT)), "FreeLB needs PGD"),  # type: ignore[arg-type]
        (lambda: Free(THREAT, step_size=0.0), "step_size=0.0 must be positive"),
        (lambda: Free(THREAT, step_size=-0.1), "step_size=-0.1 must be positive"),
        (lambda: Certified(THREAT, warmup=-1.0), "warmup=-1.0 must be"),
        (lambda: Certified(THREAT, warmup=1.0, kappa=math.nan), "kappa=nan must lie"),
    ],
)
def test_options_of_objectives_out_of_range_are_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_seeded_freelb_starts_where_its_seed_says() -> None:
    """One step: the gradient is that at the seed's random start, whatever else was drawn."""
    model, (x, y) = nn.Linear(4, 3), (torch.rand(6, 4), torch.arange(6) % 3)
    objective = FreeLB(PGD(THREAT, steps=1, seed=5))
    start = THREAT.random_start(x, torch.Generator().manual_seed(5))
    for _ in range(2):
        torch.rand(3)
        loss = objective(model, x, y, 1.0).loss
        expected = nn.functional.cross_entropy(model(start), y)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_free_begins_anew_with_each_training_of_one_step() -> None:
    """The rounds of a lottery use one objective; an epoch of one batch is numbered alike in all."""
    x, y = torch.rand(6, 4), torch.arange(6) % 3
    objective, losses = Free(THREAT), []
    for _ in range(2):
        torch.manual_seed(0)
        history = train(
            nn.Linear(4, 3), [(x, y)], objective, optimizer=OptimizerSpec(), epochs=1, quiet=True
        )
        losses.append(history[0].loss)
    assert losses[0] == losses[1]


class Own(nn.Module):
    """An objective may be a module."""

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        return Natural()(model, x, y, epoch)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("pgd", r"objective is 'pgd'; give an object such as Natural\(\), or Adversarial\(PGD"),
        (PGD(THREAT), r"objective is PGD, .* \(model, x, y, epoch\), but Adversarial\(PGD\("),
        (nn.CrossEntropyLoss(), r"objective is CrossEntropyLoss, .* as Natural\(\) does"),
        (None, "objective is None"),
    ],
)
def test_what_is_no_objective_says_what_to_give(objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(nn.Linear(4, 3), [], objective, optimizer=OptimizerSpec(), epochs=1)


def test_objectives_of_all_forms_are_taken() -> None:
    for objective in (Own(), Own().forward, lambda model, x, y, epoch: Natural()(model, x, y, 0)):
        check_objective(objective)
