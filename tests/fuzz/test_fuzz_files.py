"""Whatever a data file holds, reading it ends in what it says or in one clear error."""

from __future__ import annotations

import io
import re
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fuzzing import FEW, MANY, clear, fuzz, mutated
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustprune.run.checkpoint import load_latest, load_tensors, save_tensors
from robustprune.tasks import Sentences, Task, load_sentences, load_task
from robustprune.tasks.images import mnist

Check = Callable[[Any], None]

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


def members(name: str, content: bytes) -> bytes:
    """The same file, whole as an archive, but one of its arrays is `content`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz())) as good, zipfile.ZipFile(file, "w") as out:
        for info in good.infolist():
            out.writestr(info.filename, content if info.filename == name else good.read(info))
    return file.getvalue()


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def packed() -> bytes:
    """The same, compressed, of images and named classes."""
    x, y = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.array(["cat", "dog"])
    file = io.BytesIO()
    np.savez_compressed(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


SOME_ARRAY = st.builds(
    lambda key, array: npz(**{key: array}),
    st.sampled_from(("x_train", "y_train", "x_test", "y_test")),
    arrays.arrays(
        arrays.scalar_dtypes(),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
)


def is_sound(task: object) -> None:
    """Data that were taken can be trained on."""
    if task is not None:
        assert isinstance(task, Task)
        for split in (task.train, task.test):
            assert bool(torch.isfinite(split.x).all())
            assert int(split.y.min()) >= 0
            assert int(split.y.max()) < task.num_classes


def rows_in(content: bytes, suffix: str) -> int | None:
    """How many examples a file of series holds, counted by lines; None where quotes, or a row that
    only a parser would tell from an empty one, leave that open."""
    text = content.decode("utf-8-sig", "surrogateescape")
    if '"' in text or ("\r" in text and "\n" not in text):
        return None
    lines = [line.strip() for line in re.split(r"\r?\n", text)]
    if suffix in (".csv", ".tsv"):
        return sum(bool(line.strip(" \t,")) for line in lines) if "\x1f" not in text else None
    return sum(bool(line) and line[0] not in "#%@" for line in lines)


def series_are_whole(task: object, files: list[Path], headers: int) -> None:
    """No row of data that were taken is lost: each is an example, or was said to be a header."""
    if not isinstance(task, Task):
        return
    counts = [rows_in(file.read_bytes(), file.suffix) for file in files]
    if None not in counts:
        examples = len(task.train) + len(task.test)
        assert examples + headers == sum(count or 0 for count in counts)


def series(folder: Path) -> Check:
    def check(drawn: tuple[str, bytes, bool, str, str, str]) -> None:
        suffix, content, as_test, length, missing, label = drawn
        files = [folder / f"x_{part}{suffix}" for part in ("TRAIN", "TEST")]
        files[not as_test].write_bytes(SERIES[suffix])
        files[as_test].write_bytes(content)
        options: dict[str, Any] = {"length": length, "missing": missing}

        def read() -> Task:
            if suffix == ".csv":
                return load_task("csv", path=files[0], label=label, **options)
            return load_task("series", path=files[0], **options)

        told: list[str] = []
        task = clear(read, told)
        is_sound(task)
        series_are_whole(task, files, sum("taken for a header" in one for one in told))

    return check


def stored(file: Path, key: str) -> np.ndarray:
    """An array as numpy reads it."""
    with zipfile.ZipFile(file) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
        array: np.ndarray = np.load(io.BytesIO(archive.read(f"{key}.npy")))
        return array


def npz_file(folder: Path) -> Check:
    def check(content: bytes) -> None:
        (folder / "a.npz").write_bytes(content)
        task = clear(lambda: load_task("npz", path=folder / "a.npz"))
        is_sound(task)
        if isinstance(task, Task):
            for split, key in ((task.train, "x_train"), (task.test, "x_test")):
                array = stored(folder / "a.npz", key)
                values = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
                assert np.allclose(np.sort(values.ravel()), np.sort(split.x.numpy().ravel()))

    return check


def idx_files(folder: Path) -> Check:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        for name, content in IDX.items():
            (raw / f"{prefix}-{name}-ubyte").write_bytes(content)

    def check(drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        file = raw / f"train-{name}-ubyte"
        file.write_bytes(content)
        task = clear(lambda: mnist(data_dir=folder, download=False))
        file.write_bytes(IDX[name])
        is_sound(task)
        if isinstance(task, Task) and name == "images-idx3":
            stored = np.frombuffer(content[16:], dtype=np.uint8)
            assert (task.train.x.numpy().ravel() * 255).round().tolist() == stored.tolist()

    return check


def sentences(folder: Path) -> Check:
    def check(drawn: tuple[str, bytes, bool]) -> None:
        suffix, content, as_test = drawn
        for file in folder.glob("*.?sv"):
            file.unlink()
        for part, changed in (("train", not as_test), ("test", as_test)):
            text = content if changed else SENTENCES[suffix]
            (folder / f"{part}{suffix}").write_bytes(text)
        found = clear(lambda: load_sentences("text", path=folder))
        if found is not None:
            for part in cast(tuple[Sentences, Sentences], found):
                assert len(part.first) == len(part.labels) > 0
                assert all(sentence.strip() for sentence in part.first)
                assert all(label.strip(" ?") for label in part.labels)

    return check


def tensor_file(folder: Path) -> Check:
    def check(content: bytes) -> None:
        (folder / "a.safetensors").write_bytes(content)
        found = clear(lambda: load_tensors(folder / "a.safetensors"))
        if found is not None:
            tensors, meta = cast(tuple[dict[str, torch.Tensor], dict[str, Any]], found)
            assert isinstance(meta, dict)
            # what carries a digest is what was written; without one it is somebody else's file
            assert not meta or (meta == META and torch.equal(tensors["w"], WEIGHTS))
        assert clear(lambda: load_latest(folder / "a.safetensors")) is None or found is not None

    return check


META, WEIGHTS = {"epoch": 3}, torch.arange(6.0).reshape(2, 3)
IDX = {
    "images-idx3": idx(np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)),
    "labels-idx1": idx(np.array([3, 9], dtype=np.uint8)),
}
SENTENCES = {
    ".tsv": b'sentence\tlabel\na fine film\t1\nnot "so" good\t0\n',
    ".csv": b'text,text_pair,label\n"a, b","said ""c""",x\nd,e,y\n',
}


def checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "a.safetensors", {"w": WEIGHTS}, META)
        return (Path(folder) / "a.safetensors").read_bytes()


MEMBERS = {
    "x_train.npy": member(np.arange(12, dtype=np.float32).reshape(4, 3)),
    "y_train.npy": member(np.array(["a", "b", "a", "b"])),
}
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
    "series": (series, SERIES_INPUTS),
    "npz": (npz_file, mutated([npz(), packed()])),
    "npz member": (
        npz_file,
        st.sampled_from(sorted(MEMBERS)).flatmap(
            lambda name: mutated([MEMBERS[name]]).map(lambda content: members(name, content))
        ),
    ),
    "arrays": (npz_file, SOME_ARRAY),
    "idx": (
        idx_files,
        st.sampled_from(sorted(IDX)).flatmap(
            lambda name: st.tuples(st.just(name), mutated([IDX[name]]))
        ),
    ),
    "sentences": (
        sentences,
        st.sampled_from(sorted(SENTENCES)).flatmap(
            lambda suffix: st.tuples(st.just(suffix), mutated([SENTENCES[suffix]]), st.booleans())
        ),
    ),
    "checkpoint": (tensor_file, mutated([checkpoint()])),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_gives_a_value_or_a_clear_error(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_over_many_inputs(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, MANY)
