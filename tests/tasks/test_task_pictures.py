"""The user's own pictures: folders of classes, held out, scaled, refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from robustprune.run.naming import kind_of_data
from robustprune.tasks import load_task, own_examples, read_own


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


@pytest.mark.parametrize("test", [None, 0.5])
def test_the_first_pictures_are_of_all_classes(tmp_path: Path, test: float | None) -> None:
    """A run measures the first n; a folder lists one class after the other."""
    for part in ("train", "test") if test is None else ("",):
        for label, name in enumerate(("ant", "bee", "cow")):
            for i in range(20):
                picture(tmp_path / "all" / part / name / f"{i:02}.png", (100 * label, i, 9 * i))
    task = load_task("images", path=tmp_path / "all", test=test)
    for split in (task.train, task.test):
        assert split.y[:9].bincount().tolist() == [3, 3, 3]
        assert torch.equal((split.x[:, 0, 0, 0] * 255 / 100).round().long(), split.y)
    assert task.source.endswith("so the classes are dealt out in turn")
    places = task.places
    assert places is not None
    listed = torch.arange(3).repeat_interleave(len(places) // 3)
    assert torch.equal(listed[places], task.test.y)
    with pytest.warns(UserWarning, match="ant is 0, bee is 1, cow is 2"):
        x, y = own_examples(read_own("images", tmp_path / "all"), share=test)
    assert torch.equal(x, task.test.x)
    assert torch.equal(y, task.test.y)


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


def test_a_picture_is_not_read_if_it_is_larger_than_memory(pets: Path) -> None:
    with (pets / "train" / "cat" / "0.png").open("ab") as opened:
        opened.truncate(2**36)  # 64 GiB, of which the disk holds nothing
    with pytest.raises(ValueError, match=r"0\.png: its content would take 64 GiB"):
        load_task("images", path=pets)


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


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I", "tif"), ("F", "tif")])
def test_pictures_of_more_than_8_bits_are_not_cut_off(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    for name in "ab":
        picture(tmp_path / "d" / name / f"0.{suffix}", 40_000, mode=mode)
    with pytest.raises(
        ValueError, match=rf"0\.{suffix} has more than 8 bits a pixel of grey \(mode [IF]"
    ):
        load_task("images", path=tmp_path / "d", test=0.5)
