"""Corruptions of series, without an adversary: gain, noise, drift, dropout and a warp of time."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def add_drift(x: Tensor, size: float, generator: torch.Generator | None = None) -> Tensor:
    """Add a line from 0 to ±d to each channel of each series: x'_t = x_t + s d t / (L − 1).

    Args:
        x: (N, C, L).
        size: d ≥ 0, in input units; the sign s is drawn.
        generator: a generator on x's device; None for the device's global one.

    Raises:
        ValueError: `size` is negative or not finite, or x has another shape.
    """
    _check(x, size=size)
    signs = torch.rand(*x.shape[:2], 1, generator=generator, device=x.device, dtype=x.dtype)
    time = torch.linspace(0, 1, x.shape[2], device=x.device, dtype=x.dtype)
    return x + size * torch.where(signs < 0.5, -1.0, 1.0).to(x.dtype) * time


def drop_out(x: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace single values by their channel's mean over time, each with probability `share`.

    Args:
        x: (N, C, L).
        share: in [0, 1].
        generator: a generator on x's device; None for the device's global one.

    Raises:
        ValueError: `share` is outside [0, 1], or x has another shape.
    """
    _check(x, share=share)
    if share > 1:
        raise ValueError(f"share={share} must be at most 1")
    lost = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) < share
    return torch.where(lost, x.mean(2, keepdim=True), x)


def warp_time(x: Tensor, size: float, generator: torch.Generator | None = None) -> Tensor:
    """Stretch and squeeze time smoothly; the two ends stay where they are.

        x'(t) = x(w(t)),  w(t) = t + a (sin(2πt + φ) − sin φ) / 2π,  t in [0, 1]

    φ is uniform, the same for all channels of a series; between two steps x is interpolated.

    Args:
        x: (N, C, L), L at least 2.
        size: a in [0, 1), so that time never runs backwards.
        generator: a generator on x's device; None for the device's global one.

    Raises:
        ValueError: `size` is outside [0, 1), or x has another shape.
    """
    _check(x, size=size)
    length = x.shape[2]
    if size >= 1 or length < 2:
        raise ValueError(f"size={size} must be below 1, and series (here {length}) 2 steps long")
    phase = torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype)
    phase = 2 * math.pi * phase
    time = torch.linspace(0, 1, length, device=x.device, dtype=x.dtype)
    warped = time + size * (torch.sin(2 * math.pi * time + phase) - torch.sin(phase)) / (
        2 * math.pi
    )
    place = (warped * (length - 1)).clamp(0, length - 1)
    left = place.floor().long().clamp(max=length - 2)
    part = (place - left).unsqueeze(1)
    low, high = (
        x.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1)) for index in (left, left + 1)
    )
    return low + part * (high - low)


#: what each corruption does to series, and its size at the severities 1 to 5. Noise and drift are
#: in units of the standard deviation of the values of x, which is 1 for z-normalised series. There
#: is no standard of such sizes; these are ours.
SERIES: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "noise": (lambda x, c, g: add_noise(x, c * _scale(x), g), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "drift": (lambda x, c, g: add_drift(x, c * _scale(x), g), (0.2, 0.4, 0.6, 0.8, 1.0)),
    "dropout": (drop_out, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "time warp": (warp_time, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "amplitude": (scale_amplitude, (0.1, 0.2, 0.3, 0.4, 0.5)),
}


def _scale(x: Tensor) -> float:
    return float(x.std()) if x.numel() > 1 else 1.0


def _check(x: Tensor, **values: float) -> None:
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; give series (N, C, L)")
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} must be finite and at least 0")
