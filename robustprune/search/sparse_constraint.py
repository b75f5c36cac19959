"""The constraint of sparse training: masks that are updated while the network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustprune.minmax import Constraint, EpochRecord, masks_of, set_masks
from robustprune.minmax.dense import masked_weights
from robustprune.run.runtime import generator_named
from robustprune.search.sparse_methods import Schedule, SparseMethod, schedule
from robustprune.search.sparse_work import Work
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    count_kept,
    groups_of,
    keep_along,
    top_k,
    weights_of,
)

#: what is summed up over the steps of an epoch
_SUMS = ("dropped", "grown", "work", "dense_steps", "steps")


class SparseTraining(Constraint):
    """Move the masks of a network by the rules of a `SparseMethod`, see `train_sparse`.

    The record of an epoch has the density ("density"), the share of the weights that were ever
    kept (R_s of ITOP, "explored"), and how many weights the epoch removed and added ("dropped",
    "grown"). For `training_work` it has the share of a dense pass that a pass took on average
    ("work"), and the number of steps with the dense gradient ("dense_steps"). A weight that an
    update drops and grows again stays as it is, and counts as neither.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, nn.Module],
        method: SparseMethod,
        *,
        density: float,
        pattern: str,
        allocate: Allocation | None,
        every: int | None,
        seed: int,
        epochs: int,
        counted: bool = True,
    ) -> None:
        # the fingerprint of a checkpoint contains the epochs, because the schedule depends on them
        self.epochs = epochs
        self.layers, self.method, self.density, self.pattern = layers, method, density, pattern
        self.allocate, self.every, self.seed = allocate, every, seed
        self.schedule = Schedule({}, 1)
        self.done, self.epoch_sums = 0, dict.fromkeys(_SUMS, 0.0)
        self.gradients: Mapping[str, Tensor] = {}
        self.seen: list[tuple[float, ...]] = []  # epoch, gap and loss of each validation
        masks = self._start()
        self.ever = dict(masks)
        self.work, self.counted = Work(), counted
        self.share: float | None = None  # of the multiply-accumulates of a dense pass
        apply_masks(network, masks, projected=method.projected)

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        """Convert fractions of the training into steps.

        Raises:
            ValueError: the loader has no length, or there is no step for an update.
        """
        self.optimizer = optimizer
        if self.counted:
            self.work.watch(model, self.layers)
        if self.method.updates == 0:
            return
        if steps_per_epoch is None:
            raise ValueError(
                "the updates of masks are spread over the training, and the loader has no length; "
                "give one with __len__, or take the method static"
            )
        self.schedule = schedule(self.method, self.every, steps_per_epoch, epochs)

    def _start(self) -> MaskSet:
        """Return the first masks: all weights, or random ones."""
        first = self.method.first
        if first == 1.0 or self.method.projected:
            weights = weights_of(self.layers)
            return MaskSet({n: torch.ones(w.shape, dtype=torch.bool) for n, w in weights.items()})
        start = self.allocate or self.method.allocate
        return self._keep(self._random(0), lambda d: d if first is None else max(first, d), start)

    def _keep(
        self,
        scores: Mapping[str, Tensor],
        path: Callable[[float], float],
        allocate: Allocation,
        within: MaskSet | None = None,
    ) -> MaskSet:
        if ":" in self.pattern and isinstance(allocate, str):
            allocate = "layer"  # N:M says what each layer keeps
        return keep_along(
            scores, self.layers, self.density, path, pattern=self.pattern, allocate=allocate,
            within=within,
        )  # fmt: skip

    @property
    def _cut(self) -> Allocation:
        """How weights are compared where the density falls."""
        return self.allocate or self.method.cut or self.method.allocate

    def _random(self, step: int) -> dict[str, Tensor]:
        """Draw scores from U(0, 1), which are the same on every rank and after a resume."""
        generator = generator_named(f"{self.seed} {step}")
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in weights_of(self.layers).items()
        }

    def wants_dense_gradients(self, step: int) -> bool:
        number = self.schedule.numbers.get(step)
        if number is None or self.method.grow != "gradient" or self.method.projected:
            return False
        return self.method.share(number, self.schedule.updates) > 0

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.gradients = gradients

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> None:
        if self.share is None:
            self.share = self.work.share(masks_of(model))
        self.epoch_sums["steps"] += 1
        self.epoch_sums["work"] += self.share
        self.epoch_sums["dense_steps"] += bool(self.gradients) or self.method.projected
        if (number := self.schedule.numbers.get(step)) is not None:
            self.update(model, number, step)
            self.gradients = {}

    def update(self, model: nn.Module, number: int, step: int) -> None:
        """Make update `number`: cut to the density of the schedule, then drop and grow."""
        self.done, before = number, masks_of(model)
        if self.method.projected:
            masks = self._project(model)
        else:
            masks = before
            if self.method.extra or (self.method.moves_density and number <= self.schedule.ramp):
                masks = self.cut(number, before)
            last = number == self.schedule.updates
            share = self.method.share(number, self.schedule.updates)
            if share and not (self.method.extra and last):  # the last one is at the density
                masks = self._drop_and_grow(masks, number, share, step)
            set_masks(model, masks, self.optimizer)
        for name, mask in masks.items():
            was = before[name]
            self.ever[name] |= mask
            self.epoch_sums["dropped"] += int((was & ~mask).sum())
            self.epoch_sums["grown"] += int((mask & ~was).sum())
        self.share = self.work.share(masks)

    def cut(self, number: int, masks: MaskSet) -> MaskSet:
        """Keep the largest |w| of the remaining weights, at the density after update `number`."""

        def path(density: float) -> float:
            first = self.method.first
            if first is None or first <= density:
                return density
            return self.schedule.density(number, first, density)

        weights = {name: w.detach().abs() for name, w in weights_of(self.layers).items()}
        return self._keep(weights, path, self._cut, masks)

    def _drop_and_grow(self, masks: MaskSet, number: int, share: float, step: int) -> MaskSet:
        """Drop the active groups with the smallest Σ|w|, and grow others in the same layer; where
        each block of N:M or each output has a number of its own, in the same block or output."""
        random, overfits, found = self.method.grow == "random", self.overfits(), {}
        scores = self._random(step) if random else self.gradients
        pattern, weights = self._pattern(number, share), weights_of(self.layers)
        for name, groups in groups_of(self.layers, pattern, allocate=self._cut).items():
            weight, mask = weights[name].detach(), masks[name].to(weights[name].device)
            alive = groups.reduce(mask.float()) > 0
            kept, after = self.method.counts(int(alive.sum()), groups.number, share, *overfits)
            worth = groups.reduce(weight.abs())
            if self.method.by_sign and len(worth) == weight.numel():
                worth = rank_by_sign(weight.flatten(), alive)
            worth = worth.masked_fill(~alive, -torch.inf)
            if groups.by_row:  # every output has the same number
                after = groups.out_first[0] * max(round(after / groups.out_first[0]), 1)
            refilled = groups.fixed or (groups.by_row and after >= int(alive.sum()))
            stays = top_k(worth, kept) if refilled else groups.choose(worth, kept)
            growth = groups.reduce(scores[name].abs()).masked_fill(stays & alive, torch.inf)
            found[name] = groups.expand(groups.choose(growth, after))
        return MaskSet(found)

    def _pattern(self, number: int, share: float) -> str:
        """Return the pattern after update `number`: N:M keeps more of every M on the way to the
        density of the end, and where new weights come on top of it."""
        if ":" not in self.pattern:
            return self.pattern
        most = int(self.pattern.partition(":")[2])
        now = self.schedule.density(number, self.method.first or self.density, self.density)
        now += share if self.method.extra else 0.0
        return f"{count_kept(min(now, 1.0), most)}:{most}"

    def after_record(self, record: EpochRecord) -> None:
        if record.val_loss is not None and record.val_clean is not None:
            train, held_out = record.clean, record.val_clean
            if record.val_robust is not None:
                train, held_out = record.robust, record.val_robust
            self.seen.append((record.epoch, (train or 0.0) - held_out, record.val_loss))

    def overfits(self) -> tuple[bool, bool]:
        """Return whether at least half of the last differences between validations show a rising
        gap to the training, and whether at least half show a loss that does not fall. Both are
        false in the first half of the training."""
        if not self.method.adaptive or not self.seen or 2 * self.seen[-1][0] < self.epochs:
            return False, False
        steps = list(pairwise(self.seen[-self.method.window - 1 :]))
        rises = sum(after[1] > before[1] for before, after in steps)
        stalls = sum(after[2] >= before[2] for before, after in steps)
        return 2 * rises >= len(steps) > 0, 2 * stalls >= len(steps) > 0

    def _project(self, model: nn.Module) -> MaskSet:
        """Keep the largest of all weights, and set the others to zero."""
        there = masked_weights(model)
        stored = {
            name: layer.parametrizations[name.rpartition(".")[2]].original  # type: ignore[union-attr, index]
            for name, (layer, _) in there.items()
        }
        masks = self._keep({n: w.abs() for n, w in stored.items()}, lambda d: d, self._cut)
        for name, (_, masked) in there.items():
            masked.mask.copy_(masks[name])
            stored[name].mul_(masked.mask)
        return masks

    def finish(self, model: nn.Module) -> None:
        """Reach the density of the end if the loader gave fewer batches than its length, and leave
        nothing else in the model."""
        self.work.stop()  # a training that was complete already made no pass
        updates = self.schedule.updates
        if self.done < updates and self.method.moves_density:
            set_masks(model, self.cut(updates, masks_of(model)), self.optimizer)

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        sums, self.epoch_sums = self.epoch_sums, dict.fromkeys(_SUMS, 0.0)
        ever = sum(int(mask.sum()) for mask in self.ever.values())
        total = sum(mask.numel() for mask in self.ever.values())
        steps = sums.pop("steps")
        figures = {"density": self.masks(model).density, "explored": ever / total, **sums}
        if self.work.uses:  # else the layers are not called, or the network is compiled
            figures["work"] /= steps
        else:
            del figures["work"]
        return figures

    def masks(self, model: nn.Module) -> MaskSet:
        return masks_of(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of updates so far, what the epoch moved, and which weights were ever
        kept. (The masks are buffers of the model.)"""
        sums = {"done": self.done, **self.epoch_sums}
        state = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
        state["seen"] = torch.tensor(self.seen, dtype=torch.float64).reshape(-1, 3)
        return {**state, **{f"ever.{name}": mask for name, mask in self.ever.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])
        self.epoch_sums = {name: float(state[name]) for name in _SUMS}
        self.seen = [tuple(row) for row in state["seen"].tolist()]
        self.ever = {name: state[f"ever.{name}"].clone() for name in self.ever}


def rank_by_sign(weight: Tensor, alive: Tensor) -> Tensor:
    """Rank |w| among the weights of the same sign, in (0, 1], so that a threshold drops the same
    share of both."""
    rank = torch.zeros_like(weight, dtype=torch.float64)
    active = alive.nonzero().flatten()
    values = weight[active]
    for side in (values > 0, values < 0):
        order = active[side][values[side].abs().argsort(stable=True)]
        places = torch.arange(1, len(order) + 1, dtype=rank.dtype, device=rank.device)
        rank[order] = places / max(len(order), 1)
    return rank
