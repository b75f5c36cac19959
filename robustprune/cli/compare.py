"""`robustprune compare` puts finished runs into one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustprune.cli.shared import Parser, add_command, answer, path_argument
from robustprune.run.terminal import printable


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "compare",
        "finished runs in one table: terminal, HTML, CSV, LaTeX",
        about="Put the headline networks of runs, and the dense ones beside them, in one table for "
        "each task\nand threat model: clean, robust and certified accuracy, r*, size, latency; "
        "mean ± sd over\nseeds; the Pareto front of density against robust accuracy. Of causal "
        "language models: perplexity.",
        examples=(
            ("runs", "all finished runs beneath a folder"),
            ("runs --grid", "every network: methods down, densities across"),
            ("runs/a-1b2c3d4e runs/b-5f6a7b8c --out comparison", "with HTML, CSV, LaTeX, plots"),
            (
                "runs/hydra-1b2c3d4e --entry entry --key HYDRA_Sehwag2020Hydra --paper URL",
                "for the adversarial pruning benchmark",
            ),
        ),
        run=_compare,
    )
    path_argument(
        parser,
        "runs",
        nargs="+",
        folder=True,
        type=Path,
        metavar="RUN",
        help="run directories, or folders that hold some",
    )
    parser.add_argument(
        "--all", action="store_true", help="show every network, not only the headline models"
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="show every network by method and density, with robust and clean accuracy",
    )
    path_argument(
        parser,
        "--out",
        folder=True,
        type=Path,
        help="folder for compare.html, compare.csv, compare.tex, grid.md and plots/; of causal "
        "language models, for language_models.html, .csv and .md",
    )
    path_argument(
        parser,
        "--entry",
        folder=True,
        type=Path,
        help="folder for an entry of the adversarial pruning benchmark",
    )
    parser.add_argument("--key", help="the entry's key, in the form NAME_Author2026Word")
    parser.add_argument("--paper", default="", metavar="URL", help="link to the paper of the entry")


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from robustprune.compare import (
        as_json,
        benchmark_entry,
        boards_of,
        causal_boards,
        causal_json,
        find_runs,
        gather,
        is_causal_run,
        terminal_board,
        terminal_causal,
        terminal_grid,
        write_causal,
        write_comparison,
        write_entry,
    )

    if options.entry and not options.key:
        raise ValueError("--entry needs --key, the benchmark's name of your method")
    runs = find_runs(options.runs)
    texts = [run for run in runs if is_causal_run(run)]
    others = [run for run in runs if run not in texts]
    if options.entry and not others:
        raise ValueError("--entry is for classifiers, and all of these runs are on language models")
    results = gather(others, everything=options.all or options.grid)
    boards, language = boards_of(results), causal_boards(texts)
    files = write_comparison(boards, options.out, others) if options.out and others else []
    files += write_causal(language, options.out, texts) if options.out and texts else []
    entry = None
    if options.entry:
        from robustprune.pipeline.methods import ROWS

        entry = benchmark_entry(results, key=options.key, paper=options.paper, methods=ROWS)
        files += write_entry(entry, options.entry)

    def show() -> None:
        for board in boards:
            Console().print(terminal_grid(board) if options.grid else terminal_board(board))
        for found in language:
            Console().print(terminal_causal(found))
        for line in entry["deviations"] if entry else ():
            print(printable(f"the entry differs from what the benchmark asks for: {line}"))
        for file in files:
            print(printable(str(file)))

    content = {
        "runs": [str(run) for run in runs],
        "boards": as_json(boards),
        "language_models": causal_json(language),
        "entry": entry,
        "files": [str(file) for file in files],
    }
    answer(options, content, show)
    return 0
