"""The columns of X in Y = W X: features of a linear layer, patches of a convolution.

For a convolution of stride s and dilation d, output r (in the first dimension of positions) sees
lines r s + t d of the padded input, for each tap t = 0, …, k − 1 of the kernel. Here only the other
dimensions are unfolded: L_u has the patches of line u, with a feature in each row and a sample in
each column. The blocks of the Gram matrix are

    G_tt' = Σ_r L_{rs + td} L_{rs + t'd}ᵀ.

Blocks of equal t' − t (and equal t d mod s) have most of their lines in common, whose products are
summed only once. For a kernel of 3 × 3 and stride 1 this takes a third of the products, and a third
of the copies, that the patches themselves would take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: largest number of entries of inputs that are copied at the same time
PIECE = 1 << 24
CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class Columns(Protocol):
    """Columns of X, in each of the layer's groups."""

    @property
    def samples(self) -> int:
        """Return the number of columns."""

    def gram(self) -> Tensor:
        """Return X Xᵀ, (groups, columns, columns)."""

    def cross(self, target: Tensor) -> Tensor:
        """Return T Xᵀ, (groups, rows, columns), for T as `columns_of` gives it."""

    def total(self) -> Tensor:
        """Return Σ x, (groups, columns) float64."""

    def energy(self) -> Tensor:
        """Return Σ x², (groups, columns) float64."""


@dataclass(frozen=True)
class Features:
    """The inputs of a linear layer.

    Attributes:
        x: (1, samples, columns).
    """

    x: Tensor

    @property
    def samples(self) -> int:
        return self.x.shape[1]

    def gram(self) -> Tensor:
        return self.x.mT @ self.x

    def cross(self, target: Tensor) -> Tensor:
        return target @ self.x

    def total(self) -> Tensor:
        return self.x.sum(1).double()

    def energy(self) -> Tensor:
        return self.x.square().sum(1).double()


@dataclass(frozen=True)
class Lines:
    """The padded inputs of a convolution, line by line.

    Attributes:
        lines: phase -> L_u for u ≡ phase mod s, side by side, (groups, inputs · other taps,
            lines · each).
        taps: for each tap, the phase of its lines and the place of the first one.
        number: the number of lines that each tap sees.
        each: the number of samples in a line.
        inputs: the number of inputs in a group.
    """

    lines: Mapping[int, Tensor]
    taps: tuple[tuple[int, int], ...]
    number: int
    each: int
    inputs: int

    @property
    def samples(self) -> int:
        return self.number * self.each

    def _cut(self, phase: int, begin: int, end: int) -> Tensor:
        return self.lines[phase][..., begin * self.each : end * self.each]

    def seen(self) -> Iterator[Tensor]:
        """Yield the lines that each tap sees, (groups, inputs · other taps, samples)."""
        for phase, start in self.taps:
            yield self._cut(phase, start, start + self.number)

    def gram(self) -> Tensor:
        kernel, number = len(self.taps), self.number
        groups, features, _ = self.lines[0].shape
        split = self.inputs, features // self.inputs
        found = self.lines[0].new_empty(groups, *_between(split, kernel), *_between(split, kernel))
        alike: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for a, (phase, start) in enumerate(self.taps):
            for b, (other, later) in enumerate(self.taps[a:], a):
                alike.setdefault((phase, other, later - start), []).append((a, b))
        for key, pairs in alike.items():
            starts = [self.taps[a][1] for a, _ in pairs]
            low, high = max(starts), min(starts) + number
            shared = self._product(key, low, high) if low < high else None
            for (a, b), start in zip(pairs, starts, strict=True):
                ends = (
                    [(start, start + number)]
                    if shared is None
                    else [(start, low), (high, start + number)]
                )
                sums = [self._product(key, begin, end) for begin, end in ends if begin < end]
                block = sum(sums, shared) if shared is not None else sums[0]
                found[:, :, a, :, :, b] = block.view(groups, *split, *split)
                found[:, :, b, :, :, a] = block.mT.view(groups, *split, *split)
        columns = features * kernel
        return found.view(groups, columns, columns)

    def _product(self, key: tuple[int, int, int], begin: int, end: int) -> Tensor:
        """Return Σ L_u L_{u + shift}ᵀ over lines of two phases, (groups, features, features)."""
        phase, other, shift = key
        return self._cut(phase, begin, end) @ self._cut(other, begin + shift, end + shift).mT

    def cross(self, target: Tensor) -> Tensor:
        return self._joined([target @ lines.mT for lines in self.seen()])

    def total(self) -> Tensor:
        return self._summed(lambda lines: lines)

    def energy(self) -> Tensor:
        return self._summed(Tensor.square)

    def _summed(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return sums over the samples, (groups, columns) float64."""
        sums = {
            phase: torch.unflatten(of(lines), -1, (-1, self.each)).sum(-1).double()
            for phase, lines in self.lines.items()
        }
        parts = [
            sums[phase][..., start : start + self.number].sum(-1) for phase, start in self.taps
        ]
        return self._joined(parts)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Return values of each tap, (..., inputs · other taps), as (..., columns)."""
        split = [torch.unflatten(part, -1, (self.inputs, -1)) for part in parts]
        return torch.stack(split, -2).flatten(-3)

    def outputs(self, weight: Tensor) -> Tensor:
        """Return W X, (groups, rows, samples), for W of shape (groups · rows, inputs, *kernel)."""
        taps = weight.flatten(3) if weight.ndim > 3 else weight.unsqueeze(-1)
        taps = torch.unflatten(
            taps, 0, (len(self.lines[0]), -1)
        )  # (groups, rows, inputs, kernel, others)
        found: Tensor | None = None
        for t, lines in enumerate(self.seen()):
            own = taps[:, :, :, t].flatten(2)
            found = own @ lines if found is None else found.baddbmm_(own, lines)
        assert found is not None
        return found


def _between(split: tuple[int, int], kernel: int) -> tuple[int, int, int]:
    return split[0], kernel, split[1]


def convolve(layer: Convolution, weight: Tensor, x: Tensor) -> Tensor:
    """Return W X in the shape of the layer's output, for W of the layer's own shape.

    In float64 it is faster than PyTorch's own convolutions on a CPU.
    """
    dims = len(layer.kernel_size)
    unfolded = _unfolded(layer, x)
    positions = unfolded.shape[4 : 3 + dims]
    parts = []
    for piece in torch.split(unfolded, _examples(unfolded)):
        lines = _lines(layer, piece, weight.dtype)
        laid = torch.unflatten(lines.outputs(weight), -1, (lines.number, len(piece), *positions))
        parts.append(laid.movedim(3, 0).flatten(1, 2))  # (N, groups · rows, *positions)
    outputs = torch.cat(parts) if len(parts) > 1 else parts[0]
    return outputs if x.ndim == dims + 2 else outputs.squeeze(0)


def columns_of(
    layer: nn.Module,
    x: Tensor,
    dtype: torch.dtype,
    targets: Mapping[str, Tensor] | None = None,
    counted: Tensor | None = None,
) -> Iterator[tuple[Columns, dict[str, Tensor]]]:
    """Yield columns of the layer's input with their targets, in pieces that fit into memory.

    Args:
        dtype: the dtype of the columns.
        targets: name -> T in the shape of the layer's output; it comes as (groups, rows, samples).
        counted: (N, T) boolean, which tokens count; None for all, as always in a convolution.
    """
    wanted = {name: rows_of(layer, t) for name, t in (targets or {}).items()}
    if isinstance(layer, CONV):
        unfolded = _unfolded(layer, x)
        step, dims = _examples(unfolded), len(layer.kernel_size)
        order = 1 + dims, 2 + dims, 1, 0, *range(2, 1 + dims)
        for start in range(0, len(unfolded), step):
            own = slice(start, start + step)
            laid = {name: t[own].to(dtype).permute(order).flatten(2) for name, t in wanted.items()}
            yield _lines(layer, unfolded[own], dtype), laid
        return
    flat = x.reshape(-1, x.shape[-1])
    if counted is not None and (rows := which_rows(layer, x, counted)) is not None:
        flat, wanted = flat[rows], {name: t[rows] for name, t in wanted.items()}
    step = max(1, len(flat) * PIECE // max(PIECE, flat.numel()))
    for start in range(0, max(1, len(flat)), step):
        own = slice(start, start + step)
        laid = {name: t[own].to(dtype).permute(1, 2, 0) for name, t in wanted.items()}
        yield Features(flat[own].to(dtype).unsqueeze(0)), laid


def rows_of(layer: nn.Module, t: Tensor) -> Tensor:
    """Return outputs of the layer as (samples, groups, rows), or (N, *positions, groups, rows)."""
    if not isinstance(layer, CONV):
        return t.reshape(-1, 1, t.shape[-1])
    dims = len(layer.kernel_size)
    t = torch.unflatten(t if t.ndim == dims + 2 else t.unsqueeze(0), 1, (layer.groups, -1))
    return t.permute(0, *range(3, 3 + dims), 1, 2)


def which_rows(layer: nn.Module, x: Tensor, counted: Tensor) -> Tensor | None:
    """Return which rows of a linear layer's input are tokens that count; None if not tokens."""
    if isinstance(layer, CONV):
        return None
    tokens = x.shape[:-1] == counted.shape or x.shape[:-1] == (counted.numel(),)
    return counted.flatten().to(x.device) if tokens else None


def padded(layer: Convolution, x: Tensor) -> Tensor:
    """Return the input of a convolution with its padding."""
    pad = list(layer._reversed_padding_repeated_twice)
    if not any(pad):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, pad, mode=mode)


def _unfolded(layer: Convolution, x: Tensor) -> Tensor:
    """Return a view of padded inputs, (N, groups, inputs, lines, *other positions, *other taps)."""
    dims = len(layer.kernel_size)
    x = padded(layer, x if x.ndim == dims + 2 else x.unsqueeze(0))
    for d in range(1, dims):
        kernel, stride, apart = layer.kernel_size[d], layer.stride[d], layer.dilation[d]
        x = x.unfold(2 + d, (kernel - 1) * apart + 1, stride)[..., ::apart]
    return torch.unflatten(x, 1, (layer.groups, -1))


def _examples(unfolded: Tensor) -> int:
    """Return how many examples are copied at a time."""
    return max(1, len(unfolded) * PIECE // max(PIECE, unfolded.numel()))


def _lines(layer: Convolution, unfolded: Tensor, dtype: torch.dtype) -> Lines:
    """Copy the lines that the kernel sees."""
    dims = len(layer.kernel_size)
    kernel, stride, apart = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
    number = (unfolded.shape[3] - (kernel - 1) * apart - 1) // stride + 1
    taps = tuple((t * apart % stride, t * apart // stride) for t in range(kernel))
    laid = unfolded.permute(3, 1, 2, *range(3 + dims, unfolded.ndim), 0, *range(4, 3 + dims))
    lines: dict[int, Tensor] = {}
    for phase in {phase for phase, _ in taps}:
        end = max(start for own, start in taps if own == phase) + number
        view = laid[phase::stride][:end].movedim(0, 1 + dims)
        copy = torch.empty(view.shape, dtype=dtype, device=view.device).copy_(view)
        lines[phase] = copy.flatten(1 + dims).flatten(1, dims)
    each = math.prod([len(unfolded), *unfolded.shape[4 : 3 + dims]])
    return Lines(lines, taps, number, each, unfolded.shape[2])
