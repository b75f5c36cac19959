"""`robustprune list` shows all choices, with one line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from robustprune.cli.shared import Parser, add_command, answer
from robustprune.run.packaged import config_names, config_path
from robustprune.run.suggest import did_you_mean

TASKS = {
    "ag_news": "news in four classes, AGNews/{train,test}.csv in --data-dir",
    "cifar10": "images (3, 32, 32), by torchvision or from --data-dir",
    "corpus": "your own text for a causal language model, .txt, .jsonl, .parquet or .arrow",
    "csv": "your own series or features, from a .csv file",
    "ecg200": "ECG200 of the UCR archive, packaged: 100 + 100 series of length 96",
    "fashion_mnist": "images (1, 28, 28), by torchvision or from --data-dir",
    "images": "your own pictures, in a folder with a folder for each class",
    "imdb": "film reviews, IMDB/{train,test}.csv in --data-dir",
    "mnist": "images (1, 28, 28), by torchvision or from --data-dir",
    "mnli": "pairs of sentences of GLUE, MNLI/{train,dev_matched}.tsv in --data-dir",
    "npz": "your own arrays: x_train, y_train, x_test, y_test; or x and y",
    "parquet": "your own series, features or pictures, from a .parquet file",
    "qnli": "pairs of sentences of GLUE, QNLI/{train,dev}.tsv in --data-dir",
    "qqp": "pairs of sentences of GLUE, QQP/{train,dev}.tsv in --data-dir",
    "series": "your own series, from .tsv, .ts or .arff files",
    "sony_aibo_1": "SonyAIBORobotSurface1 of the UCR archive, packaged",
    "sst2": "sentences of GLUE, SST-2/{train,dev}.tsv in --data-dir",
    "sst2_sample": "600 + 160 sentences of SST-2, packaged",
    "stories": "TinyStories for causal language models, a sample, packaged",
    "text": "your own sentences, from a folder of .tsv or .csv files",
    "tinystories": "text of causal language models, TinyStories/tiny_stories.txt in --data-dir",
    "ucr:<Name>": "any set of the UCR or UEA archive in --data-dir",
    "wikitext2": "text of causal language models, WikiText-2/{train,test}.txt in --data-dir",
}
KINDS = ("methods", "solvers", "tasks", "models", "attacks", "configs")


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "list",
        "methods, solvers, tasks, models, attacks and configs, with a line each",
        about="Show all methods, solvers of pruning without training, tasks, models, attacks and "
        "configs that can be chosen.",
        examples=(("", "everything"), ("methods tasks", "two kinds"), ("--json", "for scripts")),
        run=_list,
    )
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"any of {', '.join(KINDS)} (default: all)"
    )


def _list(options: argparse.Namespace) -> int:
    unknown = [kind for kind in options.kinds if kind not in KINDS]
    if unknown:
        near = did_you_mean(unknown[0], KINDS)
        raise ValueError(f"there is no kind {unknown[0]!r}{near}; choose any of {', '.join(KINDS)}")
    found = {kind: dict(_LISTED[kind]()) for kind in options.kinds or KINDS}
    answer(options, found, lambda: print("\n\n".join(map(_section, found, found.values()))))
    return 0


def _section(kind: str, entries: Mapping[str, str]) -> str:
    wide = max(map(len, entries), default=0)
    return "\n".join([f"{kind}:", *(f"  {name:<{wide}}  {what}" for name, what in entries.items())])


def _methods() -> dict[str, str]:
    from robustprune.pipeline.methods import ROWS

    return {name: method.summary for name, method in ROWS.items()}


def _solvers() -> dict[str, str]:
    from robustprune.layerwise import SOLVERS

    return {
        name: f"{solver.summary} ({solver.citation})" if solver.citation else solver.summary
        for name, solver in SOLVERS.items()
    }


def _models() -> dict[str, str]:
    from robustprune.models.build import model_summaries

    causal = "a causal language model of transformers: packaged, a folder or a hub id"
    return dict(sorted({**model_summaries(), "causal": causal}.items()))


def _attacks() -> dict[str, str]:
    import attacks

    classes = ((name, getattr(attacks, name)) for name in attacks.__all__)
    return {
        name: _first_line(value)
        for name, value in classes
        if isinstance(value, type)
        and any("__call__" in vars(base) for base in value.__mro__)
        and hasattr(value, "__dataclass_fields__")
    }


def _configs() -> dict[str, str]:
    """Return the first comment of each packaged config."""
    first = {n: config_path(n).read_text(encoding="utf-8").splitlines()[0] for n in config_names()}
    return {name: line.lstrip("# ") for name, line in first.items()}


def _first_line(value: type) -> str:
    return (value.__doc__ or "").strip().splitlines()[0]


_LISTED: dict[str, Callable[[], Mapping[str, str]]] = {
    "methods": _methods,
    "solvers": _solvers,
    "tasks": lambda: TASKS,
    "models": _models,
    "attacks": _attacks,
    "configs": _configs,
}
