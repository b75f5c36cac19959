"""Progress: a bar on a terminal alone, plain lines in a log, nothing where it is not wanted."""

import sys

import pytest

from robustprune.run import progress as module
from robustprune.run.progress import Progress, plural, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where the test puts it."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_plain_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for item in progress(range(10), title="measuring dense", unit="batch", quiet=False):
        seen.append(item)
        clock[0] += 10.0
    assert seen == list(range(10))
    assert capsys.readouterr().err.splitlines() == [
        "measuring dense: 3 of 10 batches, 30 s",
        "measuring dense: 6 of 10 batches, 1 min 0 s",
        "measuring dense: 9 of 10 batches, 1 min 30 s",
    ]


def test_figures_stand_in_the_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, title="search", unit="step", quiet=False, done=5) as told:
        told.describe("search · epoch 2/3", {"loss": "0.250", "robust": "40%"})
        clock[0] += 31.0
        told.update()
    said = "search · epoch 2/3: 6 steps, 31 s, loss 0.250, robust 40%\n"
    assert capsys.readouterr().err == said


def test_the_end_of_a_part_is_a_line_if_the_last_is_five_seconds_old(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(None, title="search", unit="step", quiet=False) as told:
        for _ in range(6):
            clock[0] += 2.0
            told.update()
            told.end_part()
    assert capsys.readouterr().err.splitlines() == [
        "search: 3 steps, 6 s",
        "search: 6 steps, 12 s",
    ]


def test_short_or_quiet_work_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress(range(10), title="short", unit="step", quiet=False):
        clock[0] += 1.0
    for _ in progress(range(10), title="quiet", unit="step", quiet=True):
        clock[0] += 100.0
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in progress(range(3), title="measuring", unit="batch", quiet=False):
        pass
    assert "measuring" in capsys.readouterr().err
    for _ in progress(range(3), title="measuring", unit="batch", quiet=True):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("unit", "many"), [("batch", "batches"), ("step", "steps"), ("text", "texts")]
)
def test_plural(unit: str, many: str) -> None:
    assert plural(unit) == many
