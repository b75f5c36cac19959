"""The user's own data in one file: held-out tests, columns by name, pictures, parquet."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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


# -- pictures -------------------------------------------------------------------------------------


def picture(path: Path, colour: Any, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Reddish cats and blue dogs."""
    for part, count in (("train", 3), ("test", 1)):
        for i in range(count):
            picture(tmp_path / "pets" / part / "cat" / f"{i}.png", (255, 51 * i, 0))
            picture(tmp_path / "pets" / part / "dog" / f"{i}.bmp", (0, 51 * i, 255))
    return tmp_path / "pets"


def test_a_folder_of_pictures_with_a_test_split(pets: Path) -> None:
    (pets / "train" / "cat" / "notes.txt").write_text("no picture")
    task = load_task(kind_of_data(pets), path=pets)
    assert (task.name, task.class_names, task.bounds) == ("pets", ("cat", "dog"), (0.0, 1.0))
    assert task.input_shape == (3, 4, 6)
    assert task.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    green = task.train.x[:, 1, 0, 0]
    torch.testing.assert_close(green, torch.tensor([0.0, 0.2, 0.4] * 2))
    assert task.mean == pytest.approx((0.5, 0.2, 0.5))
    assert (task.test.x[0, :, 0, 0] == torch.tensor([1.0, 0.0, 0.0])).all()


def test_pictures_are_held_out_scaled_and_cut(pets: Path) -> None:
    whole = load_task("images", path=pets / "train", test=0.3, size=2)
    assert whole.input_shape == (3, 2, 2)
    assert (len(whole.train), len(whole.test)) == (4, 2)
    wide = pets / "train" / "cat" / "wide.png"
    picture(wide, (9, 9, 9), size=(40, 4))
    with pytest.raises(ValueError, match="has 40 x 4 pixels, the first one 6 x 4; set the option"):
        load_task("images", path=pets)
    assert load_task("images", path=pets, size=4).input_shape == (3, 4, 4)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "g" / "ab"[i % 2] / f"{i}.png", 51 * i, mode="L")
    task = load_task("images", path=tmp_path / "g", test=0.5)
    assert task.input_shape == (1, 4, 6)
    picture(tmp_path / "g" / "a" / "colour.png", (255, 0, 0))
    assert load_task("images", path=tmp_path / "g", test=0.4).input_shape == (3, 4, 6)


def test_pictures_from_elsewhere_are_not_followed(pets: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    picture(secret / "0.png", (1, 2, 3))
    link = pets / "train" / "cat" / "link.png"
    for name, target in ((link, secret / "0.png"), (pets / "train" / "fox", secret)):
        name.symlink_to(target)
        with pytest.raises(ValueError, match="is a symbolic link, which could lead out of"):
            load_task("images", path=pets)
        name.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(link)
        with pytest.raises(ValueError, match="is a named pipe"):
            load_task("images", path=pets)


def test_pictures_that_are_none_or_too_large(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pets / "train" / "cat" / "0.png"
    whole = file.read_bytes()
    for content, match in (
        (b"no picture", "is no picture in one of the formats PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture in one of the form"),
        (whole[:45], "is a damaged picture"),
        # a header that promises 60,000 x 60,000 pixels in a hundred bytes
        (whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:], "damaged|too large|limit of"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            load_task("images", path=pets)
    file.write_bytes(whole)
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "1e-6")  # a thousand bytes
    with pytest.raises(ValueError, match="6 pictures would take"):
        load_task("images", path=pets)


def test_a_file_is_not_read_if_it_is_larger_than_memory(pets: Path, tmp_path: Path) -> None:
    picture = pets / "train" / "cat" / "0.png"
    table = parquet(tmp_path / "a.parquet", x=[1.0] * 4, label=[0, 1, 0, 1])
    for file, kind, place in ((picture, "images", pets), (table, "parquet", table)):
        with file.open("ab") as opened:
            opened.truncate(2**36)  # 64 GiB, of which the disk holds nothing
        with pytest.raises(ValueError, match=f"{file.name}: its content would take 64 GiB"):
            load_task(kind, path=place, test=0.5 if kind == "parquet" else None)


def test_folders_that_hold_no_classes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_task("images", path=tmp_path / "nothing")
    with pytest.raises(ValueError, match="put each class into a folder of its name"):
        load_task("images", path=tmp_path, test=0.2)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="put each class into a folder of its name"):
        load_task("images", path=tmp_path, test=0.2)
    with pytest.raises(ValueError, match="is a folder without <Name>_TRAIN files"):
        kind_of_data(tmp_path)


# -- parquet --------------------------------------------------------------------------------------


def parquet(path: Path, **columns: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra tables")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)
    return path


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
