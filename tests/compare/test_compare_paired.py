"""Paired tests and constant answers: no table praises what says the same to everything."""

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustprune.cli import main
from robustprune.compare import (
    Board,
    as_csv,
    as_json,
    boards_of,
    gather,
    markdown_grid,
    terminal_board,
)
from robustprune.compare.paired import against_best, sign_test
from robustprune.measure import holm, mcnemar

MakeRun = Callable[..., Path]
EVEN = [i % 2 == 0 for i in range(100)]  # right on all of class 0 and on nothing else


def board_of(*runs: Path) -> Board:
    (board,) = boards_of(gather(runs))
    return board


def shown(board: Board) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(terminal_board(board))
    return console.file.getvalue()


@given(st.lists(st.integers(-3, 3), max_size=11))
def test_sign_test_against_all_flips(differences: list[int]) -> None:
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    truth = sum(one >= abs(sum(differences)) for one in sums) / len(sums)
    assert sign_test(differences) == pytest.approx(truth)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_with_one_seed_it_is_mcnemars(pairs: list[tuple[bool, bool]]) -> None:
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    differences = [int(two) - int(one) for one, two in pairs]
    assert sign_test(differences) == pytest.approx(mcnemar(first, second).p)


def test_rows_are_paired_with_the_most_robust(make_run: MakeRun) -> None:
    runs = [make_run("harp", worst=70), make_run("hydra", worst=77), make_run("admm", worst=40)]
    board = board_of(*runs)
    found = against_best(board)
    assert found.best is not None
    assert found.best.title == "hydra, 0.1 kept"
    # the first so many examples are right, so that each row is wrong where the best is right
    rows = {row.title: row for row in board.rows}
    worse = {title: 77 - round(100 * row.worst.mean) for title, row in rows.items()}
    told = [title for title in rows if title != "hydra, 0.1 kept"]
    truth = dict(zip(told, holm([2 * 0.5 ** worse[title] for title in told]), strict=True))
    for row, p in zip(board.rows, found.p, strict=True):
        assert p == (pytest.approx(truth[row.title]) if row.title in truth else None)
    text = shown(board)
    assert "McNemar" in text
    assert "overlapping intervals are no test" in " ".join(text.split())
    assert "<.001" in text
    rows = as_json([board])[0]["rows"]
    assert [row["best"] for row in rows].count(True) == 1
    assert [row["p"] for row in rows] == list(found.p)
    lines = list(csv.DictReader(io.StringIO(as_csv([board]))))
    assert [line["p"] for line in lines] == ["" if p is None else str(p) for p in found.p]


def test_seeds_are_paired_by_number(make_run: MakeRun) -> None:
    runs = [make_run("harp", seed=s, worst=70) for s in (0, 1)]
    runs += [make_run("hydra", seed=s, worst=80) for s in (0, 1)]
    found = against_best(board_of(*runs))
    # ten examples with d = -2: 2 / 2^10, over three rows by Holm; the natural one is surest
    assert found.p[2] == pytest.approx(2 * 2 / 2**10)


def test_without_answers_there_is_no_test(make_run: MakeRun) -> None:
    board = board_of(make_run(answers=False), make_run("harp", answers=False))
    assert against_best(board).best is None
    assert "McNemar" not in shown(board)


def test_a_constant_answer_leads_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run("rst", density=0.01, which=EVEN),
        make_run("hydra", density=0.1, worst=45, clean=84),
        make_run("harp", density=0.2, worst=44),
    ]
    board = board_of(*runs)
    last = board.rows[-1]
    assert last.title == "rst, 0.01 kept (one class for everything)"
    assert (last.constant, last.worst.mean) == (1, 0.5)
    assert last not in board.front
    assert board.front[0].title == "hydra, 0.1 kept"
    assert against_best(board).best is not last
    assert board.commonest == 0.5
    text = " ".join(shown(board).split())
    assert "one class for everything isn't robust and comes last (the commonest: 50.0%)" in text
    assert as_json([board])[0]["rows"][-1]["constant"] == 1
    assert "50.0 [39.8, 60.2] / 50.0 (one class)" in markdown_grid(board)
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "c")]) == 0
    page = (tmp_path / "c" / "compare.html").read_text()
    assert "so it comes last and is on no front" in page
    rows = page.partition("<tbody>")[2].partition("</tbody>")[0].split("<tr")
    assert "one class for everything" in rows[-1]
    assert "front" not in rows[-1]


def test_one_constant_seed_is_told(make_run: MakeRun) -> None:
    runs = [make_run("harp", seed=0, which=EVEN), make_run("harp", seed=1, worst=90, clean=95)]
    runs.append(make_run("hydra", seed=0, worst=30))
    board = board_of(*runs)
    assert board.rows[-1].title == "harp, 0.1 kept (one class for everything in 1 of 2 seeds)"
    assert board.rows[-1] not in board.front


def test_a_runs_own_finding_counts(make_run: MakeRun) -> None:
    run = make_run("rst", worst=84, answers=False)
    metrics = json.loads((run / "metrics.json").read_text())
    finding = {"name": "rst: a constant answer", "ok": False, "figure": "", "detail": ""}
    (run / "metrics.json").write_text(json.dumps(metrics | {"findings": [finding]}))
    assert board_of(run).rows[-1].constant == 1


def test_asked_and_kept_are_both_told(make_run: MakeRun) -> None:
    run = make_run("rst", density=0.25, title="RST, 0.2 kept")
    board = board_of(run)
    row = board.rows[-1]
    assert (row.title, row.asked, row.density) == ("RST, 0.2 asked, 0.25 kept", 0.2, 0.25)
    assert row.family == "RST"
    assert "| RST |  | 70.0 [60.0, 78.8] / 84.0 (0.25 kept) |" in markdown_grid(board)


def test_control_characters_and_tables_of_markdown(make_run: MakeRun) -> None:
    run = make_run("rst", title="a\x1b[2Kb\u202ec | d\ne, 0.1 kept")
    board = board_of(run)
    text = shown(board) + markdown_grid(board)
    assert not any(mark in text for mark in ("\x1b", "\u202e"))
    (line,) = (line for line in markdown_grid(board).splitlines() if "[2K" in line)
    assert line.replace(r"\|", "").count("|") == 4


def test_answers_must_be_what_the_metrics_say(make_run: MakeRun) -> None:
    run = make_run("rst")
    table = (run / "per_example.csv").read_text()
    (run / "per_example.csv").write_text(table.replace("rst,3,1,1,1", "rst,3,1,1,0"))
    with pytest.raises(ValueError, match="69 of 100 as worst_correct of model rst, but metrics"):
        gather([run])
    (run / "per_example.csv").write_text(table.replace("rst,3,1,1,1", "rst,3,1,1,x"))
    with pytest.raises(ValueError, match="worst_correct must be 0 or 1, got 'x'"):
        gather([run])
