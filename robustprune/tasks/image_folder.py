"""Read a folder of pictures, in which each class is a folder, by torchvision's ImageFolder."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets import ImageFolder

from robustprune.run.files import check_memory, no_links, plain_file, read_bytes
from robustprune.run.naming import PICTURES, data_label
from robustprune.run.terminal import shown
from robustprune.tasks.parts import Bounds, OwnData, Part, text_labels

#: the formats that Pillow may open; others, such as PostScript, call other programs
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
#: the names of the folder of the test split
_TESTS = ("test", "val", "valid", "validation")

Pixels = npt.NDArray[np.uint8]


def folder_data(path: Path, *, bounds: Bounds, size: int | None = None) -> OwnData:
    """Read the pictures in path/<class>/, or in path/train/<class>/ and path/test/<class>/.

    Instead of test, the folder may be called val, valid or validation. The pictures become (3, H,
    W) in [0, 1], or (1, H, W) if all are grey, and the names of the folders are the classes.

    Args:
        bounds: the range of valid inputs; None for (0, 1).
        size: all pictures are scaled so that the shorter side has this number of pixels, and cut
            to a square around the middle. None for pictures that are all equally large.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is a symbolic link or something that is no file in the folder, a file is
            no picture or has more than 8 bits a pixel of grey, pictures differ in size and `size`
            is None, or all together would take more than `run.files.memory_limit`.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; give a folder with a folder a class")
    _check_tree(path)
    train, test = path, None
    if (path / "train").is_dir():
        train = path / "train"
        test = next((path / name for name in _TESTS if (path / name).is_dir()), None)
    parts = [_part(folder, size) for folder in (train, test) if folder is not None]
    if len({part.x.shape[1] for part in parts}) > 1:  # one is grey and the other is not
        parts = [Part(part.x.expand(-1, 3, -1, -1), part.labels, part.at) for part in parts]
    return OwnData(
        name=data_label(path),
        where=str(path),
        train=parts[0],
        test=parts[1] if len(parts) > 1 else None,
        bounds=bounds or (0.0, 1.0),
        source=f"pictures from {path.name}",
    )


def _check_tree(folder: Path) -> None:
    """Refuse links and what is no file, because ImageFolder would follow them."""
    no_links(folder / "x", within=folder)
    for place, folders, files in os.walk(folder, followlinks=False):
        for name in folders:
            no_links(Path(place) / name, within=folder)
        for name in files:
            if name.lower().endswith(PICTURES):
                plain_file(Path(place) / name, within=folder)


def _part(folder: Path, size: int | None) -> Part:
    try:
        listed = ImageFolder(
            str(folder), is_valid_file=lambda name: name.lower().endswith(PICTURES)
        )
    except FileNotFoundError as error:  # no class, or one without pictures
        said = shown(str(error).splitlines()[0])
        raise ValueError(
            f"{folder}: {said}; put each class into a folder of its name, as {', '.join(PICTURES)}"
        ) from error
    files = [Path(file) for file, _ in listed.samples]
    pictures = Pictures(str(folder), len(files), size)
    for file in files:
        pictures.add(read_bytes(file, within=folder), str(file))
    names = [listed.classes[index] for _, index in listed.samples]
    return Part(pictures.stacked(), text_labels(names), lambda index: str(files[index]))


class Pictures:
    """Pictures of one size, which are decoded one after the other.

    Args:
        where: the place of all of them, for messages.
        count: how many there are.
        size: as in `folder_data`.
    """

    def __init__(self, where: str, count: int, size: int | None) -> None:
        self.where, self.count, self.size = where, count, size
        self.pixels: list[Pixels] = []

    def add(self, content: bytes, place: str) -> None:
        """Decode one picture.

        Raises:
            ValueError: it is no picture, is damaged or has another size than the first one, or all
                would take more than `run.files.memory_limit`.
        """
        decoded = _decoded(content, place, self._prepare)
        first = self.pixels[0].shape[:2] if self.pixels else decoded.shape[:2]
        if decoded.shape[:2] != first:
            raise ValueError(
                f"{place} has {decoded.shape[1]} x {decoded.shape[0]} pixels, the first one "
                f"{first[1]} x {first[0]}; set the option size, such as size=32, to scale and crop"
            )
        self.pixels.append(decoded)

    def _prepare(self, image: Image.Image, place: str) -> Image.Image:
        """Check the size before anything is decoded, and scale and crop if that is asked for."""
        width, height = image.size
        check_memory(4 * 3 * width * height, f"{place}, {width} x {height} pixels,")
        if image.mode[0] in "IF":  # Pillow would cut every value above 255 off
            raise ValueError(
                f"{place} has more than 8 bits a pixel of grey (mode {image.mode} of Pillow), "
                "whose range is not known; convert it to 8 bits"
            )
        grey = image.mode in ("L", "1")
        image = image.convert("L" if grey else "RGB")
        if self.size is not None:
            scale = self.size / min(width, height)
            wide, high = (max(self.size, round(scale * side)) for side in (width, height))
            check_memory(12 * wide * high, f"{place}, scaled to {wide} x {high} pixels,")
            image = image.resize((wide, high), Image.Resampling.BILINEAR)
            left, top = (wide - self.size) // 2, (high - self.size) // 2
            image = image.crop((left, top, left + self.size, top + self.size))
        if not self.pixels:
            needed = 12 * self.count * image.size[0] * image.size[1]
            check_memory(needed, f"{self.where}: {self.count:,} pictures")
        return image

    def stacked(self) -> Tensor:
        """Return (N, 1, H, W) if all pictures are grey, or else (N, 3, H, W), float32 in [0, 1]."""
        colours = max(p.shape[2] for p in self.pixels)
        whole = [np.broadcast_to(p, (*p.shape[:2], colours)) for p in self.pixels]
        x = torch.from_numpy(np.ascontiguousarray(np.stack(whole).transpose(0, 3, 1, 2)))
        return x.float().div_(255)


def _decoded(
    content: bytes, place: str, prepare: Callable[[Image.Image, str], Image.Image]
) -> Pixels:
    """Return (H, W, 1 or 3) bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; sizes are checked by `prepare`
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                array: Pixels = np.asarray(prepare(image, place), dtype=np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{place} is no picture in one of the formats {', '.join(_FORMATS)}, or far too large"
        ) from error
    except (OSError, SyntaxError, ArithmeticError, LookupError, TypeError) as error:
        said = shown(" ".join(str(error).split()))
        raise ValueError(f"{place} is a damaged picture ({said})") from error
    return array[:, :, None] if array.ndim == 2 else array
