"""Second moments of one layer's inputs and target outputs, batch by batch.

A linear layer gives Y = W X with a vector of features in each column of X. So does a convolution,
with a patch of its padded input in each column (`torch.nn.functional.unfold`, for any dimension).
The patches of a batch are a view of it; at most `PIECE` numbers of them are copied at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.layerwise.problem import LayerProblem
from robustprune.sparsity import Groups
from robustprune.sparsity.blocks import hf_conv1d

#: largest number of entries of unfolded inputs that are copied at the same time
PIECE = 1 << 24
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_solvable(layer: nn.Module) -> bool:
    """Return whether the layer's outputs are a matrix times columns of its inputs."""
    return isinstance(layer, (nn.Linear, *_CONV, *hf_conv1d()))


def geometry(layer: nn.Module) -> tuple[object, ...]:
    """Return the properties on which the columns of X depend, besides the input."""
    if not isinstance(layer, _CONV):
        return ()
    return (
        layer.kernel_size, layer.stride, layer.padding, layer.padding_mode, layer.dilation,
        layer.groups,
    )  # fmt: skip


def of_rows(layer: nn.Module, values: Tensor) -> Tensor | None:
    """Return the value of each output row, (groups, rows), of a tensor in the shape of the output.

    It is None if samples have different values.
    """
    rows = _rows(layer, values)
    rows = rows.reshape(-1, *rows.shape[-2:])
    return rows[0] if bool((rows == rows[:1]).all()) else None


def outputs_of(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return the layer's output at `x` with this weight, in its own shape, without the bias."""
    if isinstance(layer, _CONV):
        dims = len(layer.kernel_size)
        args = (layer.stride, 0, layer.dilation, layer.groups)
        return _CONVOLVE[dims](_padded(layer, x), weight, None, *args)
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
    lead, patches = _patches(layer, x)
    if counted is not None and (rows := _which_rows(layer, x, counted)) is not None:
        patches = patches[rows]
    groups = patches.shape[lead]
    parts = [
        piece.to(dtype).square().flatten(0, lead - 1) for piece, _ in _pieces(patches, {}, lead)
    ]
    return torch.stack([part.sum(0).reshape(groups, -1) for part in parts]).sum(0)


def squares_of(
    layer: nn.Module, outputs: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, int]:
    """Return Σ y² of each output of one call over its samples, (groups, rows) float64, and the
    number of samples; `counted` as in `Moments.add`."""
    rows = _rows(layer, outputs)
    if counted is not None and (own := _which_rows(layer, outputs, counted)) is not None:
        rows = rows[own]
    rows = rows.double().flatten(0, -3)
    return rows.square().sum(0), len(rows)


class Moments:
    """The sums over calibration data of layers that share their inputs.

    Attributes:
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
        self.gram = torch.zeros(g, columns, columns, dtype=dtype, device=weight.device)
        self.total = torch.zeros(g, columns, dtype=dtype, device=weight.device)
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
        lead, patches = _patches(self.layer, x)
        wanted = {name: _rows(self.layer, t) for name, t in targets.items()}
        if counted is not None and (rows := _which_rows(self.layer, x, counted)) is not None:
            patches = patches[rows]
            wanted = {name: t[rows] for name, t in wanted.items()}
        for piece in _pieces(patches, wanted, lead):
            self._add_piece(*piece)

    def _add_piece(self, patches: Tensor, targets: Mapping[str, Tensor]) -> None:
        columns = self.gram.shape[-1]
        x = patches.reshape(-1, len(self.gram), columns).to(self.dtype).transpose(0, 1)
        self.gram += x.mT @ x
        self.total += x.sum(1)
        self.samples += x.shape[1]
        for name, target in targets.items():
            t = target.to(self.dtype).reshape(x.shape[1], len(x), -1).transpose(0, 1)
            for sums, new in (
                (self.cross, t.mT @ x),
                (self.power, t.square().sum(1)),
                (self.wanted, t.sum(1)),
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
        return LayerProblem(
            matrix,
            gram,
            cross,
            power.sum(),
            self.samples,
            groups,
            kept,
            mean=mean,
            variance=(energy - mean.square()).clamp(min=0),
            examples=self.examples,
        )

    def row_scale(self, name: str) -> Tensor:
        """Return |a| of each output, (groups, rows, 1), but at least a millionth of the largest.

        It is 1 where there is no scale.
        """
        if name not in self.scale:
            return torch.ones(1, 1, 1, dtype=self.dtype, device=self.gram.device)
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


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    pad = list(layer._reversed_padding_repeated_twice)
    if not any(pad):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, pad, mode=mode)


def _patches(layer: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Return the inputs as a view (samples …, groups, columns …), and its number of sample dims.

    A linear layer has one dimension of samples; a convolution has those of examples and positions.
    """
    if not isinstance(layer, _CONV):
        return 1, x.reshape(-1, 1, x.shape[-1])
    dims = len(layer.kernel_size)
    x = _padded(layer, x if x.ndim == dims + 2 else x.unsqueeze(0))
    for d in range(dims):
        kernel, stride, apart = layer.kernel_size[d], layer.stride[d], layer.dilation[d]
        x = x.unfold(2 + d, (kernel - 1) * apart + 1, stride)[..., ::apart]
    x = torch.unflatten(x, 1, (layer.groups, -1))  # (N, groups, inputs, *positions, *kernel)
    return 1 + dims, x.permute(0, *range(3, 3 + dims), 1, 2, *range(3 + dims, 3 + 2 * dims))


def _rows(layer: nn.Module, t: Tensor) -> Tensor:
    """Return outputs of the layer as (samples …, groups, rows), with samples as in `_patches`."""
    if not isinstance(layer, _CONV):
        return t.reshape(-1, 1, t.shape[-1])
    dims = len(layer.kernel_size)
    t = torch.unflatten(t if t.ndim == dims + 2 else t.unsqueeze(0), 1, (layer.groups, -1))
    return t.permute(0, *range(3, 3 + dims), 1, 2)


def _which_rows(layer: nn.Module, x: Tensor, counted: Tensor) -> Tensor | None:
    """Return which rows of a linear layer's input are tokens that count; None if not tokens."""
    if isinstance(layer, _CONV):
        return None
    tokens = x.shape[:-1] == counted.shape or x.shape[:-1] == (counted.numel(),)
    return counted.flatten().to(x.device) if tokens else None


def _pieces(
    patches: Tensor, targets: dict[str, Tensor], lead: int, dim: int = 0
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the same samples of patches and targets, in pieces that fit into memory."""
    if patches.numel() <= PIECE or dim == lead:
        yield patches, targets
        return
    step = max(1, patches.shape[dim] * PIECE // patches.numel())
    for start in range(0, patches.shape[dim], step):
        size = min(step, patches.shape[dim] - start)
        part = {name: t.narrow(dim, start, size) for name, t in targets.items()}
        yield from _pieces(patches.narrow(dim, start, size), part, lead, dim + 1)
