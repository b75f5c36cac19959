"""Whatever a config or a data file holds, reading it ends in a value or in one clear error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fuzzing import NASTY, clear, fuzz, mutated
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.packaged import config_names, config_path
from robustprune.tasks import Task
from robustprune.tasks.arrays import npz_task
from robustprune.tasks.series_files import csv_task, series_task

#: inputs in a usual run, and how many times more every night
FEW, MORE = 40, 400
Check = Callable[[Any], None]

CONFIGS = tuple(config_path(name).read_bytes() for name in config_names())
FIELDS = sorted(
    {*Config.model_fields}
    | {
        field
        for section in Config.model_fields.values()
        for field in getattr(section.annotation, "model_fields", {})
    }
)
ROWS = "1{0}0.5{0}-1e-3{0}2\n2{0}0.25{0}3{0}?\n1{0}4{0}5{0}6\n"
TS = "@problemName x\n@dimensions 2\n@classLabel true a b\n@data\n1,2:3,4:a\n5,6:7,8:b\n"
ARFF = "@relation x\n@attribute t1 numeric\n@attribute c {a,b}\n@data\n1,a\n2,b\n'1,2\\n3,4',a\n"
SERIES = {
    ".tsv": ROWS.format("\t").encode(),
    ".csv": ROWS.format(",").encode(),
    ".ts": TS.encode(),
    ".arff": ARFF.encode(),
}


def npz(**changes: np.ndarray) -> bytes:
    """A small file of arrays that is as it should be, but for `changes`."""
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1])
    file = io.BytesIO()
    np.savez(file, **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes})
    return file.getvalue()


def packed() -> bytes:
    """The same, compressed, of images and named classes."""
    x, y = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.array(["cat", "dog"])
    file = io.BytesIO()
    np.savez_compressed(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(NASTY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
OVERRIDES = tuple(
    text.encode()
    for text in (
        "threat.eps=8/255",
        "search.density=[0.1, 0.5]",
        "seed=1",
        "model.options.a={b: c}",
    )
)
SOME_ARRAY = st.builds(
    lambda key, array: npz(**{key: array}),
    st.sampled_from(("x_train", "y_train", "x_test", "y_test")),
    arrays.arrays(
        arrays.scalar_dtypes(),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
)


def is_whole(config: object) -> None:
    """A config that was taken comes back from its own text, and has a digest."""
    if config is not None:
        assert isinstance(config, Config)
        assert len(config.digest()) == 8
        assert parse_config(cast(dict[str, Any], config.model_dump())) == config


def is_sound(task: object) -> None:
    """Data that were taken can be trained on."""
    if task is not None:
        assert isinstance(task, Task)
        for split in (task.train, task.test):
            assert bool(torch.isfinite(split.x).all())
            assert int(split.y.min()) >= 0
            assert int(split.y.max()) < task.num_classes


def config_file(folder: Path) -> Check:
    def check(content: bytes) -> None:
        (folder / "c.yaml").write_bytes(content)
        is_whole(clear(lambda: load_config(folder / "c.yaml")))

    return check


def config_tree(folder: Path) -> Check:
    def check(tree: dict[str, Any]) -> None:
        is_whole(clear(lambda: parse_config(tree)))

    return check


def override(folder: Path) -> Check:
    (folder / "c.yaml").write_bytes(CONFIGS[0])

    def check(content: bytes) -> None:
        text = content.decode(errors="replace")
        is_whole(clear(lambda: load_config(folder / "c.yaml", [text])))

    return check


def series(folder: Path) -> Check:
    def check(drawn: tuple[str, bytes, bool, str, str, str]) -> None:
        suffix, content, as_test, length, missing, label = drawn
        files = [folder / f"x_{part}{suffix}" for part in ("TRAIN", "TEST")]
        files[not as_test].write_bytes(SERIES[suffix])
        files[as_test].write_bytes(content)
        options: dict[str, Any] = {"length": length, "missing": missing}
        if suffix == ".csv":
            is_sound(clear(lambda: csv_task(files[0], label=label, **options)))
        else:
            is_sound(clear(lambda: series_task(files[0], **options)))

    return check


def npz_file(folder: Path) -> Check:
    def check(content: bytes) -> None:
        (folder / "a.npz").write_bytes(content)
        is_sound(clear(lambda: npz_task(folder / "a.npz", bounds=None)))

    return check


SERIES_INPUTS = st.sampled_from(sorted(SERIES)).flatmap(
    lambda suffix: st.tuples(
        st.just(suffix),
        mutated([SERIES[suffix]]),
        st.booleans(),
        st.sampled_from(("refuse", "pad", "truncate")),
        st.sampled_from(("refuse", "interpolate", "zero")),
        st.sampled_from(("first", "last")),
    )
)
#: reader -> (how to make its check, what it reads)
READERS: dict[str, tuple[Callable[[Path], Check], st.SearchStrategy[Any]]] = {
    "config file": (config_file, mutated(CONFIGS)),
    "config tree": (config_tree, st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)),
    "override": (override, mutated(OVERRIDES)),
    "series": (series, SERIES_INPUTS),
    "npz": (npz_file, mutated([npz(), packed()])),
    "arrays": (npz_file, SOME_ARRAY),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_gives_a_value_or_a_clear_error(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_over_many_inputs(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, FEW * MORE)
