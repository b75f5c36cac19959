"""The packaged UCR sets, and others from a folder."""

import hashlib
from importlib import resources
from pathlib import Path

import pytest
import torch

from robustprune.tasks import load_task

GOOD = "b\t0.5\t-1.5\t1\na\t1e0\t0\t-1\n"


def write_set(folder: Path, train: str = GOOD, test: str = GOOD) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}_TRAIN.tsv").write_text(train)
    (folder / f"{folder.name}_TEST.tsv").write_text(test)


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "names"),
    [
        ("ecg200", (1, 96), [31, 69], [36, 64], ("-1", "1")),
        ("sony_aibo_1", (1, 70), [6, 14], [343, 258], ("1", "2")),
    ],
)
def test_packaged_sets_have_the_counts_of_sources(
    name: str, shape: tuple[int, int], train: list[int], test: list[int], names: tuple[str, str]
) -> None:
    task = load_task(name)
    assert task.input_shape == shape
    assert task.train.y.bincount().tolist() == train
    assert task.test.y.bincount().tolist() == test
    assert task.class_names == names
    assert task.bounds is None
    assert task.mean is None
    assert "Dau et al." in task.source


def test_packaged_series_are_z_normalised_and_the_published_ones() -> None:
    x = load_task("ecg200").train.x
    torch.testing.assert_close(x.mean(dim=2), torch.zeros(100, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(dim=2), torch.ones(100, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(x[0, 0, :3], torch.tensor([0.50205548, 0.54216265, 0.72238348]))


def test_packaged_files_are_those_that_sources_lists() -> None:
    folder = resources.files("robustprune") / "data" / "ucr"
    sources = (folder / "SOURCES.md").read_text(encoding="utf-8")
    files = [f for f in folder.iterdir() if f.name.endswith(".tsv")]
    assert len(files) == 4
    for file in files:
        row = f"| {file.name} | {hashlib.sha256(file.read_bytes()).hexdigest()} |"
        assert row in sources


@pytest.mark.parametrize("parent", ["UCR", "."])
def test_a_set_is_read_from_either_folder(tmp_path: Path, parent: str) -> None:
    write_set(tmp_path / parent / "Toy")
    task = load_task("ucr:Toy", data_dir=tmp_path)
    assert task.name == "ucr:Toy"
    assert task.class_names == ("a", "b")
    assert task.train.y.tolist() == [1, 0]
    assert task.train.x.tolist() == [[[0.5, -1.5, 1.0]], [[1.0, 0.0, -1.0]]]


def test_labels_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    write_set(tmp_path / "Toy", "10\t1\n2.0\t2\n-1\t3\n", "2\t1\n1.0e1\t2\n")
    task = load_task("ucr:Toy", data_dir=tmp_path)
    assert task.class_names == ("-1", "2", "10")
    assert task.train.y.tolist() == [2, 1, 0]
    assert task.test.y.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("train", "test", "match"),
    [
        ("1\t0\t1\n2\t0\n", GOOD, r"series of 1 to 3 steps; set the option length"),
        ("1\t0\t1\n\n2\t0\tx\n", GOOD, r"Toy_TRAIN\.tsv, line 3: .*'x'"),
        ("1,0,1\n", GOOD, r"line 1: no values beside the label"),
        ("", GOOD, r"Toy_TRAIN\.tsv: empty"),
        (GOOD, "", r"Toy_TEST\.tsv: empty"),
        ("a\t0\t1\t2\nb\t0\tNaN\t1\n", GOOD, r"TRAIN\.tsv: 1 missing .* in series 1; .*missing"),
        ("a\t0\t1\t2\nb\t0\tinf\t1\n", GOOD, r"train split: 1 non-finite .* \(1, 0, 1\)"),
        ("a\t0\nb\t0\n", "a\t0\t1\n", r"series of 1 to 2 steps"),
        (
            GOOD,
            "c\t0\t1\t2\n",
            r"test split: 1 labels outside .* 'c' at Toy_TEST.tsv, line 1",
        ),
        ("a\t0\na\t1\n", "a\t0\n", "single class, 'a'"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, train: str, test: str, match: str) -> None:
    write_set(tmp_path / "Toy", train, test)
    with pytest.raises(ValueError, match=match):
        load_task("ucr:Toy", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["../Toy", "a/b", "a\\b", "..", "", "/etc"])
def test_a_set_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    write_set(tmp_path / "Toy")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ValueError, match="is no name of a UCR set"):
        load_task(f"ucr:{name}", data_dir=inside)


def test_a_missing_set_names_both_places_and_the_nearest(tmp_path: Path) -> None:
    write_set(tmp_path / "UCR" / "ECGFiveDays")
    with pytest.raises(FileNotFoundError, match=r"neither .* \(did you mean 'ECGFiveDays'\?\)"):
        load_task("ucr:ECGFiveDay", data_dir=tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "Toy")
    (tmp_path / "Toy" / "Toy_TEST.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*Toy_TEST\.tsv"):
        load_task("ucr:Toy", data_dir=tmp_path)
