"""Text files: what ends a line, what is a header, what is a number, what is quoted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustprune.tasks import load_sentences, load_task
from robustprune.tasks.lines import lines_of, rows_of

ROWS = "a,4,2,7\nb,1,2,9\na,1,0,5\n"
HEADER = "0,1,2,3\n"


def pair(folder: Path, suffix: str, text: str, test: str = "") -> Path:
    for part, content in (("TRAIN", text), ("TEST", test or text)):
        (folder / f"x_{part}{suffix}").write_bytes(content.encode("utf-8", "surrogateescape"))
    return folder / f"x_TRAIN{suffix}"


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(mark: str, end: str) -> None:
    assert lines_of(f"# a{mark}b{end}c{end}") == [f"# a{mark}b", "c", ""]


@given(st.lists(st.text(alphabet="ab \x0c\x85\u2028,", max_size=5), min_size=2))
def test_lines_come_back_as_they_were_joined(lines: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert lines_of(end.join(lines)) == lines


@pytest.mark.parametrize("suffix", [".ts", ".arff"])
@pytest.mark.parametrize("mark", ["\x0c", "\u2028"])
def test_a_comment_may_hold_a_form_feed(tmp_path: Path, suffix: str, mark: str) -> None:
    body = {
        ".ts": "@classLabel true a b\n@data\n1,2:a\n3,4:b\n",
        ".arff": "@attribute t numeric\n@attribute c {a,b}\n@data\n1,2,a\n3,4,b\n",
    }[suffix]
    task = load_task("series", path=pair(tmp_path, suffix, f"% page{mark}two\n{body}"))
    assert task.train.x.tolist() == [[[1.0, 2.0]], [[3.0, 4.0]]]
    with pytest.raises(ValueError, match=r"line 1: '@' without a keyword"):
        load_task("series", path=pair(tmp_path, suffix, f"@\n{body}"))


def test_files_of_old_macs_have_their_rows(tmp_path: Path) -> None:
    task = load_task("csv", path=pair(tmp_path, ".csv", ROWS.replace("\n", "\r")))
    assert task.train.x[:, 0].tolist() == [[4, 2, 7], [1, 2, 9], [1, 0, 5]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,1\rb,2\nc,3\n", r"x_TRAIN\.csv, line 1: a carriage return inside the line"),
        (f"a,{'1' * 131_073}\n", r"x_TRAIN\.csv, line 1: a field of more than 131,072 characters"),
        ('a,1\n"b,2\na,3\n', r"x_TRAIN\.csv, line 2: a quote is opened and never closed"),
        ('a,1\n"b"c,2\n', r"x_TRAIN\.csv, line 2: a quote ends before its field does"),
        ("a,1\nb,1_000\n", r"line 2: '1_000' is no number"),
        ("a,1\nb,\u0661\n", r"line 2: '\u0661' is no number"),
        ("a,1\nb,0x1F\n", r"line 2: '0x1F' is no number"),
        ('a,1\n"b\nc",2\n', r"line 2: the label .* 2 lines"),
    ],
)
def test_what_is_no_row_of_numbers_is_one_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as refused:
        load_task("csv", path=pair(tmp_path, ".csv", text))
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


def test_what_a_file_says_is_repeated_shortly_and_printably(tmp_path: Path) -> None:
    for value in ("\x1b[2J" * 500, "x" * 10_000):
        with pytest.raises(ValueError, match="is no number") as refused:
            load_task("csv", path=pair(tmp_path, ".csv", f"a,1\nb,{value}\n"))
        assert len(str(refused.value)) < 400
        assert str(refused.value).isprintable()


def test_quotes_inside_quotes_are_doubled_or_escaped() -> None:
    for text in ('s,l\n"he said ""hi"", so",1\n', 's,l\n"he said \\"hi\\", so",1\n'):
        rows = rows_of(text, where="x", separator=",")
        assert rows == [(["s", "l"], 1), (['he said "hi", so', "1"], 2)]


def test_a_row_of_a_table_is_named_by_the_line_it_begins_in(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\na,1\n")
    (tmp_path / "train.csv").write_text('text,label\n"one\ntwo",1\n\nb\n')
    with pytest.raises(ValueError, match=r"train\.csv, line 5: a row of 1 columns"):
        load_sentences("text", path=tmp_path)


# -- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "label"),
    [
        ("0,1,2,3", "first"),
        ("0,1,2,3", "last"),
        ("label,0,1,2", "first"),
        ("Class,1,2,3", "first"),
        ("0,1,2,target", "last"),
        (",0,1,2", "first"),
    ],
)
def test_columns_that_are_counted_are_a_header(tmp_path: Path, header: str, label: str) -> None:
    order = slice(None) if label == "first" else slice(None, None, -1)
    rows = "".join(",".join(row.split(",")[order]) + "\n" for row in ROWS.splitlines())
    path = pair(tmp_path, ".csv", f"{header}\n{rows}", rows)
    with pytest.warns(match=r"x_TRAIN\.csv, line 1: .* is taken for a header") as said:
        task = load_task("csv", path=path, label=label)
    assert len(said) == 1
    assert len(task.train) == len(task.test) == 3
    assert task.class_names == ("a", "b")


def test_the_user_says_whether_the_first_row_is_a_header(tmp_path: Path) -> None:
    numbers = "0,1,2,3\n1,5,5,5\n"
    path = pair(tmp_path, ".csv", numbers)
    task = load_task("csv", path=path, header=False)
    assert task.train.x[0].tolist() == [[1, 2, 3]]
    words = pair(tmp_path, ".csv", f"class,t0,t1,t2\n{ROWS}")
    with pytest.raises(ValueError, match=r"line 1: 't0' is no number.*set the option header to tr"):
        load_task("csv", path=words)
    assert len(load_task("csv", path=words, header=True).train) == 3
    tabs = pair(tmp_path, ".tsv", (HEADER + ROWS).replace(",", "\t"))
    assert len(load_task("series", path=tabs, header=True).train) == 3


def test_a_row_that_may_be_either_is_asked_about(tmp_path: Path) -> None:
    rows = "walk,0,1,2,3,4\nsit,5,1,0,3,9\nsit,5,1,7,3,9\n"
    with pytest.raises(ValueError, match="either a header or a series of the class 'walk'; say"):
        load_task("csv", path=pair(tmp_path, ".csv", rows))
    assert len(load_task("csv", path=pair(tmp_path, ".csv", rows), header=False).train) == 3
    known = pair(tmp_path, ".csv", rows + "walk,1,1,1,1,1\n")
    assert len(load_task("csv", path=known).train) == 4
    number = pair(tmp_path, ".csv", "7,0,1,2,3,4\n8,5,1,0,3,9\n")
    assert len(load_task("csv", path=number).train) == 2


@pytest.mark.parametrize("label", ["first", "last"])
def test_an_index_is_neither_label_nor_value(tmp_path: Path, label: str) -> None:
    text = ",0,1,2\n0,1,5,6\n7,2,8,9\n3,1,2,2\n"
    with pytest.raises(ValueError, match=r"the first column is an index .*index=False"):
        load_task("csv", path=pair(tmp_path, ".csv", text), label=label)


def test_a_header_is_for_rows_alone(tmp_path: Path) -> None:
    path = pair(tmp_path, ".ts", "@classLabel true a b\n@data\n1,2:a\n3,4:b\n")
    with pytest.raises(ValueError, match=r"option header=True is for \.csv and \.tsv"):
        load_task("series", path=path, header=True)
    with pytest.raises(ValueError, match="'npz' takes no header, got True"):
        load_task("npz", path=path, header=True)
