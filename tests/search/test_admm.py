"""ADMM: its updates by hand, its fixed points, and what the result must hold to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.deploy import load_slim, save_slim, slim
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    EpochRecord,
    Natural,
    OptimizerSpec,
    StepResult,
    Validation,
    tally,
)
from robustprune.search import Ticket, finetune_ticket, prune_admm
from robustprune.search.admm import Admm, soft_threshold
from robustprune.sparsity import bits_of, count_kept, group_weight, keep_best, maskable_layers

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


@dataclass(frozen=True, kw_only=True)
class Peak(Validation):
    """Finds one epoch the best."""

    at: int
    seen: ClassVar[list[int]] = []  # no field, which would belong to the call

    def measured(self, model: nn.Module, device: torch.device) -> tuple[float, None, float]:
        self.seen.append(len(self.seen) + 1)
        return 1.0 - abs(self.seen[-1] - self.at) / 100, None, 0.0


@dataclass(frozen=True, kw_only=True)
class Look(Validation):
    """Keeps the weights that it is given."""

    found: ClassVar[list[dict[str, Tensor]]] = []

    def measured(self, model: nn.Module, device: torch.device) -> tuple[float, None, float]:
        self.found.append({name: value.clone() for name, value in model.state_dict().items()})
        return 0.0, None, 0.0


@pytest.mark.parametrize("average", [None, 0.5])
@pytest.mark.parametrize(
    "asked", [{"density": 0.3}, {"l1": 1e-2}, {"density": 0.3, "bits": 2, "hold": 0.7}]
)
def test_validation_measures_what_would_be_returned(
    make_network: Callable[[], nn.Module], batches: Batches, asked: dict, average: float | None
) -> None:
    """And the training goes on as if nobody had looked."""

    def go(**loop: object) -> Ticket:
        return prune_admm(
            make_network(), batches, objective=Natural(), epochs=3, every=1, rho=0.1,
            optimizer=OptimizerSpec(lr=0.05), average=average, quiet=True, **asked, **loop,
        )  # fmt: skip

    Look.found.clear()
    seen, alone = go(validation=Look(loader=batches)), go()
    assert len(Look.found) == 3
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, Look.found[-1][name]), name
        assert torch.equal(value, seen.model.state_dict()[name]), name


@pytest.mark.parametrize("stopped", [None, 5])
@pytest.mark.parametrize("asked", [{"density": 0.3}, {"l1": 1e-2}])
def test_a_chosen_epoch_is_as_if_the_training_had_ended_there(
    make_network: Callable[[], nn.Module], batches: Batches, tmp_path: Path,
    asked: dict, stopped: int | None,
) -> None:  # fmt: skip
    """The duals of the chosen epoch make the mask, and not those of the last one."""

    class Stop(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == stopped:
            raise Stop

    def go(epochs: int, **loop: object) -> Ticket:
        return prune_admm(
            make_network(), batches, objective=Natural(), epochs=epochs, every=1, rho=0.1,
            optimizer=OptimizerSpec(lr=0.05, schedule="constant"), quiet=True, **asked, **loop,
        )  # fmt: skip

    Peak.seen.clear()
    check = Peak(loader=batches, at=4)
    if stopped is None:
        found = go(8, validation=check)
    else:
        place = Checkpoint(tmp_path / "c.safetensors", seconds=0)
        with pytest.raises(Stop):
            go(8, validation=check, checkpoint=place, on_epoch=stop)
        found = go(8, validation=check, checkpoint=place)
    ended = go(4)
    assert found.masks == ended.masks
    for name, value in ended.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name]), name
    assert go(8).masks != ended.masks


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


def test_the_prox_of_bits_by_hand() -> None:
    """Of six weights the four largest are kept, as two values; the others are zero."""
    layer = vector(3.0, 1.0, -2.0, 5.0, -4.0, 0.5)
    layers = {"weight": layer}
    admm = Admm(
        layers,
        lambda v, rho: keep_best({n: t**2 for n, t in v.items()}, layers, density=4 / 6),
        l1=None, rho=1.0, rho_growth=1.0, rho_max=1.0, every=1, bits=1, hold=2,
    )  # fmt: skip
    assert admm.z["weight"].tolist() == [[4.0, 0.0, -3.0, 4.0, -3.0, 0.0]]
    figures = admm.after_epoch(layer, 1)
    assert figures["bits"] == 2 * 32 + 4 + 6
    assert admm.u["weight"].tolist() == [[-1.0, 1.0, 1.0, 1.0, -1.0, 0.5]]
    # W + U = 2, 2, −1, 6, −5, 1; Z = 10/3, 10/3, 0, 10/3, −5, 0; then W + U = 5/3, −1/3, −3, 23/3,
    # −4, 3/2
    admm.after_epoch(layer, 2)
    assert admm.held["weight"].tolist() == [[True, False, True, True, True, False]]
    assert layer.weight.tolist() == [[3.0, 0.0, -2.0, 5.0, -4.0, 0.0]]
    assert admm.u["weight"].abs().sum() == 0
    assert admm.z["weight"].tolist() == [[4.0, 0.0, -3.0, 4.0, -3.0, 0.0]]
    with torch.no_grad():
        layer.weight.fill_(7.0)
    admm.after_step(layer, 9)
    assert layer.weight.tolist() == [[7.0, 0.0, 7.0, 7.0, 7.0, 0.0]]
    assert admm.masks(layer)["weight"].tolist() == [[True, False, True, True, True, False]]


@pytest.mark.parametrize(
    ("pattern", "allocate", "bits"),
    [
        ("element", "layer", 2),
        ("element", "global", 4),
        ("filter", "layer", 1),
        ("2:4", "layer", 3),
    ],
)
def test_bits_limit_the_values_of_each_layer(
    make_network: Callable[[], nn.Module], batches: Batches, tmp_path: Path,
    pattern: str, allocate: str, bits: int,
) -> None:  # fmt: skip
    network = make_network()
    ticket = prune_admm(
        network, batches, density=0.5, attack=ATTACK, epochs=4, every=1, rho=0.1, pattern=pattern,
        allocate=allocate, bits=bits, quiet=True,  # type: ignore[arg-type]
    )  # fmt: skip
    save_slim(tmp_path / "n.safetensors", ticket.model)
    slimmed = slim(ticket.model, ticket.masks, batches[0][0])
    for deployed in (ticket.model, load_slim(tmp_path / "n.safetensors"), slimmed):
        weights = [p for p in deployed.parameters() if p.ndim > 1]
        assert len(weights) == len(ticket.masks)
        for weight in weights:
            values = weight.detach().unique()
            assert len(values[values != 0]) <= 2**bits
    kept, total = 0, 0
    for name, layer in maskable_layers(network).items():
        mask, weight = ticket.masks[name], ticket.model.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
        groups = group_weight(layer, pattern)
        inside = int((groups.reduce(mask.float()) > 0).sum())
        kept, total = kept + inside, total + groups.number
        if allocate == "layer":
            assert inside == (groups.fixed or count_kept(0.5, groups.number))
    assert allocate == "layer" or kept == count_kept(0.5, total)
    sizes = [bits_of(ticket.model.get_parameter(n), m) for n, m in ticket.masks.items()]
    assert sum(sizes) == ticket.history[-1].figures["bits"] or pattern == "2:4"


def test_the_second_half_trains_what_is_left_towards_its_values(
    make_network: Callable[[], nn.Module], batches: Batches
) -> None:
    """W is near its 2² values before it is put on them, and the network works with them."""
    ticket = prune_admm(
        make_network(), batches, density=0.3, objective=Natural(), epochs=40, every=2, rho=0.05,
        rho_growth=2.0, rho_max=10.0, optimizer=OptimizerSpec(lr=0.05, weight_decay=0.0), bits=2,
        quiet=True,
    )  # fmt: skip
    gaps = [r.figures["primal"] for r in ticket.history if "primal" in r.figures]
    assert gaps[-1] < 0.1 < gaps[len(gaps) // 2]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert (ticket.model.eval()(x).argmax(1) == y).float().mean() > 0.8


@pytest.mark.parametrize("epochs", [3, 6])
def test_bits_are_resumed_bit_for_bit(
    make_network: Callable[[], nn.Module], batches: Batches, tmp_path: Path, epochs: int
) -> None:
    """Stopped before and after the mask is held, which is after epoch 4."""

    class Stop(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == epochs:
            raise Stop

    options: dict = {
        "density": 0.4, "objective": Natural(), "epochs": 8, "every": 2, "bits": 2, "quiet": True
    }  # fmt: skip
    whole = prune_admm(make_network(), batches, **options)
    place = Checkpoint(tmp_path / "c.safetensors", seconds=0)
    with pytest.raises(Stop):
        prune_admm(make_network(), batches, **options, checkpoint=place, on_epoch=stop)
    resumed = prune_admm(make_network(), batches, **options, checkpoint=place)
    assert resumed.masks == whole.masks
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits=0 must be a whole number from 1 to 16, or None"),
        ({"bits": 2.5}, r"bits=2\.5 must be a whole number"),
        ({"bits": True}, "bits=True must be a whole number"),
        ({"hold": 0.3}, "hold=0.3 has no effect; leave it at 0.5: without `bits`"),
        ({"bits": 2, "hold": 1.0}, "hold=1.0 of epochs=4 must leave epochs"),
        ({"bits": 2, "hold": 0.01}, "hold=0.01 of epochs=4 must leave epochs"),
        ({"bits": 2, "density": None, "l1": 0.1}, "bits=2 goes with `density`"),
    ],
)
def test_bits_out_of_range_are_refused(
    make_network: Callable[[], nn.Module], batches: Batches, options: dict, message: str
) -> None:
    given = {"density": 0.5, "attack": ATTACK, "epochs": 4, "every": 1, **options}
    with pytest.raises(ValueError, match=message):
        prune_admm(make_network(), batches, **given)
