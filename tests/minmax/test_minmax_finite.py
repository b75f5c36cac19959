"""A training that leaves the finite numbers stops, says where, and keeps the last good state."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    Constraint,
    Natural,
    OptimizerSpec,
    TrainingDiverged,
    train,
)
from robustprune.minmax.finite import finite
from robustprune.run.checkpoint import load_tensors
from robustprune.sparsity import MaskSet, apply_masks


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Root(nn.Module):
    """√|x|: finite at 0, where its slope is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), middle, nn.Linear(3, 2))


def batches(broken: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    last = x[8:] + broken
    return [(x[:4], y[:4]), (x[4:8], y[4:8]), (last, y[8:])]


def negative(model: nn.Module) -> None:
    model[2].bias.data.fill_(-9.0)  # type: ignore[index, operator, union-attr]


def zero(model: nn.Module) -> None:
    for parameter in model[2].parameters():  # type: ignore[index]
        parameter.data.zero_()


def huge(model: nn.Module) -> None:
    model[4].weight.data[0, 0] = torch.inf  # type: ignore[index, operator, union-attr]


def masked(model: nn.Module) -> None:
    zero(model)
    apply_masks(model, MaskSet({"2.weight": torch.ones(3, 3, dtype=torch.bool)}))


@pytest.mark.parametrize(
    ("middle", "spoil", "named"),
    [
        (Log(), negative, r"the output of 3 \(Log\)"),
        # δ = W₄ᵀ(p − y) · ∞ meets layer 2 first on its way back, and its bias last in the list
        (Root(), zero, r"the gradient of 2\.bias"),
        (nn.Tanh(), huge, r"weight 4\.weight"),
        (Root(), masked, r"the gradient of 2\.weight"),
    ],
)
@pytest.mark.parametrize("attacked", [False, True])
def test_the_first_offending_layer_is_named(
    middle: nn.Module, spoil: Callable[[nn.Module], None], named: str, attacked: bool
) -> None:
    model = network(middle)
    spoil(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if attacked and "gradient" in named:  # the attack meets it first
        named = "the gradient with respect to the input"
    attack = PGD(ThreatModel("linf", 0.1, None), steps=1)
    objective = Adversarial(attack) if attacked else Natural()
    model[0].requires_grad_(not attacked)  # type: ignore[index]
    with pytest.raises(TrainingDiverged, match=f"mine: {named} became non-finite in epoch 1;"):
        train(
            model, batches()[:1], objective, optimizer=OptimizerSpec(lr=0.1), epochs=2, title="mine"
        )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_inputs_are_named_and_the_checkpoint_is_the_last_good_epoch(tmp_path: Path) -> None:
    class Stored:
        """A loader whose last batch may have rotted since."""

        def __init__(self, rot: float) -> None:
            self._rot = rot

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(batches(self._rot))

    model = network(nn.Tanh())
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    spec = OptimizerSpec(lr=0.1, schedule="constant")
    train(model, Stored(0.0), Natural(), optimizer=spec, epochs=2, checkpoint=place)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    kept, model = place.path.read_bytes(), network(nn.Tanh())
    with pytest.raises(TrainingDiverged, match="the batch of inputs became non-finite in epoch 3"):
        train(model, Stored(torch.nan), Natural(), optimizer=spec, epochs=4, checkpoint=place)
    assert place.path.read_bytes() == kept
    assert load_tensors(place.path)[1]["epoch"] == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, good[name])


def test_a_penalty_is_named() -> None:
    class Bad(Constraint):
        def penalty(self, model: nn.Module) -> Tensor:
            return model[0].weight.sum() * torch.inf  # type: ignore[index, operator, union-attr]

        def masks(self, model: nn.Module) -> MaskSet:
            raise AssertionError

    with pytest.raises(TrainingDiverged, match="the penalty of the search became non-finite"):
        train(
            network(nn.Tanh()),
            batches(),
            Natural(),
            optimizer=OptimizerSpec(),
            epochs=1,
            constraint=Bad(),
        )


def test_weights_that_overflow_in_the_last_step_are_named() -> None:
    model = network(nn.Tanh())
    spec = OptimizerSpec(lr=3e38, momentum=0.0, schedule="constant", weight_decay=3e38)
    with pytest.raises(TrainingDiverged, match=r"weight 0\.weight became non-finite in epoch 1"):
        train(model, batches()[:1], Natural(), optimizer=spec, epochs=1)


def test_sums_that_overflow_are_finite_all_the_same() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3e38)
    assert finite(torch.tensor(1.0), [parameter])
    parameter.grad[2] = torch.nan
    assert not finite(torch.tensor(1.0), [parameter])
