"""Drop frequencies: quantise blocks of the discrete cosine transform coarsely."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.box import Bound, Bounds, bounds_around, check_bounds, clip
from attacks.inputs import (
    Configured,
    batch_of,
    check_at_least,
    check_number,
    given,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import margin
from attacks.modes import attacking, check_mode
from attacks.network import Model, logits_of


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II matrix D, so that D v holds the frequencies of v."""
    k = torch.arange(size, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi / size * (k + 0.5) * k.unsqueeze(1)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def blocks_of(length: int, block: int | None) -> tuple[int, int]:
    """Return the block length and the number of blocks that cover ``length``; None is one block."""
    size = length if block is None else min(block, length)
    return size, -(-length // size)


def dct(x: Tensor, block: int | None) -> Tensor:
    """Compute the DCT of blocks over every dimension after the channels, padded by the last value.

    (N, C, L) -> (N, C, blocks, block); (N, C, H, W) -> (N, C, rows, block, columns, block).
    """
    out = x if x.dim() > 2 else x.unsqueeze(1)
    dim = 2
    for length in out.shape[2:]:
        size, count = blocks_of(length, block)
        last = out.narrow(dim, length - 1, 1)
        padding = last.repeat_interleave(size * count - length, dim)
        out = torch.cat((out, padding), dim)
        out = out.reshape(*out.shape[:dim], count, size, *out.shape[dim + 1 :])
        out = (out.movedim(dim + 1, -1) @ dct_matrix(size, x).T).movedim(-1, dim + 1)
        dim += 2
    return out


def inverse_dct(coefficients: Tensor, shape: torch.Size) -> Tensor:
    """Invert ``dct`` for a batch of this shape."""
    lengths = shape[2:] if len(shape) > 2 else shape[1:]
    out = coefficients
    for dim, length in enumerate(lengths, start=2):
        size = out.shape[dim + 1]
        out = (out.movedim(dim + 1, -1) @ dct_matrix(size, out)).movedim(-1, dim + 1)
        out = out.flatten(dim, dim + 1).narrow(dim, 0, length)
    return out.reshape(shape)


def soft_round(v: Tensor, sharpness: float) -> Tensor:
    """Return ⌊v⌋ + ½ (1 + tanh(s (v − ⌊v⌋ − ½)) / tanh(s/2)), a differentiable rounding."""
    part = v - v.floor()
    return v.floor() + (1 + torch.tanh(sharpness * (part - 0.5)) / math.tanh(sharpness / 2)) / 2


def quantised(
    frequencies: Tensor, q: Tensor, *, shape: torch.Size, sharpness: float | None = None
) -> Tensor:
    """Return D⁻¹(q · round(frequencies / q)); with a sharpness, rounding is differentiable."""
    levels = frequencies / q
    rounded = levels.round() if sharpness is None else soft_round(levels, sharpness)
    return inverse_dct(rounded * q, shape)


class _Run(NamedTuple):
    x_adv: Tensor
    broken: Tensor
    highest: Tensor


@dataclass(frozen=True)
class AdvDrop(Configured):
    """Remove information instead of adding it: quantise frequencies with adversarial steps.

    x' = D⁻¹(q · round(D(x) / q)), where D is the blockwise cosine transform. Each example has one
    quantisation step q per frequency of a block, moved along sign ∇_q ℓ within [q_min, q_max]: Duan
    et al. 2021 (arXiv 2108.09034), §3. D works on 8 × 8 blocks of images, and on the whole length
    of series and tables, where it drops bands. There is no ε: q_max limits the change.

    Args:
        max_step: q_max, the coarsest quantisation step, in input units.
        min_step: q_min; None for q_max / 20.
        steps: number of updates of q, from q_min and again from q_max; an example stops at its
            first misclassified point.
        block: block length; None for 8 with images and the whole length otherwise.
        bounds: valid inputs, None or (lo, hi), as in ``ThreatModel``.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    max_step: float
    _: KW_ONLY
    min_step: float | None = None
    steps: int = 50
    block: int | None = None
    bounds: Bounds = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_at_least(1, steps=self.steps, **given(block=self.block))
        check_number("above 0", max_step=self.max_step, **given(min_step=self.min_step))
        check_mode(self.mode)
        check_bounds(self.bounds)
        if not 0 < self._least() <= self.max_step:
            raise ValueError(
                f"min_step={self.min_step} and max_step={self.max_step} must hold 0 < min ≤ max"
            )

    def _least(self) -> float:
        return self.max_step / 20 if self.min_step is None else self.min_step

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y, bounds=self.bounds)
        if len(x) == 0:
            return x.clone()
        block = 8 if self.block is None and x.dim() == 4 else self.block
        with attacking(model, self.mode):
            out = x.clone()
            standing = ~misclassified(predict(model, out, y), y)
            highest = torch.full_like(out.flatten(1)[:, 0], -torch.inf)
            frequencies = dct(out, block)
            # First from the finest steps, for a small change; then from the coarsest: between
            # them q is often stuck, because a value that is rounded up grows with q.
            for first in (self._least(), self.max_step):
                live = standing.nonzero().squeeze(1)
                run = self._run(model, frequencies[live], out[live], y[live], first)
                better = run.broken | (run.highest > highest[live])
                out[live[better]] = run.x_adv[better]
                highest[live[better]] = run.highest[better]
                standing[live] = ~run.broken
        return out

    def _run(
        self,
        model: Model,
        frequencies: Tensor,
        x: Tensor,
        y: Tensor,
        first: float,
    ) -> _Run:
        """Take sign steps on q from one value for all; stop at misclassified examples."""
        out, live = x.clone(), torch.arange(len(x), device=x.device)
        broken = torch.zeros_like(y, dtype=torch.bool)
        highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        # one q for each frequency of a block, shared by all blocks
        table = [n if k == 0 or k % 2 else 1 for k, n in enumerate(frequencies.shape)]
        q = torch.full(table, first, dtype=x.dtype, device=x.device)
        rate = 2 * (self.max_step - self._least()) / self.steps
        for k in range(self.steps + 1):
            if len(live) == 0:
                break
            bounds = bounds_around(self.bounds, x[live])
            x_adv = clip(quantised(frequencies[live], q[live], shape=out[live].shape), bounds)
            logits = predict(model, x_adv, y[live])
            value, fooled = margin(logits, y[live]), misclassified(logits, y[live])
            better = fooled | (value > highest[live])
            out[live[better]], highest[live[better]] = x_adv[better], value[better].to(x.dtype)
            broken[live] = fooled
            live = live[~fooled]
            if k == self.steps or len(live) == 0:
                break
            rebuild = partial(
                quantised,
                frequencies[live],
                shape=out[live].shape,
                sharpness=2.0 + 8.0 * k / self.steps,
            )
            bounds = bounds_around(self.bounds, x[live])
            grad = self._gradient(model, rebuild, q[live], y[live], bounds)
            q[live] = (q[live] + rate * grad.sign()).clamp(self._least(), self.max_step)
        return _Run(out, broken, highest)

    def _gradient(
        self,
        model: Model,
        rebuild: Callable[[Tensor], Tensor],
        q: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound] | None,
    ) -> Tensor:
        """Return the gradient of the margin with respect to q."""

        def of_steps(steps: Tensor) -> Tensor:
            return logits_of(model, clip(rebuild(steps), bounds))

        return loss_and_gradient(of_steps, q, y, margin)[2]
