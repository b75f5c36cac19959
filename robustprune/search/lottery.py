"""Lottery tickets: train, prune, rewind, and train again; with the controls that test the claim."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Checkpoint,
    Constraint,
    EpochRecord,
    LoopOptions,
    Objective,
    OptimizerSpec,
    Validation,
    train,
)
from robustprune.minmax.average import snapshot
from robustprune.minmax.resume import flatten, state_of, unflatten
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.runtime import agreed, generator_states, restore_generators
from robustprune.search.initialise import InitName, initialise
from robustprune.search.ticket import Ticket, chosen_objective, copy_on
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    keep_best,
    maskable_layers,
)
from robustprune.sparsity.criteria import weights_of

ControlName = Literal["random", "reinit"]
CONTROLS: tuple[ControlName, ...] = get_args(ControlName)
LOTTERY_OPTIMIZER = OptimizerSpec(lr=0.1, momentum=0.9, weight_decay=1e-4)


@dataclass(frozen=True)
class LotteryTicket(Ticket):
    """A trained ticket and where its training began.

    Attributes:
        start: the whole network, unmasked, at the step to which the weights were rewound.
    """

    start: nn.Module


class _AtStep(Constraint):
    """Keeps a copy of the model's state after a number of steps (0: before the first)."""

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step, self.state = step, snapshot(model)

    def after_step(self, model: nn.Module, step: int) -> None:
        if step == self.step:
            self.state = snapshot(model)

    def masks(self, model: nn.Module) -> MaskSet:
        raise AssertionError("a rewinding point has no masks")

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        self.state = dict(state)


def find_lottery_ticket(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    epochs: int = 160,
    optimizer: OptimizerSpec = LOTTERY_OPTIMIZER,
    rounds: int | None = None,
    rewind: int = 0,
    pattern: str = "element",
    allocate: Allocation = "global",
    dense: Iterable[str] = (),
    validation: Validation | None = None,
    average: float | None = None,
    **loop: Unpack[LoopOptions],
) -> LotteryTicket:
    """Iterative magnitude pruning with rewinding: in each of n rounds train, keep the p^(i/n)
    largest |w| of the survivors, set the weights back to step k, and train what is left
    (Frankle & Carbin 2019, arXiv 1803.03635, Sec. 2; rewinding to k > 0: Frankle et al. 2020,
    arXiv 1912.05671).

    Args:
        model: its weights are θ₀. Copied, never changed.
        loader: yields (x, y) batches.
        density: p, kept fraction of the groups at the end, in (0, 1].
        attack: the inner maximisation in every round; exactly one of `attack` and `objective`
            (`Natural()` for plain training) is needed.
        epochs: of each round and of the last training: (rounds + 1) · epochs in all.
        rounds: n; 1 is one-shot, None removes 20% of the survivors a round.
        rewind: k, in optimizer steps of the first training; 0 for the initial weights.
        pattern, allocate: see `robustprune.sparsity`; "global" compares |w| over all layers.
        dense: layers to leave whole: "first", "last" or layer names.
        validation: choose the epoch of each training on held-out training data.
        loop: how the training runs: the options of `LoopOptions`, which `train` explains.
            Every round keeps its own file beside the checkpoint and is not repeated.

    Returns:
        LotteryTicket(masks, model, history, start); `train_control` makes the controls for it.

    Raises:
        ValueError: an option out of range, nothing to mask, a batch that does not fit the model.
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    if rounds is None:
        rounds = max(1, round(math.log(density) / math.log(0.8)))
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    if rewind < 0:
        raise ValueError(f"rewind={rewind} must be at least 0, in optimizer steps")
    if ":" in pattern:
        rounds = 1  # N of every M: there is nothing in between
    objective = chosen_objective(attack, objective)
    title = loop.setdefault("title", f"lottery {density:.0%}")
    checkpoint = loop.get("checkpoint")
    start = copy_on(model, loop.get("device")).requires_grad_(True)
    masks: MaskSet | None = None

    def trained(part: str, at: _AtStep | None) -> tuple[nn.Module, list[EpochRecord]]:
        """The network trained from `start` under `masks`."""
        network = copy.deepcopy(start)
        if masks is not None:
            apply_masks(network, masks)
        of_part: LoopOptions = {**loop, "checkpoint": _part(checkpoint, part)}
        of_part["title"] = f"{title}, {part}"
        history = train(
            network,
            loader,
            objective,
            optimizer=optimizer,
            epochs=epochs,
            constraint=at,
            validation=validation,
            average=average,
            **of_part,
        )
        return bake(network), history

    for number in range(1, rounds + 1):
        done = _part(checkpoint, f"round {number} done")
        if done is not None and agreed(done.path.exists()):
            masks = _read_round(done, start, loader)
            continue
        at = _AtStep(start, rewind) if number == 1 else None
        network, _ = trained(f"round {number}/{rounds}", at)
        if at is not None:
            start.load_state_dict(at.state)
        masks = _survivors(
            network, masks, density ** (number / rounds) if number < rounds else density,
            pattern=pattern, allocate=allocate, dense=dense,
        )  # fmt: skip
        if done is not None:
            _write_round(done, masks, start, loader)
    assert masks is not None
    network, history = trained("ticket", None)
    return LotteryTicket(masks, network, history, start)


def train_control(
    ticket: LotteryTicket,
    loader: Batches,
    kind: ControlName,
    *,
    attack: Attack | None = None,
    objective: Objective | None = None,
    epochs: int,
    optimizer: OptimizerSpec = LOTTERY_OPTIMIZER,
    init: InitName = "kaiming_normal",
    seed: int = 0,
    validation: Validation | None = None,
    average: float | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """What a ticket must beat: the same training with one thing changed.

    Args:
        kind: "random" shuffles the mask within each layer, so that every layer keeps as many
            weights (Frankle et al. 2021, arXiv 2009.08576, Sec. 4); "reinit" keeps the mask and
            draws the weights anew (arXiv 1803.03635, Sec. 2).
        init, seed: of the fresh weights, and of the shuffle.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in CONTROLS:
        raise ValueError(f"unknown control {kind!r}; choose one of {', '.join(CONTROLS)}")
    network = copy_on(ticket.start, loop.get("device")).requires_grad_(True)
    masks = _mask_control(network, ticket.masks, kind, init, seed)
    loop.setdefault("title", f"control ({kind})")
    history = train(
        network,
        loader,
        chosen_objective(attack, objective),
        optimizer=optimizer,
        epochs=epochs,
        validation=validation,
        average=average,
        **loop,
    )
    return Ticket(masks, bake(network), history)


def shuffled_control(ticket: LotteryTicket, *, seed: int = 0) -> Ticket:
    """The "random" control of a ticket in which nothing is trained."""
    network = copy_on(ticket.start, None)
    masks = _mask_control(network, ticket.masks, "random", "kaiming_normal", seed)
    return Ticket(masks, bake(network), [])


def _mask_control(
    network: nn.Module, masks: MaskSet, kind: ControlName, init: InitName, seed: int
) -> MaskSet:
    """Make the network that a control is trained from; returns its masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = shuffled(masks, generator) if kind == "random" else masks
    if kind == "reinit":
        initialise(maskable_layers(network), init, generator=generator)
    apply_masks(network, masks)
    return masks


def shuffled(masks: MaskSet, generator: torch.Generator) -> MaskSet:
    """Each mask with its entries in random order."""
    return MaskSet(
        {
            name: mask.view(-1)[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
            for name, mask in masks.items()
        }
    )


def _survivors(
    network: nn.Module,
    masks: MaskSet | None,
    density: float,
    *,
    pattern: str,
    allocate: Allocation,
    dense: Iterable[str],
) -> MaskSet:
    """The largest |w| among what is left; what went before never comes back."""
    layers = maskable_layers(network, dense=dense)
    scores = {name: weight.detach().abs() for name, weight in weights_of(layers).items()}
    if masks is not None:
        scores = {
            name: torch.where(masks[name].to(score.device), score, -1.0)
            for name, score in scores.items()
        }
    return keep_best(scores, layers, density=density, pattern=pattern, allocate=allocate)


def _part(checkpoint: Checkpoint | None, name: str) -> Checkpoint | None:
    if checkpoint is None:
        return None
    path = checkpoint.path
    plain = name.replace("/", "-of-").replace(" ", "-")
    return replace(checkpoint, path=path.with_name(f"{path.stem}-{plain}{path.suffix}"))


def _write_round(done: Checkpoint, masks: MaskSet, start: nn.Module, loader: Batches) -> None:
    """Keep what a round found, and where random numbers and batches stand for the next one."""
    sections: dict[str, Mapping[str, Tensor]] = {
        "mask": masks,
        "start": start.state_dict(),
        "loader": state_of(loader),
        "generator": generator_states(),
    }
    save_tensors(done.path, flatten(sections))


def _read_round(done: Checkpoint, start: nn.Module, loader: Batches) -> MaskSet:
    """Put back what `_write_round` kept; returns the masks."""
    sections = unflatten(load_tensors(done.path)[0])
    start.load_state_dict(sections["start"])
    if hasattr(loader, "load_state_dict"):
        loader.load_state_dict(sections["loader"])
    restore_generators(sections["generator"])
    return MaskSet(sections["mask"])
