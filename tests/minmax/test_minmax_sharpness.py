"""Adversarial weight perturbation, against its two steps written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Awp,
    Certified,
    Checkpoint,
    Free,
    FreeLB,
    Gaussian,
    Iad,
    Mart,
    Natural,
    Objective,
    OnAttacked,
    OptimizerSpec,
    Rslad,
    Trades,
    TrainingDiverged,
    set_masks,
    train,
)
from robustprune.minmax.sharpness import loss_of_step
from robustprune.search import (
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
)
from robustprune.search.twin import make_twins
from robustprune.sparsity import MaskSet, apply_masks, maskable_layers

THREAT = ThreatModel("linf", 0.2)
PGD_2 = PGD(THREAT, steps=2, seed=0)
SPEC = OptimizerSpec(lr=0.1, schedule="constant", weight_decay=0.01)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(number: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8 * number, 5, generator=generator)
    return list(zip(x.split(8), (torch.arange(8 * number) % 3).split(8), strict=True))


def half(model: nn.Module) -> MaskSet:
    generator = torch.Generator().manual_seed(1)
    return MaskSet(
        {
            name: torch.rand(model.get_parameter(name).shape, generator=generator) < 0.5
            for name in ("0.weight", "3.weight")
        }
    )


def trained(objective: Objective, *, masked: bool = True, **loop: Any) -> nn.Module:
    model = network()
    if masked:
        apply_masks(model, half(model))
    options: dict[str, Any] = {"optimizer": SPEC, "epochs": 2, "quiet": True, **loop}
    torch.manual_seed(3)
    train(model, batches(), objective, **options)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_is_that_of_the_paper_written_out(masked: bool) -> None:
    """x' at w; v = γ ‖w‖ g/‖g‖ in each layer; the gradient at w + v, with the decay of w."""
    ((x, y),) = batches(1)
    gamma, model = 0.3, network()
    masks = (
        half(model) if masked else MaskSet({n: torch.ones_like(m) for n, m in half(model).items()})
    )
    expected = copy.deepcopy(model)
    for name, mask in masks.items():
        expected.get_parameter(name).data.mul_(mask)
    x_adv = PGD_2(expected, x, y)

    def gradients(at: nn.Module) -> dict[str, Tensor]:
        twin = copy.deepcopy(at).train()
        F.cross_entropy(twin(x_adv), y).backward()
        return {name: p.grad for name, p in twin.named_parameters()}  # type: ignore[misc]

    first, moved = gradients(expected), copy.deepcopy(expected)
    for name, mask in masks.items():
        weight, gradient = expected.get_parameter(name).detach(), first[name] * mask
        v = gamma * weight.norm() * gradient / gradient.norm()
        assert float(v.norm()) == pytest.approx(gamma * float(weight.norm()), rel=1e-5)
        moved.get_parameter(name).data.add_(v)
    second = gradients(moved)
    statistics = copy.deepcopy(moved).train()
    statistics(x_adv)
    for name, parameter in expected.named_parameters():
        gradient = second[name] * masks[name] if name in masks else second[name]
        parameter.data -= 0.1 * (gradient + 0.01 * parameter.data)

    apply_masks(model, masks)
    train(model, [(x, y)], Awp(Adversarial(PGD_2), gamma), optimizer=SPEC, epochs=1, quiet=True)
    for name, mask in masks.items():
        found = model.get_submodule(name[0]).weight
        torch.testing.assert_close(found, expected.get_parameter(name))
        assert not bool(found[~mask].any())
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        torch.testing.assert_close(model.get_parameter(name), expected.get_parameter(name))
    # one step of the running statistics, at w + v
    torch.testing.assert_close(model[1].running_mean, statistics[1].running_mean)
    assert int(model[1].num_batches_tracked) == 1


OBJECTIVES: list[Callable[[], Objective]] = [
    Natural,
    lambda: Adversarial(PGD(THREAT, steps=2)),
    lambda: Trades(PGD(THREAT, steps=2)),
    lambda: Mart(PGD(THREAT, steps=2)),
    lambda: Gaussian(0.1),
    lambda: FreeLB(PGD(THREAT, steps=2)),
    lambda: Certified(THREAT, warmup=1.0),
    lambda: Rslad(network(1), PGD(THREAT, steps=2)),
    lambda: Iad(network(1), PGD(THREAT, steps=2)),
    lambda: OnAttacked(PGD(THREAT, steps=1), Trades(PGD(THREAT, steps=1))),
    lambda: lambda model, x, y, epoch: Natural()(model, x, y, epoch),
]


@pytest.mark.parametrize("make", OBJECTIVES)
def test_gamma_zero_is_the_bare_objective_bit_for_bit(make: Callable[[], Objective]) -> None:
    bare = trained(make())
    assert same(trained(Awp(make(), gamma=0.0)), bare)
    assert same(trained(Awp(make(), start=2.0)), bare)
    perturbed = trained(Awp(make(), gamma=0.05))
    assert not same(perturbed, bare)
    assert all(bool(value.isfinite().all()) for value in perturbed.state_dict().values())


@pytest.mark.parametrize("make", [OBJECTIVES[1], OBJECTIVES[2], OBJECTIVES[7]])
def test_the_attack_is_made_once(
    make: Callable[[], Objective], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    whole = PGD.__call__
    monkeypatch.setattr(PGD, "__call__", lambda *a: (calls.append(1), whole(*a))[1])
    trained(Awp(make(), gamma=0.05), epochs=1)
    assert len(calls) == 3


def test_weights_come_back_bit_for_bit_and_after_an_error_too() -> None:
    model, ((x, y),) = network(), batches(1)
    apply_masks(model, half(model))
    before = copy.deepcopy(model.state_dict())
    moving = list(model.parameters())
    with loss_of_step(Awp(Adversarial(PGD_2), 0.3), model, moving, x, y, 1.0) as loss:
        state = model.state_dict()
        moved = [name for name, value in state.items() if not torch.equal(value, before[name])]
        assert moved == ["0.parametrizations.weight.original", "3.parametrizations.weight.original"]
        loss(model).loss.backward()  # type: ignore[no-untyped-call]
    # only the statistics of the step itself are left
    left = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert left == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    model.load_state_dict(before)
    with (
        pytest.raises(KeyboardInterrupt),
        loss_of_step(Awp(Natural(), 0.3), model, moving, x, y, 1.0),
    ):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_after_a_divergence_the_model_is_as_at_the_start_of_the_epoch() -> None:
    model = network()
    model[3].bias.data[0] = torch.inf
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingDiverged):
        train(model, batches(), Awp(Natural(), 0.5), optimizer=SPEC, epochs=1, quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _projected(model: nn.Module) -> None:
    apply_masks(model, half(model), projected=True)


def _twins(model: nn.Module) -> None:
    make_twins(maskable_layers(model), seed=0)
    set_masks(model, half(network()), torch.optim.SGD(model.parameters()))


@pytest.mark.parametrize("mask", [_projected, _twins])
def test_pruned_weights_have_no_part_in_a_perturbation(mask: Callable[[nn.Module], None]) -> None:
    """Though those of hard thresholding have a gradient, and the second factor of a product is
    there where its weight is pruned."""
    model, ((x, y),) = network(), batches(1)
    mask(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = 0
    with loss_of_step(Awp(Natural(), 0.3), model, list(model.parameters()), x, y, 1.0):
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                kept = half(network())[f"{name[0]}.weight"]
                moved = (parameter - before[name]).detach()
                assert not bool(moved[~kept].any())
                assert float(moved.norm() / before[name][kept].norm()) == pytest.approx(0.3)
                seen += 1
    assert seen == (2 if mask is _projected else 4)


class Replaces(nn.Module):
    """Its running mean is a new tensor after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def test_statistics_that_a_layer_replaces_count_each_batch_once() -> None:
    model, mean = nn.Sequential(Replaces(), nn.Linear(5, 3)), torch.zeros(5)
    train(model, batches(), Awp(Natural(), 0.1), optimizer=SPEC, epochs=1, quiet=True)
    for x, _ in batches():
        mean = 0.9 * mean + 0.1 * x.mean(0)
    torch.testing.assert_close(model[0].mean, mean)


def test_an_objective_is_told_of_its_epochs() -> None:
    class Counts(Natural):
        epochs: ClassVar[list[int]] = []

        def before_epoch(self, model: nn.Module, epoch: int) -> None:
            self.epochs.append(epoch)

    train(network(), batches(), Awp(Counts()), optimizer=SPEC, epochs=2, quiet=True)
    assert Counts.epochs == [0, 1]


def test_a_layer_without_a_gradient_stays_where_it_is() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight.zero_()  # so that no gradient reaches the first layer
    ((x, y),) = batches(1)
    kept = model[0].weight.detach().clone()
    with loss_of_step(Awp(Natural(), 0.3), model, list(model.parameters()), x, y, 1.0):
        assert torch.equal(model[0].weight, kept)
        assert not bool(model[3].weight.any())  # ‖v‖ = γ ‖w‖ = 0


@pytest.mark.parametrize("method", ["hydra", "harp"])
def test_scores_are_perturbed_before_the_mask_is_drawn(method: str) -> None:
    """S2AP: in the loss of a step the mask is that of s + z, and afterwards that of s."""
    seen: list[list[tuple[Tensor, Tensor]]] = []

    def popups(model: nn.Module) -> list[Any]:
        return [m for m in model.modules() if hasattr(m, "score")]

    class Looks:
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Any:
            seen.append([(p.score.detach().clone(), p.mask()) for p in popups(model)])
            layers = [model.get_submodule(name).weight for name in ("0", "3")]
            for layer, popup in zip(layers, popups(model), strict=True):
                assert torch.equal(layer != 0, popup.mask())
            return Natural()(model, x, y, epoch)

    options: dict[str, Any] = {"density": 0.4, "epochs": 1, "optimizer": SPEC, "quiet": True}
    objective = Awp(Looks(), 0.8)
    found = prune_scores(
        network(),
        batches(1),
        objective=objective,
        method=method,
        **options,  # type: ignore[arg-type]
    )
    assert found.masks.density < 0.7
    at, beside = seen[-2:]
    changed = 0
    for (score, mask), (perturbed, other) in zip(at, beside, strict=True):
        size = float((perturbed - score).norm())
        assert size == pytest.approx(0.8 * float(score.norm()), rel=1e-4)
        changed += int((mask != other).sum())
    assert changed > 0


@pytest.mark.parametrize("search", [find_scratch_ticket, prune_admm])
def test_other_searches_take_it_and_leave_their_network_alone(search: Any) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    options: dict[str, Any] = {"density": 0.5, "epochs": 20, "optimizer": SPEC, "quiet": True}
    ticket = search(model, batches(), objective=Awp(Adversarial(PGD_2), 0.05), **options)
    plain = search(model, batches(), objective=Adversarial(PGD_2), **options)
    assert ticket.masks.density == plain.masks.density
    assert not same(ticket.model, plain.model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def tuned(objective: Objective, epochs: int, **loop: Any) -> nn.Module:
    ticket = prune_one_shot(network(), density=0.4)
    torch.manual_seed(4)
    return finetune_ticket(
        ticket, batches(), objective, epochs=epochs, optimizer=SPEC, quiet=True, **loop
    ).model


@pytest.mark.parametrize("amp", [False, True])
def test_it_goes_on_bit_for_bit(amp: bool, tmp_path: Path) -> None:
    def objective(gamma: float = 0.05) -> Objective:
        return Awp(Rslad(network(1), PGD(THREAT, steps=2)), gamma)

    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    tuned(objective(), 2, checkpoint=place, amp=amp)
    assert same(tuned(objective(), 4, checkpoint=place, amp=amp), tuned(objective(), 4, amp=amp))
    with pytest.raises(ValueError, match=r"of another call: objective is .*gamma=0.05"):
        tuned(objective(0.01), 4, checkpoint=place, amp=amp)


def test_it_finds_a_flatter_place() -> None:
    """The loss at the perturbed weights is lower after a training that lowers it."""
    losses = []
    for gamma in (0.0, 0.3):
        model = trained(Awp(Natural(), gamma), masked=False, epochs=60)
        model.eval()
        worst = []
        for x, y in batches():
            moving = list(model.parameters())
            with loss_of_step(Awp(Natural(), 0.3), model, moving, x, y, 1.0) as loss:
                worst.append(float(loss(model).loss.detach()))
        losses.append(sum(worst))
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Awp(Natural(), gamma=-0.1), "gamma=-0.1 must be at least 0 and finite"),
        (lambda: Awp(Natural(), gamma=math.nan), "gamma=nan must be"),
        (lambda: Awp(Natural(), start=math.inf), "start=inf must be"),
        (lambda: Awp(Free(THREAT)), "Free keeps a state from step to step"),
        (lambda: Awp(Awp(Natural())), "Awp has no effect inside of another objective"),
        (lambda: OnAttacked(PGD_2, Awp(Natural())), "Awp has no effect inside of another"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_it_says_of_its_objective_what_the_loop_asks() -> None:
    assert Awp(Adversarial(PGD_2)).moves_inputs
    assert not Awp(Natural()).moves_inputs
    ((x, y),) = batches(1)
    bare = Adversarial(PGD_2)
    assert torch.equal(Awp(bare).points(network(), x, y, 1.0), bare.points(network(), x, y, 1.0))
