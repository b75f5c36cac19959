"""Keys and values of a cache at 4 or 8 bits: one scale and one smallest value a token and head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attacks.rounding import widened

BITS = (4, 8)


class Rows(NamedTuple):
    """Rounded rows: x ≈ low + step · code, with one `low` and one `step` for each row.

    Attributes:
        codes: (…, d) uint8, or at 4 bits (…, ⌈d/2⌉), with entry 2i in the low half of byte i.
        low, step: (…, 1), in the dtype of x.
        width: d.
        bits: 4 or 8.
    """

    codes: Tensor
    low: Tensor
    step: Tensor
    width: int
    bits: int


def quantise(x: Tensor, bits: int) -> Rows:
    """Round each row of x, (…, d), to 2^bits equally spaced values between its ends.

    Raises:
        ValueError: `bits` is neither 4 nor 8.
    """
    if bits not in BITS:
        raise ValueError(f"bits={bits!r} must be 4 or 8")
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    # half precision has no number for the distance of two of its ends
    step = ((widened(high) - widened(low)) / (2**bits - 1)).to(x.dtype)
    # a row of equal entries has step 0, and all its codes are 0
    codes = ((widened(x) - widened(low)) / widened(step).clamp(min=1e-30)).round()
    codes = codes.clamp(0, 2**bits - 1).to(torch.uint8)
    if bits == 4:
        if x.shape[-1] % 2:
            codes = torch.cat([codes, codes.new_zeros(*codes.shape[:-1], 1)], dim=-1)
        codes = codes[..., ::2] | (codes[..., 1::2] << 4)
    return Rows(codes, low, step, x.shape[-1], bits)


def restore(rows: Rows) -> Tensor:
    """Return the rounded values, (…, d), in the dtype of `rows.low`."""
    codes = rows.codes
    if rows.bits == 4:
        halves = torch.stack([codes & 15, codes >> 4], dim=-1)
        codes = halves.flatten(-2)[..., : rows.width]
    return (widened(rows.low) + codes * widened(rows.step)).to(rows.low.dtype)


def rounded(x: Tensor, bits: int) -> Tensor:
    """Return x as a cache at `bits` gives it back."""
    return restore(quantise(x, bits))
