"""What a search may ask of the loop: the optimizer, dense gradients, and masks that move."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Callback,
    Checkpoint,
    Constraint,
    FreeLB,
    Natural,
    OptimizerSpec,
    Trades,
    Validation,
    masks_of,
    set_masks,
    train,
)
from robustprune.minmax.dense import DenseGradients
from robustprune.sparsity import MaskSet, apply_masks

PGD_2 = PGD(ThreatModel("linf", 0.2), steps=2, seed=0)
SPEC = OptimizerSpec(lr=0.1, schedule="constant")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(number: int = 4) -> list[tuple[Tensor, Tensor]]:
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


class Asks(Callback):
    """Keeps the dense gradients of some steps, and what it is told when."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.told = steps, []  # type: ignore[var-annotated]
        self.gradients: list[dict[str, Tensor]] = []

    def bind(
        self, model: nn.Module, optimizer: Any, steps_per_epoch: int | None, epochs: int
    ) -> None:
        self.optimizer = optimizer
        self.told.append(("bind", steps_per_epoch, epochs))

    def wants_dense_gradients(self, step: int) -> bool:
        return step in self.steps

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.told.append(("dense", len(self.gradients)))
        self.gradients.append(dict(gradients))

    def after_step(self, model: nn.Module, step: int) -> None:
        self.told.append(("step", step))


@pytest.mark.parametrize(
    "objective", [Natural(), Adversarial(PGD_2), Trades(PGD_2), FreeLB(PGD_2)], ids=repr
)
def test_the_dense_gradient_is_that_of_an_unmasked_copy(objective: Any) -> None:
    plain = network()
    masks = half(plain)
    masked = copy.deepcopy(plain)
    apply_masks(masked, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
    ((x, y),) = batches(1)
    asks = Asks(1)
    torch.manual_seed(3)
    train(masked, [(x, y)], objective, optimizer=SPEC, epochs=1, constraint=asks, quiet=True)
    torch.manual_seed(3)
    objective(plain.train(), x, y, 0.5).loss.backward()
    (found,) = asks.gradients
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        expected = plain.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(found[name], expected)
        assert float(expected[~mask].abs().max()) > 1e-4


def test_it_is_taken_once_a_step_and_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    take = DenseGradients._take
    monkeypatch.setattr(
        DenseGradients, "_take", lambda self, n, g: (taken.append(n), take(self, n, g))[1]
    )
    model = network()
    apply_masks(model, half(model))
    asks = Asks(2, 5)
    options: dict[str, Any] = {"optimizer": SPEC, "epochs": 2, "quiet": True}
    train(model, batches(), Adversarial(PGD_2), constraint=asks, **options)
    assert sorted(taken) == ["0.weight"] * 2 + ["3.weight"] * 2
    steps = [("step", number) for number in range(1, 9)]
    expected = [("bind", 4, 2), *steps]
    expected.insert(2, ("dense", 0))
    expected.insert(6, ("dense", 1))
    assert asks.told == expected
    other = network()  # nothing moves for the asking
    apply_masks(other, half(other))
    train(other, batches(), Adversarial(PGD_2), **options)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "spec", [SPEC, OptimizerSpec(name="adam", lr=0.01), OptimizerSpec(name="adamw", lr=0.01)]
)
def test_a_weight_that_comes_back_is_a_new_one(spec: OptimizerSpec) -> None:
    model = network()
    masks = half(model)
    apply_masks(model, MaskSet({name: torch.ones_like(mask) for name, mask in masks.items()}))
    asks = Asks()
    train(model, batches(), Natural(), optimizer=spec, epochs=1, constraint=asks, quiet=True)
    set_masks(model, masks, asks.optimizer)
    assert masks_of(model) == masks
    grown = MaskSet(
        {name: mask | (torch.arange(mask.shape[1]) < 2) for name, mask in masks.items()}
    )
    x = batches()[0][0]
    before = model.eval()(x)
    kept = {weight: copy.deepcopy(state) for weight, state in asks.optimizer.state.items()}
    set_masks(model, grown, asks.optimizer)
    assert torch.equal(model(x), before)  # growth at zero
    parameters = dict(model.named_parameters())
    for name in masks:
        layer, _, leaf = name.rpartition(".")
        parameter = parameters[f"{layer}.parametrizations.{leaf}.original"]
        new = grown[name] & ~masks[name]
        assert bool(new.any())
        assert not bool(parameter[new].any())
        for key, value in asks.optimizer.state[parameter].items():
            if value is not None and value.shape == new.shape:
                assert not bool(value[new].any()), key
                assert torch.equal(value[~new], kept[parameter][key][~new])
                assert bool(kept[parameter][key][new].any())
    with pytest.raises(ValueError, match=r"'0\.bias' is not masked; masked are 0\.weight, 3"):
        set_masks(model, MaskSet({"0.bias": torch.ones(8).bool()}), asks.optimizer)


class Wanders(Constraint):
    """After each step every layer loses its smallest weight and grows another: the one of the
    largest dense gradient, or a random one."""

    def __init__(self, *, dense: bool) -> None:
        self.dense, self.seen = dense, []  # type: ignore[var-annotated]

    def bind(self, model: nn.Module, optimizer: Any, *_: Any) -> None:
        self.optimizer = optimizer

    def wants_dense_gradients(self, step: int) -> bool:
        return self.dense

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.gradients = gradients

    def masks(self, model: nn.Module) -> MaskSet:
        return masks_of(model)

    def after_step(self, model: nn.Module, step: int) -> None:
        new = {}
        for name, mask in masks_of(model).items():
            worth = model.get_submodule(name[:1]).weight.detach().abs()  # type: ignore[operator, union-attr]
            generator = torch.Generator().manual_seed(step)
            grow = self.gradients[name].abs() if self.dense else None
            grow = torch.rand(mask.shape, generator=generator) if grow is None else grow
            flat = mask.flatten()
            born = grow.flatten().masked_fill(flat, -1.0).argmax()
            flat[worth.flatten().masked_fill(~flat, torch.inf).argmin()] = False
            flat[born] = True
            new[name] = flat.view(mask.shape)
        set_masks(model, MaskSet(new), self.optimizer)
        self.seen.append(MaskSet(new))


def wandering(epochs: int = 3, *, dense: bool = True, **options: Any) -> tuple[nn.Module, Wanders]:
    model, constraint = network(), Wanders(dense=dense)
    apply_masks(model, half(model))
    torch.manual_seed(1)
    train(
        model, batches(), Adversarial(PGD_2), optimizer=SPEC, epochs=epochs, quiet=True,
        constraint=constraint, **options,
    )  # fmt: skip
    return model, constraint


@pytest.mark.parametrize("dense", [True, False])
def test_a_mask_that_moves_goes_on_bit_for_bit(dense: bool, tmp_path: Path) -> None:
    straight, constraint = wandering(dense=dense)
    counts = half(network())
    for masks in constraint.seen:
        assert {n: int(m.sum()) for n, m in masks.items()} == {
            n: int(m.sum()) for n, m in counts.items()
        }
    assert constraint.seen[0] != constraint.seen[-1]
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    wandering(2, dense=dense, checkpoint=place)
    resumed, _ = wandering(3, dense=dense, checkpoint=place)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_masks_under_an_average_and_of_the_best_epoch_are_read_from_the_model() -> None:
    model, constraint = wandering(average=0.9)
    assert masks_of(model) == constraint.seen[-1]
    assert all(mask.dtype == torch.bool for _, mask in model.named_buffers() if mask.ndim == 2)

    class Falls:
        """The first epoch is the best one."""

        def __init__(self) -> None:
            self.calls = 0

        def __iter__(self) -> Any:
            self.calls += 1
            x = batches()[0][0]
            with torch.no_grad():
                best = model(x).argmax(1)
            yield (x, best if self.calls == 1 else (best + 1) % 3)

    model = network()
    apply_masks(model, half(model))
    constraint = Wanders(dense=True)
    train(
        model, batches(), Natural(), optimizer=SPEC, epochs=3, quiet=True,
        constraint=constraint, validation=Validation(loader=Falls()),  # type: ignore[arg-type]
    )  # fmt: skip
    assert masks_of(model) == constraint.seen[3]
    assert masks_of(model) != constraint.seen[-1]
