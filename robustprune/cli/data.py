"""Options for the user's own data, which all commands share that read them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from robustprune.cli.shared import path_argument
from robustprune.run.naming import kind_of_data

#: the options beside --data, which are fields of the config's section task
_FIELDS = ("label", "layout", "test")


def add_data_options(
    parser: argparse._ActionsContainer, place: argparse._ActionsContainer | None = None
) -> None:
    """Add --data and the options that say how to read it.

    place: the group for --data; None for the parser itself.
    """
    path_argument(
        place or parser,
        "--data",
        metavar="PATH",
        help="your own data: .npz, .csv, .tsv, .ts, .arff, .parquet, or a folder of pictures; for "
        "a causal language model a text: .txt, .jsonl, .parquet, or a folder of such files",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="column of the labels: first, last or its name; or the field that holds the text",
    )
    parser.add_argument(
        "--layout",
        choices=("channels_first", "channels_last", "flat"),
        help="where the channels of the data are; flat makes features (default: by the shape)",
    )
    parser.add_argument(
        "--test",
        metavar="SHARE",
        help="share of the examples to hold out, such as 0.2, if the data have no test split",
    )


def data_overrides(
    options: argparse.Namespace, *, place: bool = True, text: bool = False
) -> list[str]:
    """Return the overrides of a config by which it reads the user's data.

    Args:
        place: whether the kind and the path of the data are among them.
        text: whether they are running text, for a causal language model.

    Raises:
        FileNotFoundError, ValueError: as in `kind_of_data`, or an option has no effect on a text.
    """
    if text:
        return _text_overrides(options)
    found = []
    if place and options.data:
        path = Path(options.data).expanduser()
        found = [f"task.name={kind_of_data(path)}", f"task.path={json.dumps(str(path))}"]
    given = {name: getattr(options, name) for name in _FIELDS}
    return [
        *found,
        *(
            f"task.{k}={v if k == 'test' else json.dumps(v)}"
            for k, v in given.items()
            if v is not None
        ),
    ]


def _text_overrides(options: argparse.Namespace) -> list[str]:
    for name in ("layout", "test"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} has no effect on a causal language model; leave it out")
    found = []
    if options.data:
        found = [
            "task.name=corpus",
            f"task.path={json.dumps(str(Path(options.data).expanduser()))}",
        ]
    if options.label is not None:
        found.append(f"causal.field={json.dumps(options.label)}")
    return found
