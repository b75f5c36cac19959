"""ADMM: its updates by hand, its fixed points, and what the result must hold to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, Natural, OptimizerSpec, StepResult, tally
from robustprune.search import finetune_ticket, prune_admm
from robustprune.search.admm import Admm, soft_threshold
from robustprune.sparsity import count_kept, group_weight, keep_best, maskable_layers

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2)
Batches = list[tuple[Tensor, Tensor]]


def vector(*values: float) -> nn.Linear:
    layer = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def test_one_update_by_hand() -> None:
    layer = vector(3.0, 1.0, -2.0)
    layers = {"weight": layer}
    admm = Admm(
        layers,
        lambda v, rho: keep_best({n: t**2 for n, t in v.items()}, layers, density=2 / 3),
        l1=None,
        rho=0.5,
        rho_growth=2.0,
        rho_max=10.0,
        every=2,
    )
    assert admm.z["weight"].tolist() == [[3.0, 0.0, -2.0]]
    # 0.5/2 · (0 + 1 + 0), and its gradient ρ (W − Z + U)
    penalty = admm.penalty(layer)
    assert float(penalty.detach()) == pytest.approx(0.25)
    assert torch.autograd.grad(penalty, layer.weight)[0].tolist() == [[0.0, 0.5, 0.0]]
    assert admm.after_epoch(layer, 1) == {}
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, -2.0]]))
    figures = admm.after_epoch(layer, 2)
    assert admm.z["weight"].tolist() == [[0.0, 2.0, -2.0]]
    # U ← U + W − Z = (1, 0, 0), halved because ρ doubles: ρU, the dual, stays
    assert admm.u["weight"].tolist() == [[0.5, 0.0, 0.0]]
    assert not admm.u["weight"].requires_grad
    assert figures == {
        "primal": pytest.approx(1 / 3),
        "dual": pytest.approx(0.5 * 13**0.5 / 3),
        "rho": 0.5,
    }
    assert admm.rho == 1.0


def test_soft_threshold_is_the_proximal_map() -> None:
    v = torch.tensor([-2.0, -0.3, 0.0, 0.4, 1.5])
    z = soft_threshold({"v": v}, 0.5)["v"]
    assert z.tolist() == pytest.approx([-1.5, 0.0, 0.0, 0.0, 1.0])
    grid = torch.linspace(-3, 3, 60001)
    for value, found in zip(v, z, strict=True):
        cost = 0.5 * grid.abs() + 0.5 * (grid - value) ** 2
        assert float(grid[cost.argmin()]) == pytest.approx(float(found), abs=3e-4)


def test_the_l1_form_solves_the_lasso() -> None:
    """min ½‖w − a‖² + λ‖w‖₁ has the solution soft(a, λ); W and Z must both arrive there."""
    target, lam = torch.tensor([[2.0, 0.3, -1.0, 0.1]]), 0.5

    def quadratic(model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        loss = 0.5 * ((model[0].weight[:1] - target) ** 2).sum()  # type: ignore[index]
        loss = loss + 0.5 * (model[0].weight[1:] ** 2).sum()  # type: ignore[index]
        return StepResult(loss, *tally(model(x), y))

    network = nn.Sequential(nn.Linear(4, 2, bias=False))
    ticket = prune_admm(
        network,
        [(torch.randn(2, 4), torch.arange(2))] * 10,
        l1=lam,
        objective=quadratic,
        epochs=60,
        every=1,
        rho=1.0,
        rho_growth=1.0,
        optimizer=OptimizerSpec(lr=0.3, momentum=0.0, weight_decay=0.0, schedule="constant"),
        quiet=True,
    )
    assert ticket.masks["0.weight"][0].tolist() == [True, False, True, False]
    weight = ticket.model.get_parameter("0.weight").detach()[0]
    assert weight.tolist() == pytest.approx([1.5, 0.0, -0.5, 0.0], abs=1e-3)
    assert ticket.history[-1].figures["primal"] < 1e-3


@pytest.mark.parametrize(
    ("pattern", "allocate"),
    [
        ("element", "layer"),
        ("element", "erk"),
        ("filter", "layer"),
        ("column", "global"),
        ("kernel", "layer"),
        ("channel", "layer"),
        ("2:4", "layer"),
        ("4x4", "layer"),
    ],
)
def test_the_result_is_in_the_set(
    make_network: Callable[[], nn.Module], batches: Batches, pattern: str, allocate: str
) -> None:
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ticket = prune_admm(
        network,
        batches,
        density=0.5,
        attack=ATTACK,
        epochs=4,
        every=2,
        rho=0.1,
        pattern=pattern,
        allocate=allocate,  # type: ignore[arg-type]
        quiet=True,
    )
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    for name, layer in maskable_layers(network).items():
        mask, weight = ticket.masks[name], ticket.model.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
        groups = group_weight(layer, pattern)
        if allocate == "layer" and groups.fixed is None:
            sums = groups.reduce(mask.float())
            assert int((sums > 0).sum()) == count_kept(0.5, groups.number)
        elif groups.fixed is not None:
            assert int(mask.sum()) == groups.fixed


def test_the_constraint_pulls_the_weights_in(
    make_network: Callable[[], nn.Module], batches: Batches
) -> None:
    ticket = prune_admm(
        make_network(),
        batches,
        density=0.3,
        attack=ATTACK,
        epochs=40,
        every=2,
        rho=0.1,
        optimizer=OptimizerSpec(lr=0.05),
        quiet=True,
    )
    primal = [r.figures["primal"] for r in ticket.history if "primal" in r.figures]
    assert primal[-1] < 0.2 * primal[0]
    tuned = finetune_ticket(
        ticket,
        batches,
        Adversarial(ATTACK),
        epochs=10,
        optimizer=OptimizerSpec(lr=0.05),
        quiet=True,
    )
    assert tuned.masks == ticket.masks
    assert (tuned.history[-1].robust or 0) > 0.9


def test_resuming_goes_on_alike(
    make_network: Callable[[], nn.Module], batches: Batches, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def go(**options: object) -> dict[str, Tensor]:
        torch.manual_seed(3)
        ticket = prune_admm(
            make_network(),
            batches,
            density=0.3,
            attack=ATTACK,
            epochs=6,
            every=2,
            quiet=True,
            **options,  # type: ignore[arg-type]
        )
        return dict(ticket.model.state_dict())

    def stop(record: object) -> None:
        if record.epoch == 3:  # type: ignore[attr-defined]
            raise Stop

    straight = go()
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    with pytest.raises(Stop):
        go(checkpoint=place, on_epoch=stop)
    resumed = go(checkpoint=place)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.5, "l1": 0.1}, "either `density` or `l1`"),
        ({}, "either `density` or `l1`"),
        ({"l1": -1.0}, r"l1=-1\.0 must be positive"),
        ({"density": 2.0}, r"density must be in \(0, 1\]"),
        ({"density": 0.25, "pattern": "2:4"}, "keeps exactly 0.5"),
        ({"density": 0.5, "rho": 0.0}, r"rho=0\.0 must be positive"),
        ({"density": 0.5, "every": 0}, "every=0 must be at least 1, in epochs"),
        ({"density": 0.5}, "every=20 must not exceed epochs=1: Z and U would never be updated"),
        ({"density": 0.5, "rho": 2.0}, r"rho=2\.0 must not exceed rho_max=1\.0"),
        ({"density": 0.5, "rho": float("nan")}, "rho=nan must be positive and finite"),
        ({"density": 0.5, "rho_growth": float("inf")}, "rho_growth=inf must be positive and fin"),
        ({"l1": 0.1, "pattern": "row"}, "pattern='row' has no effect; leave it at 'element'"),
        ({"l1": 0.1, "allocate": "erk"}, "allocate='erk' has no effect; leave it at 'layer'"),
    ],
)
def test_bad_arguments_are_refused(
    make_network: Callable[[], nn.Module], batches: Batches, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prune_admm(make_network(), batches, objective=Natural(), epochs=1, quiet=True, **options)
