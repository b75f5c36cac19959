"""Group the weights of a transformer that are kept or removed together: weights, heads, neurons,
layers.

A head of self-attention consists of its rows of Q, K and V and its columns of the output
projection. A neuron of the feed-forward part consists of its row of the first matrix (and of the
gate, where there is one) and its column of the last. A layer consists of all of these. Where query
heads share a key and a value head (grouped-query attention), all of them are one group, so that
removing it also makes the cache of keys and values smaller. Biases, norms and embeddings are never
masked: a head without its columns of the output projection adds nothing, whatever its biases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity.apply import maskable_layers
from robustprune.sparsity.blocks import Block, out_dim, transformer_blocks
from robustprune.sparsity.density import check_density, count_kept
from robustprune.sparsity.largest import top_k
from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.matrices import weights_of
from robustprune.sparsity.ranking import check_scores, count_best

Granularity = Literal["weight", "head", "neuron", "layer"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)


class Spread(Protocol):
    """What spreads one value for each group over a weight: a `Span`, or the `Groups` of a
    pattern."""

    def expand(self, value: Tensor, /) -> Tensor:
        """Return the values in the shape of the weight, or in one that broadcasts against it."""
        ...


@dataclass(frozen=True)
class Span:
    """How the values of groups, one for each group, spread over a weight.

    Attributes:
        shape: the shape of the weight.
        dim: the dimension that counts groups, 0 or 1; None where each weight is a group of its
            own, or one group is the whole matrix.
        repeat: the number of consecutive rows or columns of a group.
        parts: how many times the sequence of groups occurs: 3 where one matrix holds query, key and
            value.
    """

    shape: tuple[int, ...]
    dim: int | None = None
    repeat: int = 1
    parts: int = 1

    def expand(self, value: Tensor) -> Tensor:
        """Return the values of the groups in a shape that broadcasts against the weight."""
        if self.dim is None:
            return value
        line = value.repeat_interleave(self.repeat) if self.repeat > 1 else value
        line = line.repeat(self.parts) if self.parts > 1 else line
        return line.unsqueeze(1) if self.dim == 0 else line.unsqueeze(0)

    def total(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the sum of the weight's entries in each group, with the shape of the groups. This
        is the transpose of `expand`."""
        if self.dim is None:
            return weight if shape == self.shape else weight.sum().view(shape)
        return weight.sum(1 - self.dim).view(self.parts, *shape, self.repeat).sum(-1).sum(0)


@dataclass(frozen=True)
class GateGroup:
    """The groups of one kind in one place, such as the heads of one layer.

    Attributes:
        shape: the shape of a tensor with one entry for each group.
        spans: for each parameter name, how the groups spread over that weight.
    """

    shape: tuple[int, ...]
    spans: Mapping[str, Span]

    @property
    def number(self) -> int:
        return math.prod(self.shape)

    @property
    def weights(self) -> int:
        """The number of weights that all of its groups cover together."""
        return sum(math.prod(span.shape) for span in self.spans.values())


def gate_groups(
    model: nn.Module, granularity: Granularity, *, dense: Iterable[str] = ()
) -> dict[str, GateGroup]:
    """Return the groups of a model, by a name for each place.

    Args:
        granularity: "weight" for all maskable layers except those in `dense`, or "head", "neuron"
            or "layer" for the layers of a transformer.

    Raises:
        ValueError: the granularity is unknown, or the model does not have such groups.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"unknown granularity {granularity!r}; choose one of {', '.join(GRANULARITIES)}"
        )
    if granularity == "weight":
        weights = weights_of(maskable_layers(model, dense=dense))
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        return {name: GateGroup(shape, {name: Span(shape)}) for name, shape in shapes.items()}
    return {
        f"{granularity}.{index}": _of_block(model, block, granularity)
        for index, block in enumerate(transformer_blocks(model))
    }


def _of_block(model: nn.Module, block: Block, granularity: Granularity) -> GateGroup:
    def span(name: str, *, side: int | None, repeat: int = 1, parts: int = 1) -> tuple[str, Span]:
        """Group the outputs (side 0) or the inputs (side 1), for either layout of the weight."""
        weight, out = model.get_parameter(f"{name}.weight"), out_dim(model.get_submodule(name))
        dim = None if side is None else side ^ out
        return f"{name}.weight", Span(tuple(weight.shape), dim, repeat, parts)

    if granularity == "head":
        wide = block.size * block.shared
        if block.query == block.key:
            into = [span(block.query, side=0, repeat=block.size, parts=3)]
        else:
            into = [span(block.query, side=0, repeat=wide)]
            into += [span(name, side=0, repeat=block.size) for name in (block.key, block.value)]
        spans = dict([*into, span(block.output, side=1, repeat=wide)])
        return GateGroup((block.heads // block.shared,), spans)
    if granularity == "neuron":
        inner, (name, down) = [span(n, side=0) for n in block.inner], span(block.down, side=1)
        assert down.dim is not None
        return GateGroup((down.shape[down.dim],), {**dict(inner), name: down})
    names = (*block.projections, block.output, *block.inner, block.down)
    return GateGroup((1,), dict(span(name, side=None) for name in names))


def magnitudes(model: nn.Module, group: GateGroup) -> Tensor:
    """Return the root mean square of the weights of each group, float32."""
    parts = []
    for name, span in group.spans.items():
        weight = cast(Tensor, model.get_parameter(name)).detach().float()
        parts.append(span.total(weight.square(), group.shape))
    return (torch.stack(parts).sum(0) * (group.number / group.weights)).sqrt()


def draw_masks(
    scores: Mapping[str, Tensor],
    groups: Mapping[str, GateGroup],
    density: float,
    *,
    each: bool = False,
) -> MaskSet:
    """Keep the ⌈density · n⌉ groups with the largest scores of all n; of equal ones the first.

    A place may lose all its groups, because the residual connections lead around it. With `each`,
    every place keeps ⌈density · its groups⌉.

    Raises:
        ValueError: `density` is outside (0, 1], or a score is NaN.
    """
    check_density(density)
    check_scores({name: scores[name] for name in groups})
    values = {name: scores[name].detach().flatten() for name in groups}
    if each:
        counts = {name: count_kept(density, value.numel()) for name, value in values.items()}
    else:
        total = sum(value.numel() for value in values.values())
        counts = count_best(values, count_kept(density, total))
    masks = {}
    for place, group in groups.items():
        part = top_k(values[place], counts[place])
        for name, span in group.spans.items():
            mask = span.expand(part.view(group.shape))
            masks[name] = mask.expand(span.shape).contiguous()
    return MaskSet(masks)
