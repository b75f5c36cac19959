"""Runs side by side: figures worked out by hand, and that only like is set against like."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from attacks import PGD, ThreatModel
from robustprune.certify import Certificate, Manifest, write_certificates
from robustprune.cli import main
from robustprune.compare import (
    as_csv,
    as_json,
    as_latex,
    boards_of,
    find_runs,
    gather,
    grid_of,
    markdown_grid,
    on_front,
    terminal_board,
    terminal_grid,
    write_comparison,
)
from robustprune.compare.board import Measured
from robustprune.compare.figures import error_bars

MakeRun = Callable[..., Path]


def compared(*runs: Path, everything: bool = False) -> list:
    return boards_of(gather(runs, everything=everything))


def test_mean_and_sd_over_seeds(make_run: MakeRun) -> None:
    runs = [make_run(seed=seed, worst=worst) for seed, worst in ((0, 70), (1, 72), (2, 77))]
    (board,) = compared(*runs)
    natural, adversarial, hydra = board.rows
    assert hydra.seeds == (0, 1, 2)
    assert hydra.worst.mean == pytest.approx(0.73)
    assert hydra.worst.sd == pytest.approx(math.sqrt((9 + 1 + 16) / 2) / 100)
    assert adversarial.worst.mean == pytest.approx(0.76)
    assert natural.worst.sd == pytest.approx(0, abs=1e-12)
    assert hydra.r.values == (0.2, 0.2, 0.2)
    assert hydra.speed.mean == pytest.approx(0.5)
    assert hydra.file_bytes.mean == 700
    assert adversarial.speed.mean == 1
    assert natural.latency is None


def test_one_seed_has_its_interval(make_run: MakeRun) -> None:
    (board,) = compared(make_run())
    hydra = board.rows[-1]
    assert hydra.worst.sd is None
    low, high = hydra.worst.interval
    assert low < 0.7 < high


def test_equal_dense_networks_appear_once(make_run: MakeRun) -> None:
    (board,) = compared(make_run("hydra"), make_run("harp"), make_run("admm", seed=1))
    assert [row.title for row in board.rows] == [
        "natural dense",
        "adversarial dense",
        "hydra, 0.1 kept",
        "harp, 0.1 kept",
        "natural dense",
        "adversarial dense",
        "admm, 0.1 kept",
    ]


def test_another_threat_is_another_table(make_run: MakeRun) -> None:
    boards = compared(make_run(eps=0.1), make_run(eps=0.2))
    assert [board.threat.eps for board in boards] == [0.1, 0.2]
    assert all(len(board.rows) == 3 for board in boards)


def test_equal_titles_are_told_apart_by_what_differs(make_run: MakeRun) -> None:
    runs = [make_run(inner={"steps": steps}, scores={"epochs": 5}) for steps in (3, 7)]
    (board,) = compared(*runs)
    titles = [row.title for row in board.rows if not row.baseline]
    assert titles == ["hydra, 0.1 kept (inner.steps=3)", "hydra, 0.1 kept (inner.steps=7)"]


def test_networks_that_differ_in_their_name_alone_are_all_in_the_grid(make_run: MakeRun) -> None:
    (board,) = compared(make_run(worst=60), make_run(worst=70, seed=1, name="again"))
    titles = [row.title for row in board.rows if not row.baseline]
    assert titles == ["hydra, 0.1 kept (name=invented)", "hydra, 0.1 kept (name=again)"]
    lines = grid_of(board).lines
    assert [(name, row.worst.mean) for name, (row,) in lines] == [
        ("hydra (name=invented)", pytest.approx(0.6)),
        ("hydra (name=again)", pytest.approx(0.7)),
    ]


def test_a_figure_that_one_seed_lacks_is_left_out(make_run: MakeRun) -> None:
    (board,) = compared(make_run(seed=0), make_run(seed=1, r=None, latency=None))
    hydra = board.rows[-1]
    assert hydra.r is None
    assert hydra.latency is None
    assert hydra.clean.mean == pytest.approx(0.84)


def test_the_front(make_run: MakeRun) -> None:
    runs = [
        make_run("hydra", density=0.1, worst=70),
        make_run("harp", density=0.1, worst=60),  # beaten at the same density
        make_run("admm", density=0.05, worst=60),
        make_run("rst", density=0.5, worst=70),  # no better than a sparser one
        make_run("lottery", density=0.5, worst=74),
    ]
    (board,) = compared(*runs)
    assert [row.title for row in board.front] == [
        "admm, 0.05 kept",
        "hydra, 0.1 kept",
        "lottery, 0.5 kept",
        "adversarial dense",
    ]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12),
)
def test_the_front_against_its_definition(points: list[tuple[int, int]]) -> None:
    rows = [
        SimpleNamespace(density=density, worst=SimpleNamespace(mean=worst))
        for density, worst in points
    ]
    front = {(row.density, row.worst.mean) for row in on_front(rows)}
    for density, worst in points:
        # the best at each density, if nothing sparser is as good
        best = max(w for d, w in points if d == density)
        sparser = [w for d, w in points if d < density]
        assert ((density, worst) in front) == (
            worst == best and all(other < worst for other in sparser)
        )


def certificates(run: Path, radii: list[float], method: str = "crown") -> list[Certificate]:
    return [
        Certificate(
            index=i,
            input="0" * 64,
            label=0,
            prediction=0,
            norm="linf",
            radius=radius,
            method=method,
            settings={"eps_max": 10.0, "rounds": 12, "steps": 20},
            confidence=1.0,
            hits=None,
            attack_radius=None,
            guarantee="base",
        )
        for i, radius in enumerate(radii)
    ]


def test_certified_counts_what_any_proof_covers(make_run: MakeRun) -> None:
    run = make_run()
    proofs = certificates(run, [0.05, 0.1, 0.2, 0.0])
    proofs += certificates(run, [0.3, 0.0, 0.0, 0.0], "ibp")
    manifest = Manifest(
        task="invented",
        model="hydra",
        weights="0" * 64,
        masks=None,
        config="0" * 64,
        data="0" * 64,
        norm="linf",
        eps=0.1,
        bounds=None,
        seed=0,
        n=4,
        total_failure=0.0,
        versions=dict.fromkeys(("robustprune", "python", "torch", "numpy", "scipy"), "0"),
        limits=("none",),
    )
    write_certificates(run / "certificates.jsonl", manifest, proofs)
    (board,) = compared(run)
    hydra = board.rows[-1]
    assert (hydra.certified.mean, hydra.certified.n) == (0.5, 4)  # 0.3 by ibp, 0.2 by crown


def test_csv_and_json_say_the_same(make_run: MakeRun) -> None:
    boards = compared(make_run(seed=0), make_run(seed=1, worst=74), make_run("harp", worst=1))
    lines = list(csv.DictReader(io.StringIO(as_csv(boards))))
    rows = [row for board in as_json(boards) for row in board["rows"]]
    assert [line["network"] for line in lines] == [row["network"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        for name in ("clean", "worst", "certified", "r", "latency"):
            figure = row[name] or {"mean": None, "sd": None}
            assert line[f"{name}_mean"] == ("" if figure["mean"] is None else str(figure["mean"]))
            assert line[f"{name}_sd"] == ("" if figure["sd"] is None else str(figure["sd"]))
        assert float(line["whole_density"]) == row["whole_density"]
        assert row["whole_density"] == pytest.approx(1 - (1000 - row["kept"]) / 1250)
    assert lines[2]["worst_mean"] == "0.72"
    json.dumps(rows, allow_nan=False)


def test_a_title_cannot_be_a_formula_or_markup(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(title='=cmd|"/c calc"!A1 <script>alert(1)</script> 50% & $x_1$')
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["task"]["name"] = "=1+1"
    (run / "metrics.json").write_text(json.dumps(metrics))
    boards = compared(run)
    assert "\n'=1+1," in as_csv(boards)
    assert "\n=" not in as_csv(boards)
    assert "\n'=cmd" not in as_csv(boards)
    assert ",\"'=cmd" in as_csv(boards)
    html, *_ = write_comparison(boards, tmp_path / "c", [run])
    assert "<script>" not in html.read_text()
    latex = as_latex(boards)
    assert r"50\% \& \$x\_1\$" in latex


def test_latex_is_booktabs_and_compiles(make_run: MakeRun, tmp_path: Path) -> None:
    latex = as_latex(compared(make_run(seed=0), make_run(seed=1, worst=74)))
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"$\pm$"):
        assert command in latex
    columns = len(re.search(r"\\begin{tabular}{(l.*)}", latex)[1])
    body = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    for line in body.strip().splitlines():
        assert line.count(" & ") + 1 == columns
        assert line.endswith(r"\\")
    if shutil.which("pdflatex"):
        text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        (tmp_path / "t.tex").write_text(f"{text}{latex}\\end{{document}}")
        subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True)


def test_the_page_is_whole(make_run: MakeRun, tmp_path: Path) -> None:
    boards = compared(make_run(), make_run("harp", density=0.2, eps=0.2))
    html, table, latex, grid = write_comparison(boards, tmp_path / "c", [])
    assert grid.read_text().count("| network") == 2
    text = html.read_text()
    HTMLParser().feed(text)
    assert text.count("<table") == 2
    assert text.count("<svg") == 8
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert len(list((tmp_path / "c" / "plots").glob("*.svg"))) == 8
    assert table.read_text().count("\n") == 7
    assert latex.read_text().count(r"\begin{table}") == 2


def test_a_grid_has_methods_down_and_densities_across(make_run: MakeRun) -> None:
    runs = [
        make_run(density=density, seed=seed, worst=worst + 2 * seed, clean=80)
        for density, worst in ((0.5, 70), (0.1, 60))
        for seed in (0, 1)
    ]
    runs.append(make_run("harp", density=0.1, worst=65))
    [board] = boards_of(gather(runs))
    grid = grid_of(board)
    assert grid.densities == (0.5, 0.1)
    assert [name for name, _ in grid.lines] == ["hydra", "harp"]
    (_, hydra), (_, harp) = grid.lines
    assert [row and row.worst.mean for row in hydra] == [pytest.approx(0.71), pytest.approx(0.61)]
    assert harp[0] is None
    assert harp[1] is not None
    lines = markdown_grid(board).splitlines()
    assert "2 seeds" in lines[0]
    assert "upper bound" in lines[0]
    assert lines[2] == "| network | dense | 0.5 | 0.1 |"
    assert "| hydra |  | 71.0 ± 1.4 / 80.0 | 61.0 ± 1.4 / 80.0 |" in lines
    [harp_line] = [line for line in lines if line.startswith("| harp")]
    assert harp_line.startswith("| harp |  |  | 65.0 [")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_grid(board))
    text = console.export_text()
    assert all(figure in text for figure in ("71.0", "61.0", "65.0", "80.0", "adversarial dense"))


def test_runs_are_found_beneath_folders(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run(seed=0), make_run(seed=1)
    assert find_runs([tmp_path / "runs"]) == [one.resolve(), two.resolve()]
    assert find_runs([one, one.parent]) == [one.resolve(), two.resolve()]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no finished run"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_runs([tmp_path / "nowhere"])
    shutil.copytree(one, tmp_path / "copy")
    with pytest.raises(ValueError, match="are the same config and seed"):
        gather([one, tmp_path / "copy"])


@pytest.mark.parametrize("alike", [True, False])
def test_a_terminal_of_80_characters_shows_every_column(make_run: MakeRun, alike: bool) -> None:
    title = "HARP, 0.1 kept, fine-tuned (inherit)"
    (board,) = compared(*(make_run("harp", seed=seed, title=title) for seed in range(3)))
    wide = {
        "certified": Measured((0.4, 0.0, 0.0)),
        "r": Measured((0.4, 0.2, 0.3)),
        "file_bytes": Measured((270_500.0,) * 3),
        "latency": Measured((0.0123, 0.0145, 0.0199)),
    }
    rows = [replace(row, **wide) for row in board.rows]
    rows[0] = replace(rows[0], seeds=rows[0].seeds[: 3 if alike else 2])
    board = replace(board, rows=tuple(rows))
    console = Console(width=80, file=io.StringIO())
    console.print(terminal_board(board))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert ("3 seeds" in shown.splitlines()[0]) == alike
    assert ("seeds" in shown.splitlines()[3]) != alike
    for text in ("natural", "HARP,", "fine-tuned", "70.0", "13.3", "± 23.1", "0.300", "± 0.100"):
        assert text in shown
    whole = f"{1 - (1000 - rows[-1].kept) / 1250:.2g}"
    for text in ("270.5 kB", "15.57", whole, " all "):
        assert text in shown


def test_bars_end_where_accuracies_do() -> None:
    spread = Measured((0.4, 0.0, 0.0))  # its sd, 0.23, is more than its mean
    sure = Measured((1.0, 0.9, 1.0))
    below, above = error_bars([spread, sure], most=1.0)
    assert below == pytest.approx([spread.mean, sure.sd])
    assert above == pytest.approx([spread.sd, 1 - sure.mean])
    single = Measured((0.5,), interval=(0.4, 0.7))
    assert np.ravel(error_bars([single])) == pytest.approx([0.1, 0.2])


def test_an_attack_is_told_without_what_the_board_says(make_run: MakeRun) -> None:
    run = make_run()
    metrics = json.loads((run / "metrics.json").read_text())
    said = repr(PGD(ThreatModel("linf", 0.1, (0.0, 1.0)), steps=3, seed=5))
    metrics["attacks"] = {"fgsm": {"description": said, "bound": "upper"}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (board,) = compared(run)
    assert board.attacks["fgsm"].startswith("PGD(steps=3, ")
    assert "seed" not in board.attacks["fgsm"]


def test_the_command(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(seed=0)
    make_run(seed=1, worst=74)
    assert main(["compare", str(tmp_path / "runs"), "--grid"]) == 0
    assert "weights kept" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr().out
    assert "72.0" in shown
    assert "± 2.8" in shown
    assert max(map(len, shown.partition("compare.html")[0].splitlines()[:-1])) <= 80
    assert "compare.tex" in shown
    assert main(["compare", str(tmp_path / "runs"), "--json", "--all"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["boards"][0]["rows"][2]["worst"]["values"] == [0.7, 0.74]
    assert main(["compare", str(tmp_path / "runs"), "--entry", "x"]) == 2
    assert "--entry needs --key" in capsys.readouterr().err


def test_runs_from_before_an_option_came_are_seeds_of_the_same_network(make_run: MakeRun) -> None:
    runs = [make_run(seed=0), make_run(seed=1), make_run(seed=2, eps=0.2)]
    older = runs[1] / "config.yaml"
    text = older.read_text()
    assert "  header: null\n" in text
    assert "deploy:\n  int8: false\n" in text
    older.write_text(text.replace("  header: null\n", "").replace("deploy:\n  int8: false\n", ""))
    first, second, other = (gather([run])[0].group for run in runs)
    assert first == second != other
