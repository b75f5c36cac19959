"""Series from .ts, .arff, .tsv and .csv: what is read, what is refused, what is made whole."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustprune.tasks import Task, load_task

TS_HEADER = """# Toy series
% of two
@problemName Toy
@timeStamps false
@univariate false
@dimensions 2
@equalLength true
@classLabel true walk run
@data
"""
TS = TS_HEADER + "1,2,3:4,5,6:walk\n-1,0.5,1e1:7,8,9:run\n"
ARFF = r"""% Toy series
@relation Toy
@attribute relationalAtt relational
  @attribute t1 numeric
  @attribute t2 numeric
  @attribute t3 numeric
@end relationalAtt
@attribute activity {walk,run}
@data
'1,2,3\n4,5,6',walk
"-1,0.5,1e1\n7,8,9",run
"""
FLAT_ARFF = """@relation Toy
@attribute t1 numeric
@attribute t2 numeric
@attribute target {0,1}
@data
1.5,2,0
3,-4,1
"""
MULTIVARIATE = torch.tensor(
    [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[-1.0, 0.5, 10.0], [7.0, 8.0, 9.0]]]
)


def write_pair(folder: Path, suffix: str, train: str, test: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"Toy_TEST{suffix}").write_text(train if test is None else test)
    path = folder / f"Toy_TRAIN{suffix}"
    path.write_text(train)
    return path


@pytest.mark.parametrize(("suffix", "text"), [(".ts", TS), (".arff", ARFF)])
def test_multivariate_files_of_both_formats_hold_the_same_series(
    tmp_path: Path, suffix: str, text: str
) -> None:
    path = write_pair(tmp_path, suffix, text)
    task = load_task("series", path=path)
    assert task.input_shape == (2, 3)
    assert torch.equal(task.train.x, MULTIVARIATE)
    assert torch.equal(task.test.x, MULTIVARIATE)
    assert task.class_names == ("run", "walk")
    assert task.train.y.tolist() == [1, 0]
    assert task.bounds is None


def test_a_flat_arff_file_is_univariate_with_the_class_last(tmp_path: Path) -> None:
    task = load_task("series", path=write_pair(tmp_path, ".arff", FLAT_ARFF))
    assert task.train.x.tolist() == [[[1.5, 2.0]], [[3.0, -4.0]]]
    assert task.class_names == ("0", "1")


def test_an_archive_folder_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    write_pair(tmp_path / "Toy", ".ts", TS)
    other = tmp_path / "Toy" / "ToyDimension1_TRAIN.ts"  # as the archive's folders have them
    other.write_text(TS)
    named = load_task("ucr:Toy", data_dir=tmp_path)
    assert "Bagnall" in named.source
    for task in (named, load_task("series", path=tmp_path / "Toy")):
        assert torch.equal(task.train.x, MULTIVARIATE)


@pytest.mark.parametrize(("label", "order"), [("first", (0, 1, 2)), ("last", (1, 2, 0))])
def test_own_csv_has_its_labels_first_or_last(
    tmp_path: Path, label: str, order: tuple[int, ...]
) -> None:
    rows = [("sit", "0.5", "1"), ("stand", "2", "-3")]
    text = "".join(",".join(row[i] for i in order) + "\n" for row in rows)
    path = write_pair(tmp_path, ".csv", "\ufeff" + text)  # as Excel writes it
    task = load_task("csv", path=path, label=label)
    assert task.train.x.tolist() == [[[0.5, 1.0]], [[2.0, -3.0]]]
    assert task.class_names == ("sit", "stand")


def uneven(tmp_path: Path, suffix: str, rows: list[str], **options: str) -> Tensor:
    """The training series of `rows`, two of them."""
    header = TS_HEADER.replace("@dimensions 2\n", "") if suffix == ".ts" else ""
    path = write_pair(tmp_path, suffix, header + "\n".join(rows) + "\n")
    task: Task = load_task("csv" if suffix == ".csv" else "series", path=path, **options)
    return task.train.x


UNEVEN_TS = ["1,2,3:walk", "4,5:run"]


def test_unequal_lengths_are_refused_padded_or_truncated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="series of 2 to 3 steps; set the option length"):
        uneven(tmp_path, ".ts", UNEVEN_TS)
    padded = uneven(tmp_path, ".ts", UNEVEN_TS, length="pad")
    assert padded.tolist() == [[[1.0, 2.0, 3.0]], [[4.0, 5.0, 0.0]]]
    cut = uneven(tmp_path, ".ts", UNEVEN_TS, length="truncate")
    assert cut.tolist() == [[[1.0, 2.0]], [[4.0, 5.0]]]


def test_the_test_split_counts_for_the_common_length(tmp_path: Path) -> None:
    header = TS_HEADER.replace("@dimensions 2\n", "")
    train, test = header + "1,2:walk\n3,4:run\n", header + "5,6,7:walk\n"
    path = write_pair(tmp_path, ".ts", train, test)
    assert load_task("series", path=path, length="pad").train.x.tolist() == [
        [[1.0, 2.0, 0.0]],
        [[3.0, 4.0, 0.0]],
    ]
    assert load_task("series", path=path, length="truncate").test.x.tolist() == [[[5.0, 6.0]]]


@pytest.mark.parametrize(
    ("suffix", "rows"),
    [(".tsv", ["a\t1\t2\tNaN", "b\t4\t5\t6"]), (".csv", ["a,1,2,", "b,4,5,6"])],
)
def test_missing_values_at_the_end_of_a_row_make_it_shorter(
    tmp_path: Path, suffix: str, rows: list[str]
) -> None:
    x = uneven(tmp_path, suffix, rows, length="truncate")
    assert x.tolist() == [[[1.0, 2.0]], [[4.0, 5.0]]]


def test_missing_values_are_refused_interpolated_or_zero(tmp_path: Path) -> None:
    rows = ["?,1,?,?,4,?:walk", "1,2,3,4,5,6:run"]
    with pytest.raises(ValueError, match=r"4 missing values in 1 of 2 series, the first in series"):
        uneven(tmp_path, ".ts", rows)
    filled = uneven(tmp_path, ".ts", rows, missing="interpolate")
    assert filled[0].tolist() == [[1.0, 1.0, 2.0, 3.0, 4.0, 4.0]]
    assert filled[1].tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    zeros = uneven(tmp_path, ".ts", rows, missing="zero")
    assert zeros[0].tolist() == [[0.0, 1.0, 0.0, 0.0, 4.0, 0.0]]


def test_a_channel_without_values_cannot_be_interpolated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"series 1: a channel has no value at all"):
        uneven(tmp_path, ".ts", ["1,2:3,4:walk", "1,2:?,?:run"], missing="interpolate")


@pytest.mark.parametrize(
    ("suffix", "text", "match"),
    [
        (".ts", TS.replace("3:4", "3;4"), r"line 10: .*'3;4'"),
        (".ts", TS + "1,2,3:walk\n", r"line 12: 1 channels, but 2 in the examples before"),
        (".ts", TS + "1,2,3:4,5,6\n", r"line 12: label '4,5,6' is none of @classLabel, walk run"),
        (".ts", TS.replace("Stamps false", "Stamps true"), "sample the series evenly"),
        (".ts", TS.replace("@classLabel true walk run", "@targetLabel true"), "only classificat"),
        (".ts", TS.replace("@classLabel true walk run", "@classLabel"), "only classificat"),
        (".ts", "@timeStamps\n" + TS.replace("true walk run", ""), "only classificat"),
        (".ts", TS.replace("dimensions 2", "dimensions 3"), "@dimensions 3, but 2 channels"),
        (".ts", TS_HEADER, r"Toy_TRAIN\.ts: empty"),
        (".ts", "1,2:walk\n", "line 1: a value before @data"),
        (".arff", "1,2,0\n", "line 1: a value before @data"),
        (".arff", FLAT_ARFF.replace("{0,1}", "numeric"), "not a list of classes in braces"),
        (".arff", FLAT_ARFF + "1\n", "line 8: no values beside the label"),
        (".arff", ARFF.replace("9", "nine"), r"line 11: .*'nine'"),
    ],
)
def test_malformed_files_are_refused_with_their_line(
    tmp_path: Path, suffix: str, text: str, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        load_task("series", path=write_pair(tmp_path, suffix, text))


def test_other_channels_in_test_than_in_train_are_refused(tmp_path: Path) -> None:
    flat = TS_HEADER.replace("@dimensions 2\n", "") + "1,2,3:walk\n"
    with pytest.raises(ValueError, match=r"Toy_TEST\.ts has 1 channels and Toy_TRAIN\.ts 2"):
        load_task("series", path=write_pair(tmp_path, ".ts", TS, flat))


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere"):
        load_task("series", path=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no file <Name>_TRAIN with \.tsv, \.ts, \.arff"):
        load_task("series", path=tmp_path)
    path = write_pair(tmp_path, ".ts", TS)
    (tmp_path / "Other_TRAIN.ts").write_text(TS)
    with pytest.raises(ValueError, match=r"holds several sets: Other_TRAIN\.ts, Toy_TRAIN\.ts"):
        load_task("series", path=tmp_path)
    with pytest.raises(ValueError, match=r"Toy_TRAIN\.ts has not the suffix \.csv"):
        load_task("csv", path=path)
    (tmp_path / "Toy_TEST.ts").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*Toy_TEST\.ts; put it beside"):
        load_task("series", path=path)


def test_options_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'ecg200' takes no length, got pad"):
        load_task("ecg200", length="pad")
    with pytest.raises(ValueError, match="'series' takes no label, got last"):
        load_task("series", path=tmp_path, label="last")
    path = write_pair(tmp_path, ".ts", TS)
    with pytest.raises(ValueError, match=r"length='padd' is not known \(did you mean 'pad'\?\)"):
        load_task("series", path=path, length="padd")
    with pytest.raises(ValueError, match=r"no column 'midle' \(did you mean 'middle'"):
        load_task("csv", path=write_pair(tmp_path, ".csv", "middle,b\n"), label="midle")
