"""The history of a training: as a DataFrame, as a table, and for trackers of other libraries."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from robustprune.minmax import EpochRecord, History, Natural, OptimizerSpec, log_epochs, train


def record(epoch: int, **more: object) -> EpochRecord:
    numbers = {"step": 2 * epoch, "loss": 1 / epoch, "clean": 0.5, "robust": None}
    return EpochRecord(epoch=epoch, **numbers, lr=0.1, seconds=2.0, **more)  # type: ignore[arg-type]


HISTORY = History([record(1, figures={"residual": 0.5}), record(2)])


def trained(**loop: object) -> History:
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    options = {"epochs": 3, "optimizer": OptimizerSpec(), "quiet": True, **loop}
    return train(nn.Linear(3, 2), [(x, y)], Natural(), **options)  # type: ignore[arg-type]


def test_a_history_is_a_table_of_pandas() -> None:
    pytest.importorskip("pandas")
    table = HISTORY.to_pandas()
    assert table["epoch"].tolist() == [1, 2]
    assert table["loss"].tolist() == [1.0, 0.5]
    assert table["robust"].isna().all()
    assert table["residual"].tolist()[0] == 0.5
    assert table["residual"].isna().tolist() == [False, True]
    assert "figures" not in table


def test_a_training_returns_a_history() -> None:
    history = trained()
    assert isinstance(history, History)
    assert [one.epoch for one in history] == [0, 1, 2]
    assert pickle.loads(pickle.dumps(history)) == history


def test_it_is_short_in_words_and_whole_as_a_table() -> None:
    assert repr(HISTORY) == "History(2 records, the last: loss 0.5, clean 0.5)"
    assert repr(History()) == "History(no records)"
    assert HISTORY._repr_html_().count("<tr>") == 3
    hostile = History([record(1, layer="<script>")])
    assert "<script>" not in hostile._repr_html_()


class Tracker:
    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, float], int | None]] = []

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.seen.append((values, step))


def test_a_tracker_gets_what_was_measured_in_each_epoch() -> None:
    tracker = Tracker()
    history = trained(on_epoch=log_epochs(tracker, prefix="dense/"))
    assert [step for _, step in tracker.seen] == [0, 1, 2]
    assert [values["dense/loss"] for values, _ in tracker.seen] == [one.loss for one in history]
    assert all("dense/robust" not in values for values, _ in tracker.seen)


def test_tensorboard_has_the_figures_of_each_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState()
    tracker = TensorBoardTracker("run", logging_dir=str(tmp_path))
    if hasattr(tracker, "start"):
        tracker.start()
    history = trained(on_epoch=log_epochs(tracker))
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    found = events.Scalars("loss")
    assert [one.step for one in found] == [0, 1, 2]
    assert [one.value for one in found] == pytest.approx([one.loss for one in history])
