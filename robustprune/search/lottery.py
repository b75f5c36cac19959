"""Lottery tickets: train, prune, rewind and train again, in rounds."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Callback,
    Checkpoint,
    History,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    train,
)
from robustprune.minmax.average import snapshot
from robustprune.minmax.resume import flatten, state_of, unflatten
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.fingerprint import check_same_call
from robustprune.run.runtime import agreed, generator_states, restore_generators
from robustprune.search.ticket import (
    DRAWS_NOTHING,
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    refuse_others,
)
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    keep_along,
    maskable_layers,
)
from robustprune.sparsity.criteria import Scene, magnitude


@dataclass(frozen=True, repr=False)
class LotteryTicket(Ticket):
    """A trained ticket and the start of its training.

    Attributes:
        start: the whole network, without masks, at the step to which the weights were rewound.
    """

    start: nn.Module


class _AtStep(Callback):
    """Keep a copy of the model's state after a number of steps (0: before the first step)."""

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step, self.state = step, snapshot(model)

    def after_step(self, model: nn.Module, step: int) -> None:
        if step == self.step:
            self.state = snapshot(model)

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        self.state = dict(state)


def rounds_to(density: float, pattern: str = "element", rounds: int | None = None) -> int:
    """Return the number of pruning rounds: `rounds` if it is given, else so many that each one
    removes 20% of the remaining weights. N:M is always reached in one round."""
    if ":" in pattern:
        return 1
    return rounds or max(1, round(math.log(density) / math.log(0.8)))


@known_by_its_call
def find_lottery_ticket(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    rounds: int | None = None,
    rewind: int = 0,
    **loop: Unpack[LoopOptions],
) -> LotteryTicket:
    """Find a lottery ticket by iterative magnitude pruning with rewinding.

    Each round i of n trains the network, keeps the largest |w| at density p^(i/n), and sets the
    weights back to step k; at the end the rest is trained (Frankle & Carbin 2019, arXiv
    1803.03635, Sec. 2; for k > 0 Frankle et al. 2020, arXiv 1912.05671).

    Args:
        model: the network with the initial weights θ₀, which is copied and never changed.
        loader: an iterable of (x, y) batches.
        density: p, the fraction of the groups to keep at the end, in (0, 1].
        attack: the inner attack of every round; give exactly one of `attack` and `objective`
            (`Natural()` for plain training).
        epochs: the epochs of each round and of the last training, which makes (rounds + 1) · epochs
            in all.
        rounds: n; 1 is one-shot, None removes 20% of the remaining weights per round. It must be 1
            for N:M.
        rewind: k, in optimizer steps of the first training, at most its last one; 0 for the initial
            weights.
        pattern, allocate: see `robustprune.sparsity`; "global" compares |w| over all layers, as the
            papers do.
        dense: layers that are not masked: "first", "last" or layer names.
        seed: it must be 0, because this search draws no random numbers.
        loop: the options of `LoopOptions` for the trainings, which `train` explains. Every round
            has its own file beside the checkpoint and is not repeated.

    Returns:
        LotteryTicket(masks, model, history, start); `train_control` trains its controls.

    Raises:
        ValueError: an option is out of range, nothing can be masked, or a batch does not fit.
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    refuse_others(DRAWS_NOTHING, seed=(seed, 0))
    fixed = ":" in pattern  # N of every M allows no steps in between
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    if fixed and rounds not in (None, 1):
        raise ValueError(
            f"rounds={rounds} has no effect with pattern {pattern!r}, which keeps N of every M in "
            "the first round; set rounds to 1"
        )
    rounds = rounds_to(density, pattern, rounds)
    _check_rewind(rewind, epochs, loader)
    dense = (dense,) if isinstance(dense, str) else tuple(dense)
    objective = chosen_objective(attack, objective)
    title = loop.setdefault("title", f"lottery {density:.0%}")
    checkpoint = loop.get("checkpoint")
    start = copy_on(model, loop.get("device")).requires_grad_(True)
    layers_to_mask(start, dense, pattern=pattern, allocate=allocate, density=density)
    masks: MaskSet | None = None

    def trained(part: str, at: _AtStep | None) -> tuple[nn.Module, History]:
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
            epochs=epochs,
            optimizer=optimizer,
            constraint=at,
            **of_part,
        )
        return bake(network), history

    for number in range(1, rounds + 1):
        done = _part(checkpoint, f"round {number} done")
        if done is not None and agreed(done.path.exists()):
            masks = _read_round(done, start, loader)
            continue
        at = _AtStep(start, rewind) if number == 1 else None
        network, history = trained(f"round {number}/{rounds}", at)
        if at is not None:
            if history[-1].step < rewind:
                raise ValueError(_BEYOND.format(rewind=rewind, steps=history[-1].step))
            start.load_state_dict(at.state)
        layers = maskable_layers(network, dense=dense)
        masks = keep_along(
            magnitude(Scene(network, layers)), layers, density, partial(pow, exp=number / rounds),
            pattern=pattern, allocate=allocate, within=masks,
        )  # fmt: skip
        del network  # the next round makes its own
        if done is not None:
            _write_round(done, masks, start, loader)
    assert masks is not None
    network, history = trained("ticket", None)
    return LotteryTicket(masks, network, history, start)


_BEYOND = (
    "rewind={rewind} is beyond the first training, which has {steps} optimizer steps; rewind to at "
    "most that step, or train longer"
)


def _check_rewind(rewind: int, epochs: int, loader: Batches) -> None:
    """Refuse a step that the first training doesn't reach, as far as this is known in advance."""
    if rewind < 0:
        raise ValueError(f"rewind={rewind} must be at least 0, in optimizer steps")
    if isinstance(loader, Sized) and rewind > (steps := epochs * len(loader)):
        raise ValueError(_BEYOND.format(rewind=rewind, steps=steps))


def _part(checkpoint: Checkpoint | None, name: str) -> Checkpoint | None:
    if checkpoint is None:
        return None
    path = checkpoint.path
    plain = name.replace("/", "-of-").replace(" ", "-")
    return replace(checkpoint, path=path.with_name(f"{path.stem}-{plain}{path.suffix}"))


def _write_round(done: Checkpoint, masks: MaskSet, start: nn.Module, loader: Batches) -> None:
    """Store the result of a round, and the state of random numbers and batches for the next one."""
    sections: dict[str, Mapping[str, Tensor]] = {
        "mask": masks,
        "start": start.state_dict(),
        "loader": state_of(loader),
        "generator": generator_states(),
    }
    save_tensors(done.path, flatten(sections), {"call": dict(done.call or {})})


def _read_round(done: Checkpoint, start: nn.Module, loader: Batches) -> MaskSet:
    """Restore what `_write_round` stored and return the masks. Refuse a round of another call."""
    tensors, meta = load_tensors(done.path)
    check_same_call(done.path, meta.get("call"), done.call or {})
    sections = unflatten(tensors)
    start.load_state_dict(sections["start"])
    if hasattr(loader, "load_state_dict"):
        loader.load_state_dict(sections["loader"])
    restore_generators(sections["generator"])
    return MaskSet(sections["mask"])
