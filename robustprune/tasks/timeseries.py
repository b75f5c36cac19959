"""Univariate series of the UCR archive: two sets packaged here, every other one from a folder.

The series come z-normalised, each to mean 0 and standard deviation 1, and have no bounds: eps is
in those units.

Dau et al., The UCR Time Series Archive, 2018, arXiv 1810.07758.
"""

import re
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.folders import data_folder
from robustprune.tasks.labels import encode_labels
from robustprune.tasks.task import Split, Task

_CITATION = "Dau et al., The UCR Time Series Archive, 2018, arXiv 1810.07758"


def packaged_ucr(task_name: str, set_name: str) -> Task:
    """The UCR set `set_name` that is part of this package, as the task `task_name`.

    Train and test x are (N, 1, L) float32.
    """
    folder = resources.files("robustprune") / "data" / "ucr"
    texts = [
        (folder / f"{set_name}_{part}.tsv").read_text(encoding="utf-8")
        for part in ("TRAIN", "TEST")
    ]
    return _ucr_task(task_name, set_name, texts[0], texts[1])


def ucr_from_folder(set_name: str, *, data_dir: Path | None) -> Task:
    """The UCR set in DATA_DIR/UCR/<set_name>/ or DATA_DIR/<set_name>/, as in the archive.

    The folder holds <set_name>_TRAIN.tsv and <set_name>_TEST.tsv: one series a row, the label
    first, tabs between. Train and test x are (N, 1, L) float32.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a name that is not a plain set name, or a malformed file (with its line).
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", set_name):
        raise ValueError(
            f"'{set_name}' is no name of a UCR set; letters, digits, '-' and '_' only, "
            "for example ucr:ECGFiveDays"
        )
    root = data_folder(data_dir)
    candidates = [root / "UCR" / set_name, root / set_name]
    folder = next((c for c in candidates if c.is_dir()), None)
    if folder is None:
        known = [f.name for base in (root / "UCR", root) if base.is_dir() for f in base.iterdir()]
        raise FileNotFoundError(
            f"UCR set '{set_name}' is in neither {candidates[0]} nor {candidates[1]}"
            f"{did_you_mean(set_name, known)}; put {set_name}_TRAIN.tsv and {set_name}_TEST.tsv "
            "there, or name another data_dir"
        )
    files = [folder / f"{set_name}_{part}.tsv" for part in ("TRAIN", "TEST")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; put both _TRAIN.tsv and _TEST.tsv there")
    train, test = (file.read_text(encoding="utf-8") for file in files)
    return _ucr_task(f"ucr:{set_name}", set_name, train, test)


def parse_tsv(text: str, *, where: str) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float32]]:
    """Read rows of label, tab, values.

    Returns:
        (N,) labels as text and (N, L) float32 values; NaN is kept for the caller to refuse.

    Raises:
        ValueError: no rows, a row of another length than the first, or a value that is no number.
    """
    labels: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        label, *fields = line.split("\t")
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise ValueError(
                f"{where}, line {number}: {error}; every value after the label must be a number"
            ) from None
        if not row or (rows and len(row) != len(rows[0])):
            expected = f"{len(rows[0])} as in the first row" if rows else "at least 1"
            raise ValueError(
                f"{where}, line {number}: {len(row)} values, expected {expected}; "
                "separate by tabs and make all series the same length"
            )
        labels.append(label.strip())
        rows.append(row)
    if not rows:
        raise ValueError(f"{where}: empty; give one series per line, the label first")
    return np.array(labels, dtype=np.str_), np.array(rows, dtype=np.float32)


def _ucr_task(task_name: str, set_name: str, train_text: str, test_text: str) -> Task:
    labels_train, x_train = parse_tsv(train_text, where=f"{set_name}_TRAIN.tsv")
    labels_test, x_test = parse_tsv(test_text, where=f"{set_name}_TEST.tsv")
    y_train, y_test, names = encode_labels(labels_train, labels_test, where=f"task '{task_name}'")
    return Task(
        name=task_name,
        train=Split(torch.from_numpy(x_train).unsqueeze(1), y_train),
        test=Split(torch.from_numpy(x_test).unsqueeze(1), y_test),
        num_classes=len(names),
        class_names=names,
        bounds=None,
        mean=None,
        std=None,
        augment=None,
        source=f"{set_name} of the UCR archive; {_CITATION}",
    )
