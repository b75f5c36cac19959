"""A sparsely connected auto-encoder: encoder and decoder are learned with few connections.

    min over W, V of  (1/N) ‖X − V W X‖²_F + λ (‖W‖₁ + ‖V‖₁)

X has one example in each column, W (hidden, d) encodes and V (d, hidden) decodes; both are linear.
See Gupta & Majumdar 2016 (IJCNN, "Sparsely connected autoencoder"). A variable is split so that
each step is simple, and a penalty η ties its copies together:

    activations  Z ≈ W X:         ‖X − V Z‖²/N + η ‖Z − W X‖²/N + λ (‖W‖₁ + ‖V‖₁)
    weights      W ≈ T, V ≈ T':   ‖X − V W X‖²/N + η (‖W − T‖² + ‖V − T'‖²) + λ (‖T‖₁ + ‖T'‖₁)

The paper has no dual variables, so that the copies stay apart. With them (ADMM) they meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustprune.layerwise.lasso import fista, shrink
from robustprune.layerwise.problem import Quadratic

#: which variable is split
Split = Literal["activations", "weights"]


@dataclass(frozen=True)
class Autoencoder:
    """A linear auto-encoder.

    Attributes:
        encoder: W, (hidden, d), with exact zeros.
        decoder: V, (d, hidden), with exact zeros.
        objective: the value that is minimised after each iteration, with the penalty of the copies.
        gap: their distance after each iteration: ‖Z − W X‖²/N, or ‖W − T‖² + ‖V − T'‖².
    """

    encoder: Tensor
    decoder: Tensor
    objective: tuple[float, ...]
    gap: tuple[float, ...]

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of examples, (N, d) -> (N, hidden)."""
        return x.to(self.encoder) @ self.encoder.mT

    def __call__(self, x: Tensor) -> Tensor:
        """Return the reconstruction through both matrices, (N, d) -> (N, d)."""
        return self.encode(x) @ self.decoder.mT

    @property
    def density(self) -> float:
        """The share of the connections of both matrices that are not zero."""
        kept = int((self.encoder != 0).sum()) + int((self.decoder != 0).sum())
        return kept / (self.encoder.numel() + self.decoder.numel())


def sparse_autoencoder(
    x: Tensor,
    hidden: int,
    *,
    penalty: float,
    split: Split = "activations",
    dual: bool = False,
    coupling: float = 1.0,
    iterations: int = 100,
    inner: int = 50,
    seed: int = 0,
) -> Autoencoder:
    """Learn a sparsely connected auto-encoder of examples, (N, d), whose mean is about zero.

    Without `dual`, the objective never rises. It is not convex; the start is random.

    Args:
        hidden: number of hidden units.
        penalty: λ, the weight of the l1 norms, in the units of the mean squared error.
        split: "activations" alternates between two lasso problems and the least squares of Z;
            "weights" between gradient steps of W and V together and two soft thresholds.
        dual: whether dual variables are added, which the paper doesn't have.
        coupling: η, the weight of the distance between a variable and its copy. The thresholds are
            at λ / 2η.
        iterations: number of rounds over all variables.
        inner: largest number of steps inside of one: of FISTA for each lasso, or of the gradient.
        seed: the seed of the first W.

    Raises:
        ValueError: examples are no finite matrix, or an option is out of range.
    """
    _check(x, hidden, penalty, coupling, iterations, inner)
    inputs = x.detach().to(torch.promote_types(x.dtype, torch.float32)).mT
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(hidden, len(inputs), generator=generator, dtype=torch.float64)
    first = (first / math.sqrt(len(inputs))).to(inputs)
    options = penalty, coupling, iterations, inner
    if split == "activations":
        return _split_activations(inputs, first, *options, dual=dual)
    if split == "weights":
        return _split_weights(inputs, first, *options, dual=dual)
    raise ValueError(f"unknown split {split!r}; choose activations or weights")


def _split_activations(
    inputs: Tensor,
    encoder: Tensor,
    penalty: float,
    coupling: float,
    iterations: int,
    inner: int,
    *,
    dual: bool,
) -> Autoencoder:
    number = inputs.shape[1]
    codes = encoder @ inputs
    decoder, away = torch.zeros_like(encoder.mT), torch.zeros_like(codes)
    objective, gap = [], []
    for _ in range(iterations):
        decoder = lasso_of(inputs, codes, penalty, decoder, inner)
        encoder = lasso_of(codes + away, inputs, penalty / coupling, encoder, inner)
        encoded = encoder @ inputs
        codes = codes_of(inputs, decoder, encoded - away, coupling)
        if dual:
            away = away + codes - encoded
        gap.append(float((codes - encoded).square().sum()) / number)
        fit = float((inputs - decoder @ codes).square().sum()) / number
        objective.append(fit + coupling * gap[-1] + penalty * _l1(encoder, decoder))
    return Autoencoder(encoder, decoder, tuple(objective), tuple(gap))


def lasso_of(targets: Tensor, inputs: Tensor, penalty: float, start: Tensor, steps: int) -> Tensor:
    """Return argmin ‖targets − W inputs‖²/N + λ ‖W‖₁, (rows, columns), by FISTA from `start`.

    The result is never worse than the start, though FISTA itself may rise on its way.

    Args:
        targets, inputs: (rows, N) and (columns, N).
    """
    number = inputs.shape[1]
    gram, cross = (inputs @ inputs.mT) / number, (targets @ inputs.mT) / number
    problem = Quadratic(gram.unsqueeze(0), cross.unsqueeze(0))
    found = fista(problem, penalty, start.unsqueeze(0), steps, tolerance=1e-9)[0]

    def value(weight: Tensor) -> Tensor:
        return ((weight @ gram - 2 * cross) * weight).sum() + penalty * weight.abs().sum()

    return found if bool(value(found) <= value(start)) else start


def codes_of(inputs: Tensor, decoder: Tensor, encoded: Tensor, coupling: float) -> Tensor:
    """Return argmin over Z of ‖X − V Z‖² + η ‖Z − encoded‖², (hidden, N)."""
    normal = decoder.mT @ decoder
    normal = normal + coupling * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    codes: Tensor = torch.linalg.solve(normal, decoder.mT @ inputs + coupling * encoded)
    return codes


def _split_weights(
    inputs: Tensor,
    encoder: Tensor,
    penalty: float,
    coupling: float,
    iterations: int,
    inner: int,
    *,
    dual: bool,
) -> Autoencoder:
    gram = (inputs @ inputs.mT) / inputs.shape[1]
    pair = [encoder, encoder.mT.clone()]
    limit, rate = penalty / (2 * coupling), 1.0
    away = [torch.zeros_like(weight) for weight in pair]
    sparse = [shrink(weight, limit) for weight in pair]
    objective, gap = [], []
    for _ in range(iterations):
        near = [copy - dual_ for copy, dual_ in zip(sparse, away, strict=True)]
        pair, rate = descend(gram, pair, near, coupling, inner, rate)
        moved = [weight + dual_ for weight, dual_ in zip(pair, away, strict=True)]
        sparse = [shrink(weight, limit) for weight in moved]
        if dual:
            away = [weight - copy for weight, copy in zip(moved, sparse, strict=True)]
        gap.append(_distance(pair, sparse))
        fit = float(error_of(gram, *pair))
        objective.append(fit + coupling * gap[-1] + penalty * _l1(*sparse))
    return Autoencoder(sparse[0], sparse[1], tuple(objective), tuple(gap))


def descend(
    gram: Tensor,
    pair: list[Tensor],
    near: list[Tensor],
    coupling: float,
    steps: int,
    rate: float,
) -> tuple[list[Tensor], float]:
    """Lower ‖X − V W X‖²/N + η (‖W − near‖² + ‖V − near'‖²) by gradient steps of both matrices.

    The length of a step is halved until the value falls by half of what the gradient promises, and
    doubled after each step.

    Returns:
        [W, V] and the last length.
    """

    def value(weights: list[Tensor]) -> float:
        return float(error_of(gram, *weights)) + coupling * _distance(weights, near)

    here = value(pair)
    for _ in range(steps):
        encoder, decoder = pair
        residual = decoder @ (encoder @ gram) - gram  # (V W − I) G
        slopes = [2 * decoder.mT @ residual, 2 * residual @ encoder.mT]
        slopes = [
            slope + 2 * coupling * (weight - copy)
            for slope, weight, copy in zip(slopes, pair, near, strict=True)
        ]
        steep = sum(float(slope.square().sum()) for slope in slopes)
        while rate > 1e-12:
            tried = [weight - rate * slope for weight, slope in zip(pair, slopes, strict=True)]
            there = value(tried)
            if there <= here - 0.5 * rate * steep:
                pair, here = tried, there
                break
            rate /= 2
        else:
            return pair, 1.0  # no step lowers the value: it is a minimum, up to rounding
        rate *= 2
    return pair, rate


def error_of(gram: Tensor, encoder: Tensor, decoder: Tensor) -> Tensor:
    """Return ‖X − V W X‖²/N from the second moments G = X Xᵀ/N of the examples."""
    encoded = encoder @ gram
    quadratic = ((decoder.mT @ decoder) * (encoded @ encoder.mT)).sum()
    return gram.trace() - 2 * (decoder * encoded.mT).sum() + quadratic


def _distance(weights: list[Tensor], others: list[Tensor]) -> float:
    return sum(float((a - b).square().sum()) for a, b in zip(weights, others, strict=True))


def _l1(encoder: Tensor, decoder: Tensor) -> float:
    return float(encoder.abs().sum() + decoder.abs().sum())


def _check(
    x: Tensor, hidden: int, penalty: float, coupling: float, iterations: int, inner: int
) -> None:
    if x.ndim != 2 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(
            f"examples must be a floating-point matrix (N, d), got {x.dtype} of {tuple(x.shape)}; "
            "call x.float().flatten(1)"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("examples of an auto-encoder hold NaN or infinity")
    for name, count in (("hidden", hidden), ("iterations", iterations), ("inner", inner)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count!r}")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty must be a number from 0 on, got {penalty!r}")
    if not 0 < coupling < math.inf:
        raise ValueError(f"coupling must be positive and finite, got {coupling!r}")
