"""The curves that have bounds (see ``curves``), with the errors of a network that computes them.

A factor u of the error is a rounding unit of the network. Library functions such as erf and exp are
taken to be right to ULPS units in the last place, which is 2 · ULPS · u. For z Φ(z) in the form
½ z (1 + erf(z/√2)), the errors of erf and of the sum are not small beside Φ(z) where z is very
negative, so they are counted relative to |z|; the same holds for SiLU, Mish and hard-swish. In
each, the error of a function's argument is multiplied by a sensitivity |a f'(a)| below ½, as for
erf, or below 1.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from robustprune.bounds.curves import Curve, Map, Section, tabulated
from robustprune.bounds.precision import ULPS

#: tables and slopes end where curves have become straight lines
FAR = 60.0
_CUBIC, _ROOT = 0.044715, math.sqrt(2 / math.pi)


def _straight(end: float, slope: float) -> Section:
    """Return a section that is a part of a line."""
    return Section(end, True, lambda z: torch.full_like(z, slope), None)


def _smooth(slope: Map, bends: tuple[float, float]) -> tuple[Section, ...]:
    """Return the sections of a curve that is convex between two points, and concave elsewhere."""
    ends = (-FAR, *bends, FAR)
    return tuple(
        Section(end, convex, slope, tabulated(slope, lo, hi))
        for end, convex, lo, hi in zip(
            (*bends, torch.inf), (False, True, False), ends[:-1], ends[1:], strict=True
        )
    )


def _gelu_slope(z: Tensor) -> Tensor:
    z = z.clamp(-FAR, FAR)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    share: Tensor = torch.special.erfc(-z / math.sqrt(2)) / 2
    return share + z * density


def _argument(z: Tensor) -> Tensor:
    near = z.clamp(-FAR, FAR)
    return 2 * _ROOT * (z + _CUBIC * near * near * near)


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    z = z.clamp(-FAR, FAR)
    share = _argument(z).sigmoid()
    return share + 2 * z * share * (-_argument(z)).sigmoid() * _ROOT * (1 + 3 * _CUBIC * z**2)


def _silu_slope(z: Tensor) -> Tensor:
    z = z.clamp(-FAR, FAR)
    return z.sigmoid() * (1 + z * (-z).sigmoid())


def _softplus(z: Tensor) -> Tensor:
    return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))


def _mish_slope(z: Tensor) -> Tensor:
    z = z.clamp(-FAR, FAR)
    share = _softplus(z).tanh()
    return share + z * z.sigmoid() * (1 - share.square())


@cache
def gelu(approximate: str = "none") -> Curve:
    """Return z Φ(z), or its approximation by tanh."""
    if approximate == "tanh":
        return Curve(
            "gelu",
            lambda z: z * _argument(z).sigmoid(),
            _smooth(_gelu_tanh_slope, (-1.4185040087908283560, 1.4185040087908283560)),
            lowest=-0.75246142207101625740,
            rounded=ULPS + 6,
        )
    return Curve(
        "gelu",
        lambda z: z * torch.special.erfc(-z / math.sqrt(2)) / 2,
        _smooth(_gelu_slope, (-math.sqrt(2), math.sqrt(2))),
        lowest=-0.75179152469356445741,
        rounded=ULPS + 6,
    )


@cache
def silu() -> Curve:
    """Return z σ(z)."""
    return Curve(
        "silu",
        lambda z: z * z.sigmoid(),
        _smooth(_silu_slope, (-2.3993572805154676677, 2.3993572805154676677)),
        lowest=-1.2784645427610737946,
        rounded=2 * ULPS + 4,
    )


@cache
def mish() -> Curve:
    """Return z tanh(log(1 + eᶻ))."""
    return Curve(
        "mish",
        lambda z: z * _softplus(z).tanh(),
        _smooth(_mish_slope, (-2.2563763963607931192, 1.4905711794854284595)),
        lowest=-1.1924312145154952125,
        rounded=4 * ULPS + 4,
    )


@cache
def hardswish() -> Curve:
    """Return z min(max(z + 3, 0), 6) / 6."""
    middle = Section(3.0, True, lambda z: (2 * z + 3) / 6, lambda s: (6 * s - 3) / 2)
    return Curve(
        "hardswish",
        lambda z: z * (z + 3).clamp(0, 6) / 6,
        (_straight(-3.0, 0.0), middle, _straight(torch.inf, 1.0)),
        lowest=-1.5,
        rounded=6,
        peak=6.0,
    )


@cache
def hardsigmoid() -> Curve:
    """Return min(max(z + 3, 0), 6) / 6, also where it is computed as z/6 + ½."""
    return Curve(
        "hardsigmoid",
        lambda z: ((z + 3) / 6).clamp(0, 1),
        (_straight(-3.0, 0.0), _straight(3.0, 1 / 6), _straight(torch.inf, 0.0)),
        rounded=4,
        scale="one",
    )


@cache
def clip(low: float, high: float) -> Curve:
    """Return min(max(z, low), high); one of the limits may be infinite."""
    ends = [(low, 0.0), (high, 1.0), (torch.inf, 0.0)]
    sections = tuple(_straight(end, slope) for end, slope in ends if end > -torch.inf)
    exact = all(math.isinf(v) or (v == round(v) and abs(v) <= 256) for v in (low, high))
    return Curve(
        "clamp",
        lambda z: z.clamp(low, high),
        sections[: 1 + [s.end for s in sections].index(torch.inf)],
        rounded=0 if exact else 1,
        scale="output",
    )


@cache
def elu(alpha: float) -> Curve:
    """Return z for z > 0, and elsewhere α (eᶻ − 1)."""
    curved = Section(
        0.0, True, lambda z: alpha * z.exp(), lambda s: (s / alpha).clamp(min=1e-300).log()
    )
    return Curve(
        "elu",
        lambda z: torch.where(z > 0, z, alpha * torch.expm1(z.clamp(max=0))),
        (curved, _straight(torch.inf, 1.0)),
        rounded=(2 * ULPS + 4) * max(1.0, alpha),
        scale="both",
    )


@cache
def square(rounded: float = 1) -> Curve:
    """Return z²."""
    return Curve(
        "square",
        lambda z: z.square(),
        (Section(torch.inf, True, lambda z: 2 * z, lambda s: s / 2),),
        lowest=0.0,
        rounded=rounded,
        scale="output",
        relative=True,
    )


@cache
def magnitude() -> Curve:
    """Return |z|."""
    sections = (_straight(0.0, -1.0), _straight(torch.inf, 1.0))
    return Curve("abs", lambda z: z.abs(), sections, lowest=0.0, relative=True)


@cache
def exponential(rounded: float = 2 * ULPS) -> Curve:
    """Return eᶻ."""
    section = Section(torch.inf, True, torch.exp, lambda s: s.clamp(min=1e-300).log())
    return Curve("exp", torch.exp, (section,), rounded=rounded, scale="output", relative=True)


@cache
def inverse_root(start: float, rounded: float) -> Curve:
    """Return 1/√z for z ≥ start > 0."""
    section = Section(
        torch.inf,
        True,
        lambda z: -z.pow(-1.5) / 2,
        lambda s: (-2 * s).clamp(min=1e-200).pow(-2 / 3),
    )
    return Curve(
        "inverse root",
        torch.rsqrt,
        (section,),
        start=start,
        rounded=rounded,
        scale="output",
        relative=True,
    )


@cache
def reciprocal(start: float, rounded: float) -> Curve:
    """Return 1/z for z ≥ start > 0."""
    section = Section(
        torch.inf,
        True,
        lambda z: -z.square().reciprocal(),
        lambda s: (-s).clamp(min=1e-300).rsqrt(),
    )
    return Curve(
        "reciprocal",
        torch.reciprocal,
        (section,),
        start=start,
        rounded=rounded,
        scale="output",
        relative=True,
    )
