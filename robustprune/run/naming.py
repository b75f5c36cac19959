"""Name a run after its task, and a task after its file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from robustprune.run.settings import TaskSection
from robustprune.run.terminal import shown

#: the largest number of characters of a name that comes from a path
_LONGEST = 60


def data_label(path: Path) -> str:
    """Return a name for the data at `path`: "Coffee" for .../Coffee_TRAIN.ts, and for a folder."""
    whole = path.expanduser().resolve()  # "." has a name, too
    stem = whole.name if whole.is_dir() else whole.stem
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem.removesuffix("_TRAIN")).strip("-._")
    return label[:_LONGEST] or "data"


def task_label(task: Mapping[str, Any]) -> str:
    """Return a name for a task section, whose values are not checked yet."""
    if path := task.get("path"):
        return data_label(Path(str(path)))
    name = str(task.get("name", TaskSection().name)).rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-._") or "task"


def is_function(name: str) -> bool:
    """Return whether the name of a network is a `package.module:function` of the user."""
    return ":" in name


def check_code_is_named(name: str, named: Collection[str | None]) -> None:
    """Check that code that would be imported is named by the user, and not only by a file.

    A config may come from somebody else, and importing a module runs its code.

    Args:
        name: the network that a config names.
        named: the networks that the user names, on the command line or in Python.

    Raises:
        ValueError: only the config names the function.
    """
    if is_function(name) and name not in named:
        raise ValueError(
            f"the config names {shown(repr(name))} as its network, whose module would be imported, "
            "which runs its code; if you trust it, name it yourself: --model "
            "PACKAGE.MODULE:FUNCTION, or network=... in Python"
        )


#: the task that reads a file, by its suffix
_KINDS = {
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "series",
    ".ts": "series",
    ".arff": "series",
    ".parquet": "parquet",
    ".arrow": "parquet",
}
#: suffixes of the pictures in a folder of images
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def kind_of_data(path: Path) -> str:
    """Return the name of the task that reads the data at `path`, by its suffix or its content.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: no task reads it.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if not path.is_dir():
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            raise ValueError(
                f"{path} has the suffix {path.suffix or '(none)'}; give a file with "
                f"{', '.join(_KINDS)}, or a folder of images; a text needs the config of a causal "
                "language model, such as lm_stories"
            )
        return kind
    for pattern in ("*_TRAIN.*", "*.parquet", "*.arrow", "*/data-*.arrow", "*/*.*", "*/*/*.*"):
        for file in islice(path.glob(pattern), 1000):
            suffix = file.suffix.lower()
            if "/" in pattern and suffix in PICTURES:
                return "images"
            if ("/" not in pattern or suffix == ".arrow") and suffix in _KINDS:
                return _KINDS[suffix]
    raise ValueError(
        f"{path} is a folder without <Name>_TRAIN files, .parquet or .arrow files, or folders of "
        "images, one for each class"
    )
