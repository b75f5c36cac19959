"""The user's own data in one file: held-out tests, columns by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustprune.run.naming import kind_of_data
from robustprune.tasks import load_task, own_examples, read_own

TABLE = "height,kind,width\n" + "".join(
    f"{i}.5,{'cat' if i % 2 else 'dog'},{-i}\n" for i in range(20)
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("layout", [None, "flat"])
def test_a_table_with_a_header_and_a_held_out_test_split(tmp_path: Path, layout: Any) -> None:
    path = write(tmp_path / "pets.csv", TABLE)
    task = load_task("csv", path=path, label="kind", test=0.25, layout=layout)
    assert task.name == "pets"
    assert task.input_shape == ((2,) if layout else (1, 2))
    assert task.class_names == ("cat", "dog")
    # a quarter of each class (2.5 of 10, rounded up), all rows are in one of the splits
    assert (len(task.train), len(task.test)) == (14, 6)
    assert task.test.y.bincount().tolist() == [3, 3]
    rows = torch.cat([task.train.x, task.test.x]).reshape(20, 2)
    assert sorted(rows[:, 0].tolist()) == [i + 0.5 for i in range(20)]
    assert torch.equal(rows[:, 1], 0.5 - rows[:, 0])
    y = torch.cat([task.train.y, task.test.y])
    assert torch.equal(y, 1 - (rows[:, 0] - 0.5).long() % 2)  # cat where i is odd
    again = load_task("csv", path=path, label="kind", test=0.25, layout=layout)
    assert torch.equal(again.test.x, task.test.x)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".ts", ".arff", ".npz"])
def test_every_format_may_be_a_single_file(tmp_path: Path, suffix: str) -> None:
    values = [[float(i), float(-i)] for i in range(10)]
    labels = ["ab"[i % 2] for i in range(10)]
    separator = "\t" if suffix == ".tsv" else ","
    path = tmp_path / f"one{suffix}"
    rows = [separator.join([y, *map(str, x)]) for x, y in zip(values, labels, strict=True)]
    if suffix == ".ts":
        rows = ["@classLabel true a b", "@data"]
        rows += [f"{','.join(map(str, x))}:{y}" for x, y in zip(values, labels, strict=True)]
    if suffix == ".arff":
        rows = ["@attribute a numeric", "@attribute b numeric", "@attribute c {a,b}", "@data"]
        rows += [f"{','.join(map(str, x))},{y}" for x, y in zip(values, labels, strict=True)]
    write(path, "\n".join(rows))
    if suffix == ".npz":
        np.savez(path, x=np.array(values)[:, None], y=np.array(labels))
    name = kind_of_data(path)
    with pytest.raises(ValueError, match=r"has no test split; set the option test to the share"):
        load_task(name, path=path)
    task = load_task(name, path=path, test=0.2)
    assert (len(task.train), len(task.test)) == (8, 2)
    assert task.input_shape == (1, 2)
    assert (task.train.y == task.train.x[:, 0, 0].long() % 2).all()


def test_a_share_is_refused_where_there_is_a_test_split(tmp_path: Path) -> None:
    x, y = np.zeros((4, 3)), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="has a test split of its own; leave out the option test"):
        load_task("npz", path=tmp_path / "a.npz", test=0.2)
    np.savez(tmp_path / "b.npz", x_test=x, y_test=y)
    with pytest.raises(ValueError, match="has test examples alone"):
        load_task("npz", path=tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"'ecg200' takes no test, got 0\.2; .* csv, images, npz"):
        load_task("ecg200", test=0.2)


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        (TABLE, {"label": "kinds"}, r"no column 'kinds' \(did you mean 'kind'\?\)"),
        (TABLE, {"label": "kind", "header": False}, "says that pets.csv has no names"),
        (TABLE.replace("width", "kind"), {"label": "kind"}, "has 2 columns 'kind'; rename one"),
        (TABLE + "1,cat\n", {"label": "kind"}, "line 22: 2 fields, but 3 in the header"),
        (TABLE + "1,cat,big\n", {"label": "kind"}, "line 22: 'big' is no number"),
        (TABLE + "1,,2\n", {"label": "kind"}, "line 22: the label '' means that it is missing"),
        ("", {"label": "kind"}, "has no column 'kind'"),
    ],
)
def test_tables_that_do_not_fit_their_options(
    tmp_path: Path, text: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        load_task("csv", path=write(tmp_path / "pets.csv", text), test=0.2, **options)


def examples(path: Path, share: float | None = None, **options: Any) -> tuple[list, list]:
    x, y = own_examples(read_own(kind_of_data(path), path, **options), share=share)
    return x.flatten(1).tolist(), y.tolist()


def test_examples_of_a_finished_network_keep_its_class_indices(tmp_path: Path) -> None:
    x = np.arange(3.0)[:, None]
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 2, 2]))
    assert examples(tmp_path / "a.npz") == ([[0.0], [1.0], [2.0]], [0, 2, 2])
    assert examples(write(tmp_path / "b.csv", "2,0\n0,1\n2,2\n"))[1] == [2, 0, 2]
    with pytest.warns(UserWarning, match="in sorted order: -1 is 0, 1 is 1"):
        assert examples(write(tmp_path / "c.csv", "1,0\n-1,1\n1,2\n"))[1] == [1, 0, 1]


def test_examples_are_numbered_as_for_a_run_where_there_is_a_training_split(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.npz"
    x = np.arange(4.0)[:, None]
    np.savez(path, x_train=x, y_train=np.array([1, 2, 3, 1]), x_test=x[:2], y_test=np.array([3, 1]))
    with pytest.warns(UserWarning, match="1 is 0, 2 is 1, 3 is 2"):
        assert examples(path) == ([[0.0], [1.0]], [2, 0])
    pets = write(tmp_path / "pets.csv", TABLE)
    task = load_task("csv", path=pets, label="kind", test=0.25)
    with pytest.warns(UserWarning, match="cat is 0, dog is 1"):
        found = examples(pets, share=0.25, label="kind")
    assert found == (task.test.x.flatten(1).tolist(), task.test.y.tolist())
