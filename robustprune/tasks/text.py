"""Load sentences as a `Task`: GLUE and other sets from a folder, your own, or a packaged sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from robustprune.packing import with_room, words
from robustprune.run.suggest import did_you_mean
from robustprune.tasks.folders import data_folder
from robustprune.tasks.labels import encode_labels
from robustprune.tasks.task import Split, Task
from robustprune.tasks.text_files import LAYOUTS, Sentences, parse_table, read_layout, read_own

SAMPLE = "sst2_sample"
OWN = "text"
_SOURCES = {
    "sst2": "SST-2, Socher et al. 2013 (EMNLP), as in GLUE, arXiv 1804.07461",
    "ag_news": "AG News, Zhang et al. 2015, arXiv 1509.01626",
    "imdb": "IMDB, Maas et al. 2011 (ACL)",
    "qnli": "QNLI, Rajpurkar et al. 2016, arXiv 1606.05250, as in GLUE, arXiv 1804.07461",
    "qqp": "Quora Question Pairs, as in GLUE, arXiv 1804.07461",
    "mnli": "MultiNLI (matched), Williams et al. 2018, arXiv 1704.05426, as in GLUE",
}


class Encoder(Protocol):
    """It turns sentences into codes. `robustprune.models.SentenceTokenizer` is one."""

    width: int

    def __call__(self, first: Sequence[str], second: Sequence[str] | None = None) -> Tensor: ...


def text_names() -> list[str]:
    """Return the names that `text_task` knows."""
    return sorted([SAMPLE, OWN, *LAYOUTS])


def load_sentences(
    name: str, *, data_dir: Path | None = None, path: Path | None = None
) -> tuple[Sentences, Sentences]:
    """Load the train and test sentences as they are written.

    Args:
        name: sst2_sample is packaged; sst2, ag_news, imdb, qnli, qqp and mnli are read from
            `data_dir` (see `text_files.LAYOUTS`); text is a folder of your own (see
            `text_files.read_own`).
        path: the folder, only for the name "text".

    Raises:
        ValueError: the name is unknown, or a file is malformed.
        FileNotFoundError: a folder or file is missing.
    """
    if name == SAMPLE:
        return _packaged("sst2_train.tsv"), _packaged("sst2_dev.tsv")
    if name == OWN:
        if path is None:
            raise ValueError("task 'text' needs path, the folder with train.tsv and test.tsv")
        return read_own(Path(path).expanduser())
    if name not in LAYOUTS:
        raise ValueError(
            f"unknown text task '{name}'{did_you_mean(name, text_names())}; "
            f"use one of {', '.join(text_names())}"
        )
    return read_layout(LAYOUTS[name], data_folder(data_dir))


def text_task(
    name: str, encoder: Encoder, *, data_dir: Path | None = None, path: Path | None = None
) -> Task:
    """Load a text data set and tokenise it.

    x holds the codes of `robustprune.packing`, (N, T, 3); every batch gets room for δ.

    Args:
        encoder: the tokenizer of the model that will read the sentences.
        name, data_dir, path: as in `load_sentences`.

    Raises:
        ValueError, FileNotFoundError: as in `load_sentences`.
    """
    both = load_sentences(name, data_dir=data_dir, path=path)
    labels = [np.array(part.labels) for part in both]
    *encoded, class_names = encode_labels(
        labels[0], labels[1], where=f"task '{name}'", checked=True
    )
    codes = [encoder(part.first, part.second) for part in both]
    longest = max(part.shape[1] for part in codes)
    train, test = (
        Split(F.pad(x, (0, 0, 0, longest - x.shape[1])), y, partial(with_room, width=encoder.width))
        for x, y in zip(codes, encoded, strict=True)
    )
    return Task(
        name=name,
        train=train,
        test=test,
        num_classes=len(class_names),
        class_names=class_names,
        bounds=None,
        mean=None,
        std=None,
        augment=None,
        support=words,
        texts=both[1].written,
        source=_SOURCES.get(name) or (_SOURCES["sst2"] + ", a sample" if name == SAMPLE else name),
    )


def _packaged(file: str) -> Sentences:
    path = resources.files("robustprune") / "data" / "text" / file
    _, rows = parse_table(path.read_text(encoding="utf-8"), tabs=True, where=file)
    sentences, labels = (tuple(row[column] for row, _ in rows) for column in (0, 1))
    return Sentences(tuple(sentence.strip() for sentence in sentences), None, labels)
