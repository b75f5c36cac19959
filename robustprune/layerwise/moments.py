"""Second moments of one layer's inputs and target outputs, batch by batch.

A linear layer gives Y = W X with a vector of features in each column of X. So does a convolution,
with a patch of its padded input in each column, see `robustprune.layerwise.columns`. Products are
formed in the dtype of the caller's choice, piece by piece, and added up in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.layerwise.columns import (
    CONV,
    Columns,
    columns_of,
    convolve,
    padded,
    rows_of,
    which_rows,
)
from robustprune.layerwise.problem import LayerProblem
from robustprune.sparsity import Groups
from robustprune.sparsity.blocks import hf_conv1d

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_solvable(layer: nn.Module) -> bool:
    """Return whether the layer's outputs are a matrix times columns of its inputs."""
    return isinstance(layer, (nn.Linear, *CONV, *hf_conv1d()))


def geometry(layer: nn.Module) -> tuple[object, ...]:
    """Return the properties on which the columns of X depend, besides the input."""
    if not isinstance(layer, CONV):
        return ()
    return (
        layer.kernel_size, layer.stride, layer.padding, layer.padding_mode, layer.dilation,
        layer.groups,
    )  # fmt: skip


def of_rows(layer: nn.Module, values: Tensor) -> Tensor | None:
    """Return the value of each output row, (groups, rows), of a tensor in the shape of the output.

    It is None if samples have different values.
    """
    rows = rows_of(layer, values)
    rows = rows.reshape(-1, *rows.shape[-2:])
    return rows[0] if bool((rows == rows[:1]).all()) else None


def outputs_of(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return the layer's output at `x` with this weight, in its own shape, without the bias."""
    if isinstance(layer, CONV):
        if weight.dtype == torch.float64:
            return convolve(layer, weight, x)
        args = (layer.stride, 0, layer.dilation, layer.groups)
        convolution = _CONVOLVE[len(layer.kernel_size)]
        return convolution(padded(layer, x.to(weight.dtype)), weight, None, *args)
    if isinstance(layer, hf_conv1d()):
        return x @ weight
    return F.linear(x, weight)


def as_matrices(groups: Groups, weight: Tensor) -> Tensor:
    """Return a weight of the layer's own shape as (groups, rows, columns)."""
    g, rows, *_ = groups.laid_out
    return groups.lay_out(weight).reshape(g, rows, -1)


def as_weight(groups: Groups, matrices: Tensor) -> Tensor:
    """Return (groups, rows, columns) as a weight of the layer's own shape."""
    return groups.lay_back(matrices.reshape(groups.laid_out)).contiguous()


def energy_of(
    layer: nn.Module, x: Tensor, *, dtype: torch.dtype, counted: Tensor | None = None
) -> Tensor:
    """Return ‖x_j‖² of each entry j of the columns in one call, (groups, columns).

    The arguments are those of `Moments.add`.
    """
    parts = [part.energy() for part, _ in columns_of(layer, x, dtype, counted=counted)]
    return torch.stack(parts).sum(0)


def squares_of(
    layer: nn.Module, outputs: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, int]:
    """Return Σ y² of each output of one call over its samples, (groups, rows) float64, and the
    number of samples; `counted` as in `Moments.add`."""
    rows = rows_of(layer, outputs)
    if counted is not None and (own := which_rows(layer, outputs, counted)) is not None:
        rows = rows[own]
    rows = rows.double().flatten(0, -3)
    return rows.square().sum(0), len(rows)


class Moments:
    """The sums over calibration data of layers that share their inputs.

    Attributes:
        dtype: the dtype of the products and of the problem; all sums are in float64.
        gram: X̂ X̂ᵀ, (groups, columns, columns).
        total: Σ x̂, (groups, columns).
        samples: number of columns of X̂ so far, in each group.
        examples: number of examples from which they come.
        cross: layer -> T X̂ᵀ, (groups, rows, columns); only for layers with a target.
        power: layer -> ‖T‖²_F of each output, (groups, rows).
        wanted: layer -> Σ t, (groups, rows).
        scale: layer -> a, the factor of its outputs before they are added to a stream, (groups,
            rows); only for layers with such a factor.
    """

    def __init__(self, layer: nn.Module, groups: Groups, *, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype
        g, _, *ins = groups.laid_out
        columns = 1
        for size in ins:
            columns *= size
        weight = cast(Tensor, layer.weight)
        kind: Any = {"dtype": torch.float64, "device": weight.device}
        self.gram = torch.zeros(g, columns, columns, **kind)
        self.total = torch.zeros(g, columns, **kind)
        self.samples = 0
        self.examples = 0
        self.cross: dict[str, Tensor] = {}
        self.power: dict[str, Tensor] = {}
        self.wanted: dict[str, Tensor] = {}
        self.scale: dict[str, Tensor] = {}

    def add(self, x: Tensor, targets: Mapping[str, Tensor], counted: Tensor | None = None) -> None:
        """Add one call of the layers.

        Args:
            x: the input of the layers.
            targets: layer -> T, in the shape of the layer's output, without its bias.
            counted: (N, T) boolean, which tokens count, for inputs with these leading dimensions;
                None for all.
        """
        self.examples += len(x)
        for columns, wanted in columns_of(self.layer, x, self.dtype, targets, counted):
            self._add(columns, wanted)

    def _add(self, columns: Columns, targets: Mapping[str, Tensor]) -> None:
        self.gram += columns.gram()
        self.total += columns.total()
        self.samples += columns.samples
        for name, target in targets.items():
            for sums, new in (
                (self.cross, columns.cross(target).double()),
                (self.power, target.square().sum(-1).double()),
                (self.wanted, target.sum(-1).double()),
            ):
                sums[name] = sums[name] + new if name in sums else new

    def problem(
        self,
        name: str,
        groups: Groups,
        weight: Tensor,
        kept: int,
        *,
        centred: bool = False,
        scaled: bool = True,
    ) -> LayerProblem:
        """Return the least squares of one layer. Without a target of its own, T = W X̂.

        Args:
            weight: W, of the layer's own shape.
            centred: whether moments are about the mean, for a layer whose bias is refitted; inputs
                that are constant are dead then.
            scaled: whether the squares of each output are weighted as in its stream: row i is the
                problem of |a_i| w_i, whose solution must be divided by `row_scale`.
        """
        matrix = as_matrices(groups, weight.to(self.gram))
        gram, cross, power = self.gram, self.cross.get(name), self.power.get(name)
        if cross is None or power is None:
            cross = matrix @ gram
            power = (cross * matrix).sum(-1)
        if centred and self.samples:
            mean = self.total / self.samples
            shift = self._mean_target(name, matrix)
            gram = gram - self.samples * mean.unsqueeze(-1) * mean.unsqueeze(-2)
            cross = cross - self.samples * shift.unsqueeze(-1) * mean.unsqueeze(-2)
            power = power - self.samples * shift.square()
            # what is left of a constant input is rounding, of either sign
            rounding = 10 * self.samples**0.5 * torch.finfo(self.dtype).eps
            before, left = (g.diagonal(dim1=-2, dim2=-1) for g in (self.gram, gram))
            varies = (left > rounding * before).to(gram)
            gram = gram * varies.unsqueeze(-1) * varies.unsqueeze(-2)
            cross = cross * varies.unsqueeze(-2)
        if scaled:
            a = self.row_scale(name)
            matrix, cross, power = matrix * a, cross * a, power * a.squeeze(-1).square()
        mean = self.total / max(self.samples, 1)
        energy = self.gram.diagonal(dim1=-2, dim2=-1) / max(self.samples, 1)
        variance = (energy - mean.square()).clamp(min=0)
        parts = (matrix, gram, cross, power.sum(), mean, variance)
        matrix, gram, cross, power, mean, variance = (part.to(self.dtype) for part in parts)
        return LayerProblem(
            matrix,
            gram,
            cross,
            power,
            self.samples,
            groups,
            kept,
            mean=mean,
            variance=variance,
            examples=self.examples,
        )

    def row_scale(self, name: str) -> Tensor:
        """Return |a| of each output, (groups, rows, 1), but at least a millionth of the largest.

        It is 1 where there is no scale.
        """
        if name not in self.scale:
            return torch.ones(1, 1, 1, dtype=torch.float64, device=self.gram.device)
        a = self.scale[name].abs().unsqueeze(-1)
        least = 1e-6 * float(a.max())
        return a.clamp(min=least) if least > 0 else torch.ones_like(a)

    def bias_step(self, name: str, dense: Tensor, found: Tensor) -> Tensor:
        """Return the step from the present bias to the best one, mean(T) − Ŵ mean(X̂).

        Args:
            dense, found: W and Ŵ as (groups, rows, columns). The step has shape (groups · rows,).
        """
        mean = (self.total / max(self.samples, 1)).unsqueeze(-1)
        return (self._mean_target(name, dense) - (found.to(mean) @ mean).squeeze(-1)).flatten()

    def _mean_target(self, name: str, matrix: Tensor) -> Tensor:
        if name in self.wanted:
            return self.wanted[name] / max(self.samples, 1)
        mean = self.total / max(self.samples, 1)
        return (matrix @ mean.unsqueeze(-1)).squeeze(-1)
