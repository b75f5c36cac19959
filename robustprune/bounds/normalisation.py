"""Layer normalisation as operations of a ``Program``.

y = (z − μ)/√(σ² + ε) · w + b, with the mean μ and the variance σ² of n entries, is a linear map to
the differences d = z − μ, the curves d² and 1/√(σ² + ε), and a product (Shi et al. 2020, arXiv
2002.06622, §3.3, which has no ε and no weights).

A network computes μ and σ² in two passes, in one (Σ z²/n − μ²), or entry by entry (Welford). Each
of these costs a multiple of n roundings of mean(z²) = σ² + μ² (Chan, Golub & LeVeque 1983,
*Algorithms for computing the sample variance*). Entry by entry, the error of the mean after k
entries is at most u Σ|z| (1 + 6 log(k)/k), and it meets Σ |δ_k| ≤ (2 + log n) Σ |z| in σ². Then the
network computes (z − μ)·s, or z·s − μ·s, with roundings of |z| and |μ|. So errors depend on μ, and
the linear map has μ beside the differences: (…, n) -> (…, n + 1).

Two assumptions are about torch: of formats coarser than float32, μ and 1/√(σ² + ε) are computed in
float32, and a variance that is computed below 0 counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustprune.bounds import formulas
from robustprune.bounds.affine import Affine
from robustprune.bounds.algebra import Interval
from robustprune.bounds.precision import ULPS, Precision
from robustprune.bounds.products import ROWWISE, Product
from robustprune.bounds.program import Program, Value
from robustprune.bounds.shapes import narrow, reshaped_to
from robustprune.bounds.tensors import Unsupported, scaled


@dataclass(frozen=True)
class Centred(Affine):
    """The map of (…, n) to the n differences from their mean, and the mean, (…, n + 1).

    Attributes:
        inside: the precision of the network's statistics; None in training.
        most: no value on the way is larger than this, times the largest entry.
    """

    inside: Precision | None = None
    most: float = 1.0

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor:
        """Return the errors of z − μ, of which those of z·s − μ·s are s times as large."""
        (box,), inside = inputs, self.inside
        assert inside is not None
        count, entry = box.lo.shape[-1], box.size + precision.reach
        mean = entry.mean(-1, keepdim=True)
        error = inside.of_result(entry + mean, _of_mean(count)) + 2 * count * inside.floor
        largest = self.most * entry.amax(-1, keepdim=True)
        error = error.where(largest < min(inside.largest, precision.largest) / 4, torch.inf)
        return torch.cat((error, torch.zeros_like(mean)), -1)  # a mean that is exact


@dataclass(frozen=True)
class Variance(Affine):
    """The map of the squares of ``Centred`` to σ² + ε, (…, n + 1) -> (…, 1).

    inside: as in ``Centred``.
    """

    inside: Precision | None = None

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor:
        """Return the error of the variance, and of its own differences, which are not those of
        ``Centred``: these err by γ(|zᵢ| + mean |z|), which makes 5γ mean(z²) of their squares."""
        (box,), inside = inputs, self.inside
        assert inside is not None
        assert self.bias is not None
        count, parts = box.lo.shape[-1] - 1, box.size
        whole = parts[..., :-1].mean(-1, keepdim=True) + parts[..., -1:]  # mean(z²)
        terms = 2 * (4 + math.log(count)) * count + 5 * _of_mean(count) + 16
        flushed = inside.floor * (8 * count + 16) * (1 + (count * whole).sqrt())
        error = inside.of_result(whole + self.bias, terms) + flushed
        return error.where(count * whole < inside.largest / 8, torch.inf)


def _of_mean(count: int) -> float:
    """Return the number of roundings of mean |z| and |z| in a difference from the mean."""
    return count + 6 * math.log(count) + 16


def _centred(count: int, inside: Precision | None, most: float) -> Centred:
    def forward(z: Tensor) -> Tensor:
        mean = z.mean(-1, keepdim=True)
        return torch.cat((z - mean, mean), -1)

    def absolute(z: Tensor) -> Tensor:
        mean = z.mean(-1, keepdim=True)
        return torch.cat((z * (1 - 2 / count) + mean, mean), -1)

    def adjoint(A: Tensor) -> Tensor:
        own = A[..., :-1]
        return own + (A[..., -1:] - own.sum(-1, keepdim=True)) / count

    return Centred(forward, absolute, adjoint, inside=inside, most=most)


def _variance(count: int, eps: Tensor, inside: Precision | None) -> Variance:
    def forward(q: Tensor) -> Tensor:
        return q[..., :-1].mean(-1, keepdim=True)

    def adjoint(A: Tensor) -> Tensor:
        own = (A / count).expand(*A.shape[:-1], count)
        return torch.cat((own, torch.zeros_like(A)), -1)

    return Variance(forward, forward, adjoint, eps, eps, inside=inside)


def layer_norm(
    p: Program,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Value:
    """Return the layer normalisation over the last dimensions.

    Raises:
        Unsupported: ε is 0, or so small that the network's numbers can't tell it from 0.
    """
    shape = tuple(input.sample.shape[1:])
    over = tuple(normalized_shape)
    if not over or shape[len(shape) - len(over) :] != over:
        raise Unsupported(f"a layer norm over {over} of examples of shape {shape}")
    count = math.prod(over)
    least, inside = eps, None
    if p.precision is not None:
        inside = min(p.precision, Precision.of(torch.float32), key=lambda kind: kind.unit)
        least = eps * (1 - 4 * inside.unit) - 4 * inside.floor
    if least <= eps / 2 or eps <= 0:
        raise Unsupported(f"a layer norm with eps={eps}; take one that the network's numbers hold")
    z = reshaped_to(p, input, (*shape[: len(shape) - len(over)], count))
    most = (1 + 1 / math.sqrt(least)) * _largest(weight)
    parts = p.add(_centred(count, inside, most), z)
    squares = p.add(formulas.square(rounded=0), parts)
    added = input.sample.new_full((1, *z.sample.shape[1:-1], 1), eps)
    variance = p.add(_variance(count, added, inside), squares)
    rounded = 2.0 * ULPS + 8
    if inside is not None and p.precision is not None:
        rounded *= inside.unit / p.precision.unit
    inverse = p.add(formulas.inverse_root(least, rounded), variance)
    own = narrow(p, parts, -1, 0, count)
    y = reshaped_to(p, p.add(Product(ROWWISE), own, inverse), shape)
    if weight is None and bias is None:
        return y
    return scaled(p, y, weight, bias, roundings=6)


def _largest(weight: Tensor | None) -> float:
    return 1.0 if weight is None else 1 + float(weight.detach().abs().max())


def layer_norm_layer(p: Program, layer: Any, input: Value) -> Value:
    return layer_norm(p, input, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
