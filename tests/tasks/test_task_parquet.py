"""The user's own parquet and arrow files, and saved data sets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustprune.run.naming import kind_of_data
from robustprune.tasks import load_task, read_own


def parquet(path: Path, **columns: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra tables")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)
    return path


def test_a_table_is_not_read_if_it_is_larger_than_memory(tmp_path: Path) -> None:
    table = parquet(tmp_path / "a.parquet", x=[1.0] * 4, label=[0, 1, 0, 1])
    with table.open("ab") as opened:
        opened.truncate(2**36)  # 64 GiB, of which the disk holds nothing
    with pytest.raises(ValueError, match=r"a\.parquet: its content would take 64 GiB"):
        load_task("parquet", path=table, test=0.5)


def test_parquet_of_numbers_lists_and_pictures(tmp_path: Path) -> None:
    y = ["a", "b"] * 5
    numbers = parquet(tmp_path / "n.parquet", u=list(range(10)), label=y, v=[0.5] * 10)
    task = load_task("parquet", path=numbers, test=0.2, layout="flat")
    assert task.input_shape == (2,)
    assert (task.train.y == task.train.x[:, 0].long() % 2).all()
    assert (task.train.x[:, 1] == 0.5).all()
    lists = parquet(tmp_path / "l.parquet", x=[[1.0, 2.0, 3.0]] * 10, kind=y)
    with pytest.raises(ValueError, match="set the option label to one of its columns: x, kind"):
        load_task("parquet", path=lists, test=0.2)
    assert load_task("parquet", path=lists, label="kind", test=0.2).input_shape == (1, 3)
    channels = parquet(tmp_path / "c.parquet", x=[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]] * 10, y=y)
    task = load_task("parquet", path=channels, test=0.2)
    assert task.train.x[0].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_a_folder_of_a_datasets_library_with_pictures(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "digits").mkdir()
    for part, count in (("train", 4), ("test", 2)):
        cells = []
        for i in range(count):
            content = io.BytesIO()
            Image.new("L", (3, 2), 51 * i).save(content, "PNG")
            cells.append({"bytes": content.getvalue(), "path": f"{i}.png"})
        labels = [i % 2 for i in range(count)]
        parquet(tmp_path / "digits" / f"{part}-00000-of-00001.parquet", image=cells, label=labels)
    assert kind_of_data(tmp_path / "digits") == "parquet"
    task = load_task("parquet", path=tmp_path / "digits")
    assert task.input_shape == (1, 2, 3)
    assert task.bounds == (0.0, 1.0)
    torch.testing.assert_close(task.train.x[:, 0, 0, 0], torch.tensor([0.0, 0.2, 0.4, 0.6]))
    assert (len(task.train), len(task.test)) == (4, 2)


def arrow(path: Path, **columns: Any) -> Path:
    """A stream as `Dataset.save_to_disk` of the library `datasets` writes it."""
    pyarrow = pytest.importorskip("pyarrow", reason="arrow needs the extra tables")
    from pyarrow import ipc

    table = pyarrow.table(columns)
    path.parent.mkdir(exist_ok=True, parents=True)
    with ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    return path


@pytest.mark.parametrize("test", ["test", "validation"])
def test_a_saved_dict_of_data_sets(tmp_path: Path, test: str) -> None:
    for shard in range(2):
        x, y = [[shard + 0.0, 1.0]] * 3, [shard, 1, 0]
        arrow(tmp_path / "d" / "train" / f"data-0000{shard}-of-00002.arrow", x=x, label=y)
    arrow(tmp_path / "d" / test / "data-00000-of-00001.arrow", x=[[9.0, 1.0]] * 2, label=[0, 1])
    (tmp_path / "d" / "dataset_dict.json").write_text("{}")
    assert kind_of_data(tmp_path / "d") == "parquet"
    task = load_task("parquet", path=tmp_path / "d", layout="flat")
    assert task.train.x[:, 0].tolist() == [0.0] * 3 + [1.0] * 3
    assert task.train.y.tolist() == [0, 1, 0, 1, 1, 0]
    assert task.test.x[:, 0].tolist() == [9.0, 9.0]


def test_one_saved_data_set_and_shards_of_parquet(tmp_path: Path) -> None:
    for shard in range(2):
        y = ["a", "b"] * 3
        arrow(tmp_path / "one" / f"data-0000{shard}-of-00002.arrow", u=[shard] * 6, label=y)
        for part in ("train", "test"):
            name = tmp_path / f"{part}-0000{shard}-of-00002.parquet"
            parquet(name, u=[shard] * 6, label=y)
    assert kind_of_data(tmp_path / "one") == "parquet"
    task = load_task("parquet", path=tmp_path / "one", layout="flat", test=0.5)
    assert (len(task.train), len(task.test)) == (6, 6)
    task = load_task("parquet", path=tmp_path, layout="flat")
    assert task.train.x[:, 0].tolist() == [0.0] * 6 + [1.0] * 6
    assert (len(task.train), len(task.test)) == (12, 12)


def test_saved_data_sets_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow(tmp_path / "d" / "other" / "data-00000-of-00001.arrow", x=[1.0], label=[0])
    with pytest.raises(ValueError, match="has nothing to train on and nothing to test on"):
        load_task("parquet", path=tmp_path / "d")
    train = arrow(
        tmp_path / "e" / "train" / "data-00000-of-00001.arrow", x=[1.0] * 4, label=[0] * 4
    )
    (tmp_path / "e" / "test").symlink_to(tmp_path / "d" / "other")
    with pytest.raises(ValueError, match="is a symbolic link"):
        load_task("parquet", path=tmp_path / "e")
    (tmp_path / "e" / "test").unlink()
    arrow(tmp_path / "e" / "train" / "data-00001-of-00002.arrow", z=[1.0], label=[0])
    with pytest.raises(ValueError, match=r"data-00001-of-00002\.arrow has other columns"):
        load_task("parquet", path=tmp_path / "e")
    (tmp_path / "e" / "train" / "data-00001-of-00002.arrow").write_bytes(train.read_bytes()[:-80])
    with pytest.raises(ValueError, match="cannot be read as an arrow stream"):
        load_task("parquet", path=tmp_path / "e")
    many = arrow(tmp_path / "m.arrow", x=np.zeros(4_000_000), label=np.zeros(4_000_000, int))
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "0.05")
    with pytest.raises(ValueError, match="more than the limit"):
        load_task("parquet", path=many, test=0.2)
    shards = tmp_path / "s"
    for number in range(3):
        arrow(shards / f"data-0000{number}-of-00003.arrow", x=np.zeros(10**6), label=[0] * 10**6)
    (shards / "data-00002-of-00003.arrow").write_bytes(b"is not read")
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "0.02")  # one of them fits
    with pytest.raises(ValueError, match="s: the content of its files would take"):
        load_task("parquet", path=shards, test=0.2)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"x": [1.0, None, 3.0, 4.0]}, "1 missing values in 1 of 4 series"),
        ({"x": ["a", "b", "c", "d"]}, r"column 'x' holds .*; every column beside the label"),
        ({"label": ["a", None, "a", "b"]}, "1 labels in column 'label' are missing"),
        ({"label": ["a", "", "a", "b"]}, "means that it is missing"),
        ({"label": [0.5, 1.0, 0.5, 1.0]}, "are of type float64 and not whole numbers"),
        ({"x": [[1.0], [1.0, 2.0], [1.0], [1.0]]}, "series of 1 to 2 steps; set the option length"),
        ({"x": [["a"], ["b"], ["c"], ["d"]]}, "row 0: not a list of numbers"),
        ({"x": [{"path": "0.png"}] * 4}, "holds pictures without their bytes"),
        ({"x": [[1.0], [], [1.0], [1.0]]}, "row 1: not a list of numbers"),
        ({"x": [[1.0], [1.0], None, [1.0]]}, "row 2: not a list of numbers"),
        ({"x": [[[[1.0, 2.0]]]] * 4}, "row 0: not a list of numbers"),
        ({"x": [[[1.0], [2.0]], [[1.0]]] * 2}, "row 1: 1 channels, but 2 in the rows before"),
        ({"x": [[[1.0]], [[1.0], [2.0]]] * 2}, "row 1: 2 channels, but 1 in the rows before"),
    ],
)
def test_parquet_that_is_not_understood(
    tmp_path: Path, columns: dict[str, Any], match: str
) -> None:
    whole = {"x": [1.0, 2.0, 3.0, 4.0], "label": ["a", "b", "a", "b"]} | columns
    with pytest.raises(ValueError, match=match):
        load_task("parquet", path=parquet(tmp_path / "a.parquet", **whole), test=0.5)


def test_parquet_that_is_damaged_or_larger_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 million equal numbers are packed into a few hundred bytes
    many = np.zeros(4_000_000)
    path = parquet(tmp_path / "a.parquet", x=many, label=many.astype(int))
    assert path.stat().st_size < 50_000
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "0.05")
    with pytest.raises(ValueError, match=r"its values would take 0\.0\d+ GiB, more than the limit"):
        load_task("parquet", path=path, test=0.2)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_task("parquet", path=path, test=0.2)


@pytest.mark.parametrize("index", [None, "number"])
def test_the_index_of_pandas_is_no_value(tmp_path: Path, index: str | None) -> None:
    pandas = pytest.importorskip("pandas", reason="a table of pandas needs the extra notebook")
    frame = pandas.DataFrame({"u": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1], "v": [5.0] * 4})
    shuffled = frame.iloc[[2, 0, 3, 1]].rename_axis(index)  # pandas stores the index of such rows
    shuffled.to_parquet(tmp_path / "a.parquet")
    data = read_own("parquet", tmp_path / "a.parquet", layout="flat")
    assert data.train is not None
    assert data.train.x.tolist() == [[3, 5], [1, 5], [4, 5], [2, 5]]
    labelled = frame.set_index("label")
    labelled.to_parquet(tmp_path / "b.parquet")
    data = read_own("parquet", tmp_path / "b.parquet", layout="flat")
    assert data.train is not None
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.train.x.tolist() == [[1, 5], [2, 5], [3, 5], [4, 5]]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"index_columns": 3}'])
def test_what_a_stranger_wrote_of_the_index_is_left_alone(tmp_path: Path, content: bytes) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra tables")
    from pyarrow import parquet as writer

    table = pyarrow.table({"u": [1.0, 2.0], "label": [0, 1]})
    path = tmp_path / "a.parquet"
    writer.write_table(table.replace_schema_metadata({b"pandas": content}), path)
    data = read_own("parquet", path, layout="flat")
    assert data.train is not None
    assert data.train.x.tolist() == [[1.0], [2.0]]


def test_a_column_called_first_is_no_label_where_there_is_one(tmp_path: Path) -> None:
    table = parquet(tmp_path / "a.parquet", first=[3.0, 4.0], label=[1, 0])
    data = read_own("parquet", table, layout="flat")
    assert data.train is not None
    assert data.train.labels.tolist() == [1, 0]
    assert data.train.x.tolist() == [[3.0], [4.0]]
    table = parquet(tmp_path / "b.parquet", first=[1, 0], x=[3.0, 4.0])
    data = read_own("parquet", table, layout="flat")
    assert data.train is not None
    assert data.train.labels.tolist() == [1, 0]


def test_two_columns_of_labels_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra tables")
    from pyarrow import parquet as writer

    columns = [pyarrow.array([1, 0]) for _ in range(3)]
    table = pyarrow.table(columns, names=["x", "label", "label"])
    writer.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 2 columns 'label'; rename one"):
        read_own("parquet", tmp_path / "a.parquet")


def test_files_whose_columns_are_of_other_kinds_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00000-of-00002.parquet", x=[1.0, 2.0], label=[0, 1])
    second = parquet(tmp_path / "train-00001-of-00002.parquet", x=[1.0, 2.0], label=["a", "b"])
    with pytest.raises(ValueError, match=r"a column has different types in train-00000-of-00002"):
        read_own("parquet", tmp_path)
    second.unlink()
    content = io.BytesIO()
    Image.new("L", (3, 2)).save(content, "PNG")
    cells = [{"bytes": content.getvalue(), "path": "a.png"}] * 2
    parquet(tmp_path / "train-00000-of-00002.parquet", x=cells, label=[0, 1])
    parquet(tmp_path / "test.parquet", x=[[1.0], [2.0]], label=[0, 1])
    with pytest.raises(ValueError, match=r"test has no pictures, but .*train has"):
        read_own("parquet", tmp_path)
