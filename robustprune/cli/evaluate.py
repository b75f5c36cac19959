"""`robustprune evaluate` measures how robust your own network is, by the protocol of the runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from robustprune.cli.causal import evaluate_language_model, is_language_model
from robustprune.cli.own import add_own_options, load_own
from robustprune.cli.shared import Parser, add_command, answer, path_argument, silent
from robustprune.run.terminal import printable

MORE = ("apgd", "square", "autoattack")


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "clean and attacked accuracy, r* and sanity checks of your own network",
        about="Attack your own network: clean accuracy, each attack and the worst case per example "
        "with\n95% intervals, the distance r* to the nearest adversarial example, and checks of the"
        "\nevaluation itself. Attacked figures and r* are upper bounds.\nOf a causal language "
        "model it measures perplexity and sparsity.",
        examples=(
            ("nets:build --state net.safetensors --config rst_ecg200", "on a config's test set"),
            (
                "nets:build --state net.pt --data test.csv --label kind --layout flat --eps 0.1",
                "on your own table",
            ),
            (
                "nets:build --state net.safetensors --config rst_mnist --norm l2 --eps 2 --json",
                "another threat model",
            ),
            (
                "runs/lm_stories-1b2c3d4e/seed0/models/wanda-0.5 --config lm_stories",
                "a causal language model",
            ),
            (
                "stories260K --config lm_stories --lm-eval cloze --lm-eval-tasks mytasks",
                "and a task of lm-eval",
            ),
        ),
        run=_evaluate,
    )
    add_own_options(parser)
    parser.add_argument(
        "--attacks",
        nargs="*",
        choices=MORE,
        default=["autoattack"],
        help="attacks besides FGSM and PGD (default: autoattack, the standard protocol)",
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of PGD (default: %(default)s)")
    parser.add_argument(
        "--restarts", type=int, default=5, help="restarts of PGD (default: %(default)s)"
    )
    parser.add_argument(
        "--minimal",
        type=int,
        default=100,
        help="number of examples whose r* is measured, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--lm-eval",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks of EleutherAI's lm-eval, for a causal language model; their data sets must be "
        "on this machine",
    )
    path_argument(
        parser,
        "--lm-eval-tasks",
        folder=True,
        type=Path,
        metavar="FOLDER",
        help="folder with tasks of your own as YAML for --lm-eval; they can run code",
    )


def _evaluate(options: argparse.Namespace) -> int:
    for name, least in (("minimal", 0), ("steps", 1), ("restarts", 1)):
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"--{name} {value} must be at least {least}")
    if options.lm_eval_tasks is not None and not options.lm_eval:
        raise ValueError("--lm-eval-tasks has no effect without --lm-eval; name tasks with it")
    if is_language_model(options.model):
        return evaluate_language_model(options)
    if options.lm_eval:
        raise ValueError(
            "--lm-eval has no effect on a classifier; leave it out, or give the folder of a causal "
            "language model"
        )
    model, problem = load_own(options)
    from robustprune.pipeline.own import measure_network

    content = measure_network(
        model,
        problem,
        steps=options.steps,
        restarts=options.restarts,
        more=options.attacks,
        minimal=options.minimal,
        seed=options.seed,
        batch_size=options.batch_size,
        quiet=silent(options),
    )
    content = {"model": options.model, "source": problem.source, **content}
    answer(options, content, lambda: _show(content))
    return 0


def _show(content: dict[str, Any]) -> None:
    threat = content["threat"]
    about = f"{content['model']} on {content['n']} examples of {content['source']}"
    print(printable(f"{about}, {threat['norm']} eps {threat['eps']:g}"))
    for name, figure in {"clean": content["clean"], **content["robust"]}.items():
        low, high = (100 * end for end in figure["ci95"])
        kind = "" if name == "clean" else "  upper bound"
        print(f"  {name:<12} {100 * figure['value']:6.1f}%  [{low:.1f}, {high:.1f}]{kind}")
    r = content["minimal"]
    if r:
        quartiles = ", ".join("none" if r[q] is None else f"{r[q]:.4g}" for q in ("q25", "q75"))
        middle = "none" if r["median"] is None else f"{r['median']:.4g}"
        print(f"  median r*    {middle}  quartiles [{quartiles}], n = {r['n']}  upper bound")
    for finding in content["findings"]:
        said = printable(f"{finding['name']}: {finding['detail']}")
        print(f"  {'ok  ' if finding['ok'] else 'WARN'} {said}")
