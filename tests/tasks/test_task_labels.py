"""Labels that are missing, written in two ways or of no class are refused with their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustprune.tasks import load_sentences, load_task
from robustprune.tasks.labels import check_labels, encode_labels

MISSING = ("", " ", "?", "nan", "NaN", "-nan", "NA", "N/A", "<NA>", "None", "null", "NULL", "NaT")
ARFF = "@relation x\n@attribute t1 numeric\n@attribute t2 numeric\n@attribute c {%s}\n@data\n%s\n"
TS = "@problemName x\n@classLabel true %s\n@data\n%s\n"


def pair(folder: Path, suffix: str, train: str, test: str) -> Path:
    (folder / f"x_TRAIN{suffix}").write_text(train)
    (folder / f"x_TEST{suffix}").write_text(test)
    return folder / f"x_TRAIN{suffix}"


def written(suffix: str, rows: list[tuple[str, str]], declared: str) -> str:
    """(label, values) rows in one of the formats."""
    if suffix == ".arff":
        return ARFF % (declared, "\n".join(f"{values},{label}" for label, values in rows))
    if suffix == ".ts":
        lines = "\n".join(f"{values}:{label}" for label, values in rows)
        return TS % (declared.replace(",", " "), lines)
    separator = "\t" if suffix == ".tsv" else ","
    return "".join(f"{label},{values}\n".replace(",", separator) for label, values in rows)


GOOD = [("a", "5,2"), ("b", "1,2")]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".arff", ".ts"])
@pytest.mark.parametrize("label", MISSING)
@pytest.mark.parametrize("part", ["TRAIN", "TEST"])
def test_a_missing_label_is_no_class(tmp_path: Path, suffix: str, label: str, part: str) -> None:
    good = written(suffix, GOOD, "a,b")
    bad = written(suffix, [*GOOD, (label, "3,4")], "a,b")
    line = len(bad.splitlines())
    texts = (bad, good) if part == "TRAIN" else (good, bad)
    path = pair(tmp_path, suffix, *texts)
    with pytest.raises(ValueError, match=rf"^x_{part}\{suffix}, line {line}: .*label '"):
        load_task("csv" if suffix == ".csv" else "series", path=path)


@pytest.mark.parametrize("suffix", [".arff", ".ts"])
def test_a_class_that_the_file_lists_may_be_called_none(tmp_path: Path, suffix: str) -> None:
    text = written(suffix, [("none", "1,2"), ("walk", "3,4")], "none,walk")
    task = load_task("series", path=pair(tmp_path, suffix, text, text))
    assert task.class_names == ("none", "walk")


def test_a_label_that_an_arff_file_does_not_list_is_refused_by_line(tmp_path: Path) -> None:
    good = ARFF % ("a,'b c'", "1,2,a\n3,4,'b c'")
    path = pair(tmp_path, ".arff", good, good)
    assert load_task("series", path=path).class_names == ("a", "b c")
    bad = ARFF % ("a,'b c'", "1,2,a\n3,4,c")
    with pytest.raises(ValueError, match=r"x_TEST\.arff, line 7: label 'c' is none of .* a, b c"):
        load_task("series", path=pair(tmp_path, ".arff", good, bad))


@pytest.mark.parametrize("label", ["nan", "", "None"])
def test_missing_labels_in_arrays_are_named_by_index(tmp_path: Path, label: str) -> None:
    x, good = np.zeros((3, 4), dtype=np.float32), np.array(["a", "b", "a"])
    bad = np.array(["a", "b", label])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=bad, x_test=x, y_test=good)
    with pytest.raises(ValueError, match=rf"y_train, index 2: the label '{label}' means"):
        load_task("npz", path=tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x_train=x, y_train=good, x_test=x, y_test=bad)
    with pytest.raises(ValueError, match=r"y_test, index 2: the label"):
        load_task("npz", path=tmp_path / "b.npz")
    numbers = np.array([0, 1, np.nan])
    np.savez(tmp_path / "c.npz", x_train=x, y_train=numbers, x_test=x, y_test=numbers)
    with pytest.raises(ValueError, match=r"y_train, index 2: the label nan is no class"):
        load_task("npz", path=tmp_path / "c.npz")


@pytest.mark.parametrize("label", ["", "nan", "None", "?"])
def test_missing_labels_of_sentences_are_named_by_line(tmp_path: Path, label: str) -> None:
    (tmp_path / "test.tsv").write_text("sentence\tlabel\ngood\t1\n")
    (tmp_path / "train.tsv").write_text(f"sentence\tlabel\ngood\t1\n\nhm\t{label}\n")
    with pytest.raises(ValueError, match=r"train\.tsv, line 4: the label"):
        load_sentences("text", path=tmp_path)


def test_mnli_writes_a_dash_where_annotators_disagree(tmp_path: Path) -> None:
    (tmp_path / "MNLI").mkdir()
    head = "sentence1\tsentence2\tgold_label\n"
    (tmp_path / "MNLI" / "dev_matched.tsv").write_text(f"{head}a\tb\tneutral\n")
    (tmp_path / "MNLI" / "train.tsv").write_text(f"{head}a\tb\tneutral\nc\td\t-\n")
    with pytest.raises(ValueError, match=r"train\.tsv: 1 labels are '-'"):
        load_sentences("mnli", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("first", "second"), [("01", "1"), ("1", "+1"), ("10", "1_0"), ("1", "1.0"), ("a", "a ")]
)
def test_one_class_written_in_two_ways_is_refused(first: str, second: str) -> None:
    with pytest.raises(ValueError, match=rf"line 2: the label .* is '{first}'.* of line 0 in"):
        check_labels([first, "other", second], lambda index: f"line {index}")


def test_whole_numbers_are_one_class_however_the_files_write_them() -> None:
    train, test = np.array(["1", "-1", "2"]), np.array(["2.0", "1e0", "-1"])
    y_train, y_test, names = encode_labels(train, test, where="x")
    assert names == ("-1", "1", "2")
    assert (y_train.tolist(), y_test.tolist()) == ([1, 0, 2], [2, 1, 0])


@pytest.mark.parametrize("other", ["other", "2.5"])
def test_a_test_split_of_numbers_alone_has_the_names_of_the_training_split(other: str) -> None:
    train, test = np.array(["1", other, " 0"]), np.array(["0", "1"])
    y_train, y_test, names = encode_labels(train, test, where="x")
    assert names == ("0", "1", other)
    assert (y_train.tolist(), y_test.tolist()) == ([1, 2, 0], [0, 1])
    with pytest.raises(ValueError, match=r"1 labels outside the 2 classes .* 'other' at index 1"):
        encode_labels(np.array(["0", "1"]), np.array(["1", "other"]), where="x")
    numbers = np.array([1, 0])
    assert encode_labels(np.array(["0", "1"]), numbers, where="x")[1].tolist() == [1, 0]


def test_names_with_underscores_are_no_numbers() -> None:
    labels = np.array(["1_0", "2_0", "1_0"])
    assert encode_labels(labels, labels, where="x")[2] == ("1_0", "2_0")


def test_numbers_beyond_a_float_stay_apart() -> None:
    labels = np.array(["9007199254740993", "9007199254740992"])
    assert len(encode_labels(labels, labels, where="x")[2]) == 2


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8), st.data())
def test_labels_are_kept_apart_or_refused(labels: list[str], data: st.DataObject) -> None:
    """Whatever is taken has as many classes as there are ways of writing, none of them empty."""
    array = np.array(labels)
    refused = ""
    try:
        y, _, names = encode_labels(array, array, where="x")
    except ValueError as error:
        refused = str(error)
    if refused:
        assert refused.isprintable()
        return
    assert len(names) == len({label.rstrip("\0") for label in labels})
    assert all(name.strip() for name in names)
    one, other = data.draw(st.tuples(*[st.integers(0, len(labels) - 1)] * 2))
    assert (y[one] == y[other]) == (array[one] == array[other])


def test_a_number_beyond_64_bits_is_no_other_class() -> None:
    labels = np.array([1, 2**64 - 1], dtype=np.uint64)  # which would become -1
    with pytest.raises(
        ValueError, match="x, train, index 1: the label 18446744073709551615 is too"
    ):
        encode_labels(labels, labels, where="x")


@pytest.mark.parametrize("header", ["sentence,sentence,label", "sentence,label,label"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(f"{header}\na,b,c\n")
    with pytest.raises(ValueError, match=r"train\.csv has 2 columns '\w+'; rename one"):
        load_sentences("text", path=tmp_path)
