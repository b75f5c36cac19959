"""Turn arrays into inputs (N, C, ...): find the dimension of the channels, or warn of a guess.

    4-D, of any number type:
        (N, C, H, W) with C = 1 or 3 stays as it is; (N, H, W, C) with C = 1 or 3 is transposed,
        with a warning. The user must give the layout of an array that could be either, or that has
        no such axis and is smallest in the last one. Any other is (N, C, H, W), with a warning.
    3-D:
        uint8 is (N, H, W), grey images, and becomes (N, 1, H, W).
        Other numbers are (N, C, L), series, with a warning where C is not less than L;
        (N, L, 1) is transposed, with a warning.
    2-D: (N, F), features.
The option `layout` replaces this rule: "channels_first" is (N, C, ...) and "channels_last" is
(N, ..., C), for images and series of any type; "flat" makes features (N, F) of anything. Then there
is no warning.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown

Array = npt.NDArray[Any]
Layout = Literal["channels_first", "channels_last", "flat"]
_COLOURS = (1, 3)


def to_inputs(array: Array, *, where: str, layout: Layout | None = None) -> Tensor:
    """Convert `array` to a float32 tensor in input units, by the rule at the top of this module.

    uint8 numbers are pixels, which are divided by 255 into [0, 1].

    Raises:
        ValueError: the number of dimensions or the type is not listed there, the array needs a
            layout, or the layout is not valid for it.
    """
    layout, pixels = layout_of(array, where=where, layout=layout), array.dtype == np.uint8
    if layout == "channels_last":
        array = np.moveaxis(array, -1, 1)
    elif layout == "flat":
        array = array.reshape(len(array), math.prod(array.shape[1:]))
    elif layout is None and pixels and array.ndim == 3:
        array = array[:, None]
    if not pixels:
        with np.errstate(over="ignore"):  # infinity, which `check_examples` refuses
            return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
    # Make it contiguous before dividing, because bytes are a quarter of the floats to move.
    return torch.from_numpy(np.ascontiguousarray(array)).float().div_(255)


def layout_of(array: Array, *, where: str, layout: Layout | None) -> Layout | None:
    """Return `layout`, or the layout that is found where it is None; None if there are no channels.

    Raises:
        ValueError: as in `to_inputs`.
    """
    if array.dtype.kind not in "iufb" or array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{where} is {shown(array.dtype)} of shape {array.shape}; give numbers of shape "
            "(N, F), (N, C, L), (N, C, H, W) or (N, H, W, C)"
        )
    if layout is not None and layout not in get_args(Layout):
        raise ValueError(
            f"option layout={layout!r} is not known{did_you_mean(str(layout), get_args(Layout))}; "
            f"choose one of {', '.join(get_args(Layout))}"
        )
    if layout not in (None, "flat") and array.ndim == 2:
        raise ValueError(f"{where} has shape {array.shape}, without channels; leave out layout")
    if layout is not None or array.size == 0:
        return layout
    if array.ndim == 4:
        return _of_images(array.shape, where)
    return _of_series(array.shape, where) if array.ndim == 3 and array.dtype != np.uint8 else None


def _of_images(shape: tuple[int, ...], where: str) -> Layout:
    _, first, middle, last = shape
    if first in _COLOURS and last not in _COLOURS:
        return "channels_first"
    if last in _COLOURS and first not in _COLOURS:
        _say(shape, where, "images (N, H, W, C)", other="channels_first")
        return "channels_last"
    if last in _COLOURS or last < min(first, middle):
        raise ValueError(
            f"{where} of shape {shape} may be images (N, C, H, W) or (N, H, W, C); say which by "
            "the option layout, channels_first or channels_last"
        )
    _say(shape, where, f"images (N, C, H, W) of {first} channels", other="channels_last")
    return "channels_first"


def _of_series(shape: tuple[int, ...], where: str) -> Layout:
    _, first, last = shape
    if last == 1 < first:
        _say(shape, where, "series (N, L, C) of one channel", other="channels_first")
        return "channels_last"
    if 1 < last <= first:
        what = f"series (N, C, L) of {first} channels and {last} steps"
        _say(shape, where, what, other="channels_last")
    return "channels_first"


def _say(shape: tuple[int, ...], where: str, what: str, *, other: Layout) -> None:
    agreed = "channels_first" if other == "channels_last" else "channels_last"
    warnings.warn(
        f"{where} of shape {shape} is taken for {what}; confirm it by the option "
        f"layout={agreed}, or set layout={other}",
        stacklevel=2,
    )
