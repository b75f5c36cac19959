"""The calibration data: batches that are kept, some of them attacked, and calls of a network.

Only inputs are kept, on the CPU. Activations are computed again for each layer, batch by batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks import Attack
from robustprune.minmax import Adversarial, Batches, pair_of
from robustprune.minmax.batches import first_check, nothing_left
from robustprune.run.runtime import generator_states, restore_generators

_NOT_INPUTS = ("labels", "label")


@dataclass(frozen=True)
class Batch:
    """One batch of calibration data, on the CPU.

    Attributes:
        x: (N, …), the network's only input; or a mapping of its inputs by name, such as `input_ids`
            and `attention_mask`.
        y: labels; None where the inputs have names.
        counted: (N, T) boolean, which tokens count; None for all.
    """

    x: Tensor | Mapping[str, Tensor]
    y: Tensor | None = None
    counted: Tensor | None = None

    def __len__(self) -> int:
        first = self.x if isinstance(self.x, Tensor) else next(iter(self.x.values()))
        return len(first)

    def call(self, network: nn.Module, device: torch.device) -> object:
        """Return the network's output on copies of the inputs, which it may change."""
        if isinstance(self.x, Tensor):
            return cast(object, network(self.x.to(device, copy=True)))
        inputs = {name: part.to(device, copy=True) for name, part in self.x.items()}
        return cast(object, network(**inputs))


def calibration_batches(
    network: nn.Module,
    loader: Batches,
    number: int | None,
    *,
    device: torch.device,
    attack: Attack | None,
    tokens: Callable[[Tensor], Tensor] | None = None,
) -> list[Batch]:
    """Return the first `number` batches of the loader, or all, on the CPU; check the first one.

    They are copies, because a loader may fill the same tensors again.

    Args:
        tokens: function that returns which tokens of x count, (N, T) boolean.

    Raises:
        ValueError: there is no batch, or one is neither (x, y), nor a dict of the two, nor (without
            an attack) a dict with `input_ids`.
    """
    found: list[Batch] = []
    for batch in itertools.islice(iter(loader), number):
        found.append(_batch_of(batch, attacked=attack is not None))
        if tokens is not None and isinstance(x := found[-1].x, Tensor):
            found[-1] = replace(found[-1], counted=_counted(tokens(x), len(x)))
        if len(found) == 1 and isinstance(x := found[0].x, Tensor):
            plain: Any = SimpleNamespace(class_labels=False)
            y = found[0].y
            assert y is not None
            objective = plain if attack is None else Adversarial(attack)
            first_check(network, x.to(device), y.to(device), objective)
    if not found:
        raise nothing_left(0)
    return found


def _counted(mask: Tensor, number: int) -> Tensor:
    if mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != number:
        raise ValueError(
            f"tokens must give a boolean tensor (N, T) that says which tokens of {number} examples "
            f"count, got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask.cpu()


def _batch_of(batch: object, *, attacked: bool) -> Batch:
    if isinstance(batch, Mapping) and "input_ids" in batch and not attacked:
        inputs = {
            name: part.detach().to("cpu", copy=True)
            for name, part in cast("Mapping[str, object]", batch).items()
            if isinstance(part, Tensor) and name not in _NOT_INPUTS
        }
        mask = inputs.get("attention_mask")
        counted = None if mask is None or mask.ndim != 2 else mask.bool()
        return Batch(inputs, counted=counted)
    x, y = (part.to("cpu", copy=True) for part in pair_of(batch))
    return Batch(x, y)


def attacked(
    network: nn.Module,
    batches: list[Batch],
    attack: Attack,
    *,
    clean: float,
    seed: int,
    device: torch.device,
) -> list[Batch]:
    """Attack all examples of the batches except a share `clean`, once, and return the batches.

    The round(clean · N) clean examples of all N are drawn by the seed. Random starts of the attack
    come from torch's global generator, which gets the same seed and is restored afterwards.
    """
    number = sum(len(batch) for batch in batches)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    stays = torch.zeros(number, dtype=torch.bool)
    stays[order[: round(clean * number)]] = True
    moved: list[Batch] = []
    states = generator_states()
    try:
        torch.manual_seed(seed)
        for batch, still in zip(
            batches, torch.split(stays, [len(b) for b in batches]), strict=True
        ):
            assert isinstance(batch.x, Tensor)
            assert batch.y is not None
            x = batch.x.clone()
            if not bool(still.all()):
                points = attack(network, x[~still].to(device), batch.y[~still].to(device))
                x[~still] = points.detach().to(x)
            moved.append(replace(batch, x=x))
    finally:
        restore_generators(states)
    return moved
