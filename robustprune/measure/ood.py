"""Detection of inputs from outside the distribution, by the scores of the network itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure.answers import all_logits
from robustprune.measure.auroc import auroc


@dataclass(frozen=True)
class Detection:
    """How well a network tells N examples of its distribution from M outside ones.

    Attributes:
        n, outside: N and M.
        softmax: AUROC of the largest softmax probability; ½ is chance, 1 is perfect.
        energy: AUROC of the negative energy.
    """

    n: int
    outside: int
    softmax: float
    energy: float

    def __repr__(self) -> str:
        return (
            f"Detection(n={self.n}, outside={self.outside}, softmax={self.softmax:.4g}, "
            f"energy={self.energy:.4g})"
        )


def detection(
    model: nn.Module, x: Tensor, outside: Tensor, *, batch_size: int | None = None
) -> Detection:
    """Measure how well a network's own scores tell inputs from outside of its distribution.

        softmax: max_k p_k (Hendrycks & Gimpel 2017, arXiv 1610.02136)
        energy:  T log Σ_k exp(f_k/T), T = 1 (Liu et al. 2020, arXiv 2010.03759, Eq. 4, negative)

    AUROC is the probability that an example scores higher than an outside one.

    Args:
        x: (N, ...) examples of the distribution; outside: (M, ...) others, such as another data set
            or `surrogates(x)`; on the model's device.

    Raises:
        ValueError: one side is empty, or a logit is NaN.
    """
    inner, outer = (all_logits(model, one, batch_size=batch_size) for one in (x, outside))
    return Detection(
        len(x),
        len(outside),
        auroc(max_softmax(inner), max_softmax(outer)),
        auroc(energy(inner), energy(outer)),
    )


def max_softmax(logits: Tensor) -> Tensor:
    """Return the largest probability of each example, (N,)."""
    return logits.double().softmax(1).amax(1)


def energy(logits: Tensor) -> Tensor:
    """Return log Σ_k exp(f_k) of each example, (N,), the negative of its energy."""
    return logits.double().logsumexp(1)


def surrogates(x: Tensor, *, seed: int = 0, bounds: tuple[float, float] | None = None) -> Tensor:
    """Make outside examples from examples: the same power spectrum, with random phases.

    Every frequency of an image (both sides) or a series keeps its size and gets a random phase, so
    that mean, variance and autocorrelation stay and all shapes are lost (Theiler et al., Physica D
    1992). All channels get the same phases. Of flat features (N, F), each column is
    shuffled between the examples instead, which keeps its distribution alone.

    Args:
        x: (N, C, H, W), (N, C, L) or (N, F).
        bounds: the range of valid inputs, to which results are clipped; None for no range.

    Raises:
        ValueError: x has another shape.
    """
    generator = torch.Generator().manual_seed(seed)
    if x.dim() == 2:
        order = torch.rand(x.shape, generator=generator).argsort(0).to(x.device)
        return x.gather(0, order)
    if x.dim() not in (3, 4):
        raise ValueError(f"x has shape {tuple(x.shape)}; give images, series or features")
    sides = tuple(x.shape[2:])
    axes = tuple(range(2, x.dim()))
    noise = torch.randn(len(x), 1, *sides, generator=generator, dtype=torch.float64)
    turned = torch.fft.rfftn(noise, dim=axes)
    # the spectrum of real noise has the symmetry that a real result needs
    phase = (turned / turned.abs().clamp(min=1e-300)).to(x.device)
    phase.flatten(2)[..., 0] = 1.0  # the mean stays
    spectrum = torch.fft.rfftn(x.double(), dim=axes)
    made: Tensor = torch.fft.irfftn(spectrum * phase, s=sides, dim=axes)
    return made.to(x.dtype) if bounds is None else made.clamp(*bounds).to(x.dtype)
