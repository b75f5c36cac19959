"""The records of a training, one for each epoch, and ways to look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

from robustprune.tabular import html_table, share

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training's history. Accuracies are those of the training batches."""

    epoch: int
    step: int
    loss: float
    clean: float | None
    robust: float | None
    lr: float
    seconds: float
    val_clean: float | None = None
    val_robust: float | None = None
    val_loss: float | None = None  # cross-entropy, attacked where `val_robust` is
    figures: dict[str, float] = field(default_factory=dict)  # numbers of the constraint, by name
    layer: str | None = None  # layer of which `loss` is the error, in layerwise pruning

    def measured(self) -> dict[str, float]:
        """Return the numbers of the epoch by name, without those that were not measured."""
        own = {name: value for name, value in asdict(self).items() if name not in _NOT_NUMBERS}
        return {name: value for name, value in {**own, **self.figures}.items() if value is not None}


_NOT_NUMBERS = ("epoch", "figures", "layer")


class History(list[EpochRecord]):
    """The list of a training's records, which notebooks show as a table."""

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with one row an epoch. The numbers of a constraint are columns, too.

        Raises:
            ModuleNotFoundError: pandas is not installed; `pip install "robustprune[notebook]"`.
        """
        import pandas

        rows = []
        for record in self:
            row = asdict(record)
            figures = row.pop("figures")
            rows.append({**row, **figures})
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        if not self:
            return "History(no records)"
        last = {name: f"{value:.3g}" for name, value in self[-1].measured().items()}
        figures = ", ".join(f"{name} {last[name]}" for name in _SHOWN if name in last)
        return f"History({len(self)} records, the last: {figures})"

    def _repr_html_(self) -> str:
        rows = [
            (
                one.epoch if one.layer is None else one.layer,
                f"{one.loss:.4g}",
                *(share(value) for value in (one.clean, one.robust, one.val_clean, one.val_robust)),
                f"{one.seconds:.3g} s",
            )
            for one in self
        ]
        heads = ("epoch", "loss", "clean", "robust", "val clean", "val robust", "time")
        return html_table(f"{len(self)} records", heads, rows)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return History, (list(self),)


_SHOWN = ("loss", "clean", "robust", "val_clean", "val_robust")


class Tracker(Protocol):
    """What keeps figures: the trackers of Accelerate (TensorBoard, MLflow and others), or a run of
    Weights & Biases."""

    def log(self, values: Any, step: int | None = None) -> object: ...


def log_epochs(tracker: Tracker, *, prefix: str = "") -> Callable[[EpochRecord], None]:
    """Return a function for `on_epoch` that gives the figures of each epoch to a tracker.

    Args:
        tracker: an object with `log(values, step=...)`, such as
            `accelerate.tracking.TensorBoardTracker` or `MLflowTracker`.
        prefix: is put before the name of each figure, such as "dense/".
    """

    def log(record: EpochRecord) -> None:
        values: Mapping[str, float] = {
            f"{prefix}{name}": value for name, value in record.measured().items()
        }
        tracker.log(dict(values), step=record.epoch)

    return log
