"""A training in progress: its steps and epochs, and its state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from attacks.network import NotFinite
from robustprune.minmax.average import WeightAverage, snapshot
from robustprune.minmax.batches import (
    Batches,
    LabelCheck,
    first_check,
    lonely_batches_explained,
    nothing_left,
    pair_of,
)
from robustprune.minmax.constraint import Callback
from robustprune.minmax.dense import DenseGradients
from robustprune.minmax.finite import culprit, culprit_of_attack, finite, first_weight
from robustprune.minmax.history import EpochRecord
from robustprune.minmax.optimizers import Rates
from robustprune.minmax.options import Validation
from robustprune.minmax.progress import Meter
from robustprune.minmax.result import Objective
from robustprune.minmax.resume import Keeper, Progress
from robustprune.minmax.sharpness import loss_of_step
from robustprune.run.runtime import (
    first_before_others,
    own_part,
    own_random_numbers,
    step_together,
)
from robustprune.sparsity import computed_once

#: advice for a NaN gradient with respect to the input while the outputs of all layers are finite
INPUT_GRADIENT = (
    "an operation of the network has no finite derivative there, such as the log of a softmax that "
    "is 0: let it return plain logits, or try a lower learning rate"
)


class TrainingDiverged(ValueError):
    """Loss, gradients or weights became NaN or infinite."""


@dataclass
class Training:
    """The arguments of `train`, and the state of the training."""

    model: nn.Module
    loader: Batches
    objective: Objective
    descent: torch.optim.Optimizer
    rates: Rates
    moving: list[nn.Parameter]
    epochs: int
    meter: Meter
    device: torch.device = field(kw_only=True)
    constraint: Callback | None = field(kw_only=True)
    validation: Validation | None = field(kw_only=True)
    averaged: WeightAverage | None = field(kw_only=True)
    amp: bool = field(kw_only=True)
    channels_last: bool = field(kw_only=True)

    def __post_init__(self) -> None:
        self.progress, self.labels = Progress(), LabelCheck()
        self.keeper: Keeper | None = None
        self.good = snapshot(self.model)

    def parts(self) -> dict[str, object]:
        """Return what a checkpoint contains besides the model and the optimizer."""
        return {
            "loader": self.loader,
            "objective": self.objective,
            "constraint": self.constraint,
            "average": self.averaged,
            "meter": self.meter,
        }

    def resume(self, keeper: Keeper) -> None:
        """Continue from the keeper's file, and save the state there from now on."""
        self.keeper = keeper
        with first_before_others():
            self.progress = keeper.resume()
        self.rates.after("step", times=self.progress.step)
        self.rates.after("epoch", times=self.progress.epoch)
        self.good = snapshot(self.model, self.good)

    def over(self) -> bool:
        """Return whether all epochs are done, or the patience of the validation has ended."""
        progress, check = self.progress, self.validation
        if progress.epoch >= self.epochs:
            return True
        if check is None or check.patience is None or progress.best is None:
            return False
        return progress.epoch - progress.best_epoch >= check.patience

    def settle(self) -> None:
        """Leave the model with the weights that were chosen."""
        if self.progress.best is not None:
            self.model.load_state_dict(self.progress.best)
        elif self.averaged is not None:
            self.model.load_state_dict(self.averaged.state)

    def run_epoch(self) -> EpochRecord:
        """Run one epoch, or the rest of one, with everything that follows it."""
        record = self._train_epoch()
        progress = self.progress
        progress.epoch, progress.batch, progress.seconds = progress.epoch + 1, 0, 0.0
        self.rates.after("epoch")
        if self.constraint is not None:
            figures = self.constraint.after_epoch(self.model, progress.epoch)
            record = replace(record, figures=figures)
        check = self.validation
        if check is not None and (
            self.epochs == progress.epoch or not progress.epoch % check.every
        ):
            record = self._validate(check, record)
        if self.constraint is not None:
            self.constraint.after_record(record)
        progress.history.append(record)
        self.good = snapshot(self.model, self.good)
        if self.keeper is not None:
            self.keeper.after_epoch(progress)
        return record

    def _train_epoch(self) -> EpochRecord:
        progress, model = self.progress, self.model
        started = time.monotonic() - progress.seconds
        model.train()
        before_epoch = getattr(self.objective, "before_epoch", None)
        if before_epoch is not None and progress.batch == 0:
            try:
                before_epoch(model, progress.epoch)
            except NotFinite:
                self._attack_failed(first_weight(model), progress.epoch, " in choosing examples")
        with own_random_numbers():
            for batch in self.loader:
                self._step(*pair_of(batch))
                progress.seconds = time.monotonic() - started
                length = self.meter.length
                if self.keeper is not None and length is not None and progress.batch < length:
                    self.keeper.within_epoch(progress)
        if progress.batch == 0:
            raise nothing_left(progress.epoch)
        loss, clean, robust = self.meter.end_of_epoch()
        if (weight := first_weight(model)) is not None:
            self._diverge(weight, epoch=progress.epoch)
        return EpochRecord(
            epoch=progress.epoch,
            step=progress.step,
            loss=loss,
            clean=clean,
            robust=robust,
            lr=float(self.descent.param_groups[0]["lr"]),
            seconds=time.monotonic() - started,
        )

    def _step(self, x: Tensor, y: Tensor) -> None:
        model, progress, constraint = self.model, self.progress, self.constraint
        x, y = (part.to(self.device, non_blocking=True) for part in (x, y))
        if self.channels_last and x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
        y = self.labels(y, lambda: first_check(model, x, y, self.objective, self.loader))
        x, y, share = own_part(x, y)
        fraction = (progress.batch + 0.5) / (self.meter.length or progress.batch + 1)
        epoch = progress.epoch + fraction
        self.rates.before_step(epoch)
        self.descent.zero_grad(set_to_none=True)
        asked = constraint is not None and constraint.wants_dense_gradients(progress.step + 1)
        try:
            gradients = self._gradients(x, y, epoch, share, asked=asked)
        except TrainingDiverged:
            model.load_state_dict(self.good)  # again, if the objective had moved the weights
            raise
        self.descent.step()
        self.rates.after("step")
        progress.batch += 1
        progress.step += 1
        if constraint is not None:
            if asked:
                constraint.take_dense_gradients(gradients)
            constraint.after_step(model, progress.step)
        if self.averaged is not None:
            self.averaged.update(model)

    def _gradients(
        self, x: Tensor, y: Tensor, epoch: float, share: float, *, asked: bool
    ) -> dict[str, Tensor]:
        """Leave the gradients of the step in the parameters; return dense ones if `asked`."""
        model, constraint = self.model, self.constraint
        with ExitStack() as step:
            moved = loss_of_step(self.objective, model, self.moving, x, y, epoch, share)
            with self._forwards(x, y, epoch):
                loss = step.enter_context(moved)
            step.enter_context(computed_once(model))
            dense = step.enter_context(DenseGradients(model, asked=asked))
            with self._forwards(x, y, epoch):
                result = loss(model)
            penalty = None if constraint is None else constraint.penalty(model)
            descended = result.loss if penalty is None else result.loss + penalty
            descended.backward()  # type: ignore[no-untyped-call]
            gradients = dense.gradients()
            mean = step_together(
                descended, self.moving, model, share, others=list(gradients.values())
            )
            if not finite(mean, self.moving, self.labels.flag()):
                self.labels.complain()
                summands = {"loss": result.loss, "penalty of the search": penalty}
                what = culprit(model, self.objective, x, y, epoch, summands)
                self._diverge(what, epoch=self.progress.epoch)
            if share > 0:
                self.meter.update(result, model, x, y)
        return gradients

    @contextmanager
    def _forwards(self, x: Tensor, y: Tensor, epoch: float) -> Iterator[None]:
        """Forward passes and attacks inside this context have the precision of the training, and
        say what was not finite."""
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
        try:
            with lonely_batches_explained(), precision:
                yield
        except NotFinite:
            self.labels.complain()
            what = culprit_of_attack(self.model, self.objective, x, y, epoch)
            self._attack_failed(what, self.progress.epoch)

    def _validate(self, check: Validation, record: EpochRecord) -> EpochRecord:
        """Measure accuracy on held-out examples, add it to the record, and keep the best
        weights."""
        model, progress = self.model, self.progress
        with self.averaged.swapped_in(model) if self.averaged else nullcontext():
            search = self.constraint
            try:
                with nullcontext() if search is None else search.as_returned(model):
                    clean, robust, loss = check.measured(model, self.device)
            except NotFinite:
                self._attack_failed(first_weight(model), progress.epoch - 1, " in validation")
            score = clean if robust is None else robust
            fits = self.constraint is None or self.constraint.may_be_chosen(progress.epoch)
            if fits and score >= progress.best_score:
                progress.best_score, progress.best = score, snapshot(model, progress.best)
                progress.best_epoch = progress.epoch
                if self.constraint is not None:
                    self.constraint.after_choice(progress.epoch)
        return replace(record, val_clean=clean, val_robust=robust, val_loss=loss)

    def _attack_failed(self, what: str | None, epoch: int, where: str = "") -> NoReturn:
        """Raise for an attack that found NaN before the loss was checked."""
        if what is None:
            what, advice = f"the gradient with respect to the input{where}", INPUT_GRADIENT
        else:
            advice = ""
        self._diverge(what, epoch=epoch, advice=advice)

    def _diverge(self, what: str, *, epoch: int, advice: str = "") -> NoReturn:
        self.model.load_state_dict(self.good)
        raise TrainingDiverged(
            f"{self.meter.title}: {what} became non-finite in epoch {epoch + 1}; the last good "
            f"state is kept; {advice or f'try a learning rate below {self.rates.lr:g}'}"
        )
