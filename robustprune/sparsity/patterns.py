"""Patterns say which weights are kept or removed together; top-k over such groups is exact.

A weight is laid out as (G, out/G, in/G, *kernel) for a convolution in G groups (otherwise G = 1),
transposed convolutions and the Conv1D of transformers included. A pattern says which dimensions
index a group; the group extends over the others:

| pattern | group of a convolution                     | group of a linear layer | kept     |
| ------- | ------------------------------------------ | ----------------------- | -------- |
| element | one weight                                 | one weight              | any      |
| row     | W[o, i, ..., :]                            | W[o, :]                 | any      |
| kernel  | W[o, i]                                    | one weight              | any      |
| filter  | W[o]: one output                           | W[o, :]                 | any      |
| channel | W[:, i]: one input                         | W[:, i]                 | any      |
| column  | W[:, i, y, x]: one column of the GEMM      | W[:, i]                 | any      |
| AxB     | a tile of A outputs x B columns (4x4, ...) | a tile                  | any      |
| N:M     | one weight, N of every M along the inputs  | the same                | N/M only |

A weight that stacks several matrices (the gates of an LSTM or GRU, query, key and value of
attention) has the groups of each of them, and no group spans two. Each keeps an equal number, and
the first ones keep one more where the number does not divide; with the allocation "global" all
groups of the weight are compared.

Fu et al. use element, row and kernel for robust scratch tickets (arXiv 2110.14068, Sec. 3.6), and
Ye et al. use element, column and filter (arXiv 1903.12561, Sec. 3.3). Sparse tensor cores need 2:4
(Mishra et al. 2021, arXiv 2104.08378). Tiles at the edge are smaller, and a last block of r < M
inputs keeps ⌈N r / M⌉ of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.sparsity.blocks import hf_conv1d
from robustprune.sparsity.largest import top_k
from robustprune.sparsity.matrices import leaf_of, stacked_in
from robustprune.sparsity.shares import share_equally

PATTERNS = ("element", "row", "kernel", "filter", "channel", "column", "AxB", "N:M")
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def check_pattern(pattern: str, density: float | None = None) -> str:
    """Return `pattern` if it is valid and if it can keep `density` of the weights.

    Raises:
        ValueError: the pattern is unknown, N:M does not have 0 < N <= M, or `density` is not N/M.
    """
    numbers = _numbers(pattern)
    if pattern not in PATTERNS[:6] and numbers is None:
        raise ValueError(
            f"unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS[:6])}, "
            "a tile such as 4x4, or N:M such as 2:4"
        )
    if ":" in pattern and numbers is not None:
        n, m = numbers
        if n > m:
            raise ValueError(f"pattern {pattern!r} keeps {n} of every {m}; N must not exceed M")
        if density is not None and density != n / m:
            raise ValueError(
                f"pattern {pattern!r} keeps exactly {n / m} of the weights, got density "
                f"{density}; set density to {n / m} or take another pattern"
            )
    return pattern


def _numbers(pattern: str) -> tuple[int, int] | None:
    """Return A and B of "AxB", N and M of "N:M", or None for other patterns."""
    found = re.fullmatch(r"([1-9]\d*)[:x]([1-9]\d*)", pattern)
    return None if found is None else (int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Groups:
    """The groups into which a pattern divides one layer's weight of `shape`.

    With `by_row` the groups of each output are compared, otherwise all of a matrix. `conv_groups`
    is the `groups` argument of a convolution. `transposed` means that outputs are the second
    dimension, as in transposed convolutions (in, out/groups, *kernel) and the Conv1D of
    transformers. `stacked` is the number of matrices that lie one above the other in the weight;
    with `across` their groups are compared together.
    """

    shape: tuple[int, ...]
    pattern: str
    conv_groups: int = 1
    transposed: bool = False
    by_row: bool = False
    stacked: int = 1
    across: bool = False

    @property
    def out_first(self) -> tuple[int, ...]:
        """The shape if the weight is laid out as (out, in/G, *kernel)."""
        if not self.transposed:
            return self.shape
        ins, outs, *kernel = self.shape
        return (outs * self.conv_groups, ins // self.conv_groups, *kernel)

    @property
    def laid_out(self) -> tuple[int, ...]:
        """The shape if the weight is laid out as (G, out/G, in/G, *kernel), or as (stacked,
        out/stacked, in)."""
        (out, *rest), g = self.out_first, self.conv_groups * self.stacked
        return (g, out // g, *rest)

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape of one of the stacked matrices: `out_first` if there is only one."""
        out, *rest = self.out_first
        return (out // self.stacked, *rest)

    @property
    def fan_in(self) -> int:
        """The number of inputs of one output unit."""
        return math.prod(self.out_first[1:])

    @property
    def _elementwise(self) -> bool:
        return self.pattern == "element" or ":" in self.pattern

    @property
    def _index(self) -> tuple[int, ...]:
        """The dimensions of `laid_out` that index a group."""
        every = tuple(range(len(self.laid_out)))
        named = {
            "row": every[:-1],
            "kernel": (0, 1, 2),
            "filter": (0, 1),
            "channel": (0, 2),
            "column": (0, *every[2:]),
        }
        return named.get(self.pattern, every)

    @property
    def _tiles(self) -> tuple[int, int, int, int] | None:
        """The height and width of a tile, and how many tiles there are down and across in one
        matrix, or None."""
        numbers = _numbers(self.pattern)
        if numbers is None or ":" in self.pattern:
            return None
        high, wide = numbers
        return high, wide, -(-self.matrix[0] // high), -(-self.fan_in // wide)

    @property
    def number(self) -> int:
        """The number of groups."""
        if self._tiles is not None:
            return self.stacked * self._tiles[2] * self._tiles[3]
        return math.prod(self.laid_out[d] for d in self._index)

    @property
    def in_row(self) -> int | None:
        """The number of groups of each output, or None if groups span several outputs."""
        spans = self.pattern in ("channel", "column") or (self._tiles or (1,))[0] > 1
        return None if spans else self.number // self.out_first[0]

    @property
    def fixed(self) -> int | None:
        """The number of weights that N:M keeps at any density; None for other patterns."""
        numbers = _numbers(self.pattern)
        if numbers is None or ":" not in self.pattern:
            return None
        (n, m), ins = numbers, self.out_first[1]
        whole, rest = divmod(ins, m)
        return math.prod(self.shape) // ins * (whole * n + -(-n * rest // m))

    def reduce(self, score: Tensor) -> Tensor:
        """Sum the scores of each group, (number,)."""
        if self._elementwise:
            return score.flatten()
        if score.dtype in (torch.float16, torch.bfloat16):
            score = score.float()  # a sum in half precision overflows, or ties what differs
        laid = self.lay_out(score)
        if self._tiles is None:
            others = [d for d in range(laid.ndim) if d not in self._index]
            return laid.sum(others).flatten() if others else laid.flatten()
        high, wide, down, across = self._tiles
        rows, columns = self.matrix[0], self.fan_in
        matrices = laid.reshape(self.stacked, rows, columns)
        matrices = F.pad(matrices, (0, across * wide - columns, 0, down * high - rows))
        return matrices.view(-1, down, high, across, wide).sum((2, 4)).flatten()

    def expand(self, kept: Tensor) -> Tensor:
        """Spread one value per group, (number,), over the weight's own shape."""
        if self._elementwise:
            return kept.view(self.shape)
        if self._tiles is None:
            laid = self.laid_out
            narrow = [laid[d] if d in self._index else 1 for d in range(len(laid))]
            return self.lay_back(kept.view(narrow).expand(laid)).contiguous()
        high, wide, down, across = self._tiles
        tiles = kept.view(-1, down, across).repeat_interleave(high, 1).repeat_interleave(wide, 2)
        matrices = tiles[:, : self.matrix[0], : self.fan_in]
        return self.lay_back(matrices.reshape(self.laid_out)).contiguous()

    def choose(self, values: Tensor, kept: int) -> Tensor:
        """Mark the groups to keep by their values; both are (number,). These are the `kept`
        largest (an equal number from each output if compared by row, and from each of several
        stacked matrices), or the N largest of every M. Of equal values the first is kept. Groups
        of value −inf count as removed already, and other matrices keep what is missing for them."""
        numbers = _numbers(self.pattern)
        if self.by_row and self.fixed is None:
            return self._best_of_rows(values, kept // self.out_first[0])
        if self.fixed is None or numbers is None:
            if self.stacked == 1 or self.across:
                return top_k(values, kept)
            parts = values.view(self.stacked, -1)
            alive = [int(number) for number in (parts > -torch.inf).sum(1)]
            counts = share_equally(kept, alive)
            return torch.cat([top_k(part, n) for part, n in zip(parts, counts, strict=True)])
        laid = self.lay_out(values.view(self.shape)).movedim(2, -1)
        (n, m), ins = numbers, laid.shape[-1]
        blocks = F.pad(laid.reshape(-1, ins), (0, -ins % m), value=-torch.inf).reshape(-1, m)
        rank = blocks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        most = torch.full((-(-ins // m),), n, device=values.device)
        most[-1] = -(-n * ((ins - 1) % m + 1) // m)
        chosen = rank < most.repeat(len(blocks) // len(most)).unsqueeze(1)
        chosen = chosen.view(-1, len(most) * m)[:, :ins].reshape(laid.shape).movedim(-1, 2)
        return self.lay_back(chosen).flatten()

    def _best_of_rows(self, values: Tensor, kept: int) -> Tensor:
        laid = self.lay_out(values.view(self.shape)) if self._elementwise else values
        rows = laid.reshape(self.out_first[0], -1)
        order = rows.argsort(dim=1, descending=True, stable=True)
        chosen = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :kept], True)
        chosen = chosen.view(laid.shape)
        return self.lay_back(chosen).flatten() if self._elementwise else chosen

    def lay_out(self, weight: Tensor) -> Tensor:
        """Return a weight of shape `shape` in the shape `laid_out`."""
        if not self.transposed:
            return weight.reshape(self.laid_out)
        g, (ins, outs, *kernel) = self.conv_groups, self.shape
        return weight.reshape(g, ins // g, outs, *kernel).transpose(1, 2)

    def lay_back(self, laid: Tensor) -> Tensor:
        return (laid.transpose(1, 2) if self.transposed else laid).reshape(self.shape)


def group_weight(
    module: nn.Module,
    pattern: str = "element",
    leaf: str = "weight",
    *,
    by_row: bool = False,
    across: bool = False,
) -> Groups:
    """Return the groups of the weight `leaf` of a module under `pattern`; see `Groups`.

    Raises:
        ValueError: the pattern is unknown.
    """
    check_pattern(pattern)
    weight = getattr(module, leaf)
    assert isinstance(weight, Tensor)
    return Groups(
        tuple(weight.shape),
        pattern,
        conv_groups=module.groups if isinstance(module, (*_CONV, *_TRANSPOSED)) else 1,
        transposed=isinstance(module, (*_TRANSPOSED, *hf_conv1d())),
        by_row=by_row,
        stacked=stacked_in(module, leaf),
        across=across,
    )


def groups_of(
    layers: Mapping[str, nn.Module], pattern: str = "element", *, allocate: object = "layer"
) -> dict[str, Groups]:
    """Return the groups of each weight of `layers`, as `maskable_layers` gives them, compared as
    the allocation compares them."""
    return {
        name: group_weight(
            layer,
            pattern,
            leaf_of(layer, name),
            by_row=allocate == "row",
            across=allocate == "global",
        )
        for name, layer in layers.items()
    }
