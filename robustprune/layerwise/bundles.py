"""Where the groups of a pattern are in a layer's matrices, for solvers that add or remove groups.

Under every pattern a group consists of whole blocks: the rows of a layer are divided into bundles,
its columns into blocks, and a group is one bundle × one block. For single weights these are one row
and one column; for a channel, all rows and the columns of one input; for a tile A×B, A rows and B
columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.layerwise.problem import LayerProblem


@dataclass(frozen=True)
class Bundles:
    """The groups of a layer problem, as bundles of rows × blocks of columns.

    Attributes:
        rows: (bundles, p), the rows of each bundle in (groups · rows), padded with −1.
        home: (bundles,), the matrix (of `groups`) to which a bundle belongs.
        blocks: (blocks, s), the columns of each block, padded with −1.
        number: (bundles, blocks), the pattern's group that bundle and block form.
        family: (blocks,), the family of each block, of which only some can be kept together, as in
            N:M.
        most: (families,), the largest number of blocks of each family that can be kept.
        each: number of blocks that every bundle keeps; None if all bundles are compared.
    """

    rows: Tensor
    home: Tensor
    blocks: Tensor
    number: Tensor
    family: Tensor
    most: Tensor
    each: int | None

    def matrices(self, flat: Tensor) -> Tensor:
        """Return the rows of (groups · rows, columns) by bundle, (bundles, p, columns)."""
        return torch.cat([flat, torch.zeros_like(flat[:1])])[self.rows]

    def part(self, own: slice) -> Bundles:
        """Return some of the bundles."""
        return replace(self, rows=self.rows[own], home=self.home[own], number=self.number[own])

    def times(self, factor: float) -> Bundles:
        """Return the same with `factor` times as many blocks to keep, if there are as many."""
        most = (self.most * factor).ceil().long()
        most = torch.minimum(most, torch.bincount(self.family, minlength=len(most)))
        return replace(self, most=most, each=None if self.each is None else int(most.sum()))


def bundles_of(problem: LayerProblem) -> Bundles:
    """Return the bundles and blocks of a problem's pattern.

    Raises:
        ValueError: a tile extends over several matrices of a grouped convolution.
    """
    g, (groups, rows, _) = problem.groups, problem.weight.shape
    device = problem.weight.device
    ids = problem.spread(torch.arange(g.number, device=device))
    _, bundle, sizes = torch.unique(ids[..., 0].flatten(), return_inverse=True, return_counts=True)
    members = _fill(bundle.argsort(stable=True), sizes)
    home = members // rows
    if bool((home != home[:, :1])[members >= 0].any()):
        raise ValueError(
            f"tiles of {g.pattern} span the groups of a convolution in {groups} groups with {rows} "
            "outputs each, which this solver can't add or remove; take another pattern or solver"
        )
    _, block, widths = torch.unique(ids[0, 0], return_inverse=True, return_counts=True)
    blocks = _fill(block.argsort(stable=True), widths)
    number = ids.flatten(0, 1)[members[:, 0]][:, blocks[:, 0]]
    each = problem.kept // (groups * rows) if g.by_row else None
    if g.fixed is not None:
        family, most = families(problem)
        each = int(most.sum())
    else:
        family = torch.zeros(len(blocks), dtype=torch.long)
        most = torch.tensor([len(blocks) if each is None else each])
    return Bundles(members, home[:, 0], blocks, number, family.to(device), most.to(device), each)


def _fill(members: Tensor, sizes: Tensor) -> Tensor:
    """Return runs of `members`, of these sizes, as rows of one table, padded with −1."""
    runs = torch.split(members, sizes.tolist())
    return torch.stack([F.pad(run, (0, int(sizes.max()) - len(run)), value=-1) for run in runs])


def families(problem: LayerProblem) -> tuple[Tensor, Tensor]:
    """For N:M, return each column's block of M inputs, and how many weights to keep in each block.

    The first has shape (columns,); the second counts the weights that a row keeps in each block.
    A kernel has such blocks at each of its positions.
    """
    g = problem.groups
    n, m = map(int, g.pattern.split(":"))
    ins, taps = g.laid_out[2], problem.weight.shape[-1] // g.laid_out[2]
    place = torch.arange(ins).unsqueeze(1) // m * taps + torch.arange(taps)
    size = torch.bincount(place.flatten())
    return place.flatten(), -(-n * size // m)
