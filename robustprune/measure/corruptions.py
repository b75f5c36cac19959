"""Corruptions of series by sensors, without an adversary: another gain, and noise."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_amplitude(x: Tensor, spread: float, generator: torch.Generator | None = None) -> Tensor:
    """Give each channel of each series another gain: x' = a x with a ~ U(1 − spread, 1 + spread).

    Args:
        x: (N, C, L).
        spread: the half width of the gain's interval, at least 0; from 1 on, a gain may be 0 or
            negative.
        generator: a generator on x's device; None for the device's global one.

    Raises:
        ValueError: `spread` is negative or not finite, or x has another shape.
    """
    _check(x, spread=spread)
    gain = torch.rand(*x.shape[:2], 1, generator=generator, device=x.device, dtype=x.dtype)
    return x * (1 + spread * (2 * gain - 1))


def add_noise(x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Add white noise: x' = x + σ n with n ~ N(0, I).

    Args:
        x: (N, C, L).
        sigma: σ ≥ 0, in input units; the standard deviation of a z-normalised series is 1.
        generator: a generator on x's device; None for the device's global one.

    Raises:
        ValueError: `sigma` is negative or not finite, or x has another shape.
    """
    _check(x, sigma=sigma)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + sigma * noise


def _check(x: Tensor, **values: float) -> None:
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; give series (N, C, L)")
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} must be finite and at least 0")
