"""What sensors do to series without an adversary: another gain, and noise."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_amplitude(x: Tensor, spread: float, generator: torch.Generator | None = None) -> Tensor:
    """Another gain for each channel of each series: x' = a x with a ~ U(1 − spread, 1 + spread).

    Args:
        x: (N, C, L).
        spread: at least 0; from 1 on a channel may be silent or turned over.
        generator: on x's device; None is the device's global one.

    Raises:
        ValueError: a negative or non-finite spread, or x of another shape.
    """
    _check(x, spread=spread)
    gain = torch.rand(*x.shape[:2], 1, generator=generator, device=x.device, dtype=x.dtype)
    return x * (1 + spread * (2 * gain - 1))


def add_noise(x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """White noise of the sensor: x' = x + σ n, n ~ N(0, I).

    Args:
        x: (N, C, L).
        sigma: σ ≥ 0 in input units; 1 is a z-normalised series' own standard deviation.
        generator: on x's device; None is the device's global one.

    Raises:
        ValueError: a negative or non-finite sigma, or x of another shape.
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
