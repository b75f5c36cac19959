"""What lives or dies together in a transformer: weights, heads, neurons, layers.

A head of self-attention is its rows of Q, K and V and its columns of the output projection; a
neuron of the feed-forward part its row of the first and its column of the second matrix; a layer
all of these. Biases, norms and embeddings are never masked: without its columns of the output
projection a head, whatever its biases, adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity.apply import maskable_layers
from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.patterns import check_density, check_scores, count_kept, top_k

Granularity = Literal["weight", "head", "neuron", "layer"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)


@dataclass(frozen=True)
class Span:
    """How one value a group spreads over a weight.

    Attributes:
        shape: of the weight.
        dim: the dimension that counts groups, 0 or 1; None where each weight is a group of its
            own, or one group is the whole matrix.
        repeat: rows or columns of a group.
    """

    shape: tuple[int, ...]
    dim: int | None = None
    repeat: int = 1

    def expand(self, value: Tensor) -> Tensor:
        """Values of the groups, laid out so that they broadcast against the weight."""
        if self.dim is None:
            return value
        line = value.repeat_interleave(self.repeat) if self.repeat > 1 else value
        return line.unsqueeze(1) if self.dim == 0 else line.unsqueeze(0)

    def total(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Sums of the weight's entries over each of the groups, in their shape: what `expand`
        spreads, gathered."""
        if self.dim is None:
            return weight if shape == self.shape else weight.sum().view(shape)
        return weight.sum(1 - self.dim).view(*shape, self.repeat).sum(-1)


@dataclass(frozen=True)
class GateGroup:
    """Groups of one kind in one place, such as the heads of one layer.

    Attributes:
        shape: one entry a group.
        spans: by parameter name, the weights they cover.
    """

    shape: tuple[int, ...]
    spans: Mapping[str, Span]

    @property
    def number(self) -> int:
        return math.prod(self.shape)

    @property
    def weights(self) -> int:
        """How many weights all of its groups cover together."""
        return sum(math.prod(span.shape) for span in self.spans.values())


@dataclass(frozen=True)
class Block:
    """One layer of a transformer, by the names of its modules.

    Attributes:
        attention: the module that splits into `heads` heads.
        query, key, value, output: its four projections.
        up, down: the feed-forward part.
    """

    attention: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    heads: int = field(kw_only=True)

    @property
    def projections(self) -> tuple[str, str, str]:
        return self.query, self.key, self.value


#: attention, query, key, value, output, up, down, below a layer of each family
_FAMILIES = (
    (  # BERT, RoBERTa, ELECTRA and their kin
        "attention.self",
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    (  # DistilBERT
        "attention",
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ),
)


def transformer_blocks(model: nn.Module) -> list[Block]:
    """The layers of a BERT-like or DistilBERT-like model, in order.

    Raises:
        ValueError: there are none.
    """
    modules = dict(model.named_modules())
    blocks = []
    for name in modules:
        prefix = f"{name}." if name else ""
        for family in _FAMILIES:
            attention, query, key, value, output, up, down = (prefix + path for path in family)
            if {attention, query, key, value, output, up, down} <= modules.keys():
                split = modules[attention]
                heads = getattr(split, "num_attention_heads", None) or getattr(
                    split, "n_heads", None
                )
                assert isinstance(heads, int)
                blocks.append(Block(attention, query, key, value, output, up, down, heads=heads))
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no layers like BERT's or DistilBERT's, so its heads and "
            "neurons are not known; use granularity 'weight', which fits every model"
        )
    return blocks


def gate_groups(
    model: nn.Module, granularity: Granularity, *, dense: Iterable[str] = ()
) -> dict[str, GateGroup]:
    """The groups of a model, by a name for each place.

    Args:
        granularity: "weight", over all maskable layers but those in `dense`; "head", "neuron" or
            "layer", over the transformer's layers.

    Raises:
        ValueError: an unknown granularity, or a model that does not have such groups.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"unknown granularity {granularity!r}; choose one of {', '.join(GRANULARITIES)}"
        )
    if granularity == "weight":
        found = {}
        for name, layer in maskable_layers(model, dense=dense).items():
            shape = tuple(cast(Tensor, layer.weight).shape)
            found[name] = GateGroup(shape, {name: Span(shape)})
        return found
    return {
        f"{granularity}.{index}": _of_block(model, block, granularity)
        for index, block in enumerate(transformer_blocks(model))
    }


def _of_block(model: nn.Module, block: Block, granularity: Granularity) -> GateGroup:
    def span(name: str, dim: int | None, repeat: int = 1) -> tuple[str, Span]:
        weight = model.get_parameter(f"{name}.weight")
        return f"{name}.weight", Span(tuple(weight.shape), dim, repeat)

    if granularity == "head":
        size = model.get_parameter(f"{block.query}.weight").shape[0] // block.heads
        rows = [span(name, 0, size) for name in block.projections]
        return GateGroup((block.heads,), dict([*rows, span(block.output, 1, size)]))
    if granularity == "neuron":
        up, down = span(block.up, 0), span(block.down, 1)
        return GateGroup((up[1].shape[0],), dict([up, down]))
    names = (*block.projections, block.output, block.up, block.down)
    return GateGroup((1,), dict(span(name, None) for name in names))


def magnitudes(model: nn.Module, group: GateGroup) -> Tensor:
    """The root mean square weight of each group, float32."""
    parts = []
    for name, span in group.spans.items():
        weight = cast(Tensor, model.get_parameter(name)).detach().float()
        parts.append(span.total(weight.square(), group.shape))
    return (torch.stack(parts).sum(0) * (group.number / group.weights)).sqrt()


def draw_masks(
    scores: Mapping[str, Tensor], groups: Mapping[str, GateGroup], density: float
) -> MaskSet:
    """Keep the ⌈density · n⌉ of all n groups with the largest scores, wherever they are; of equal
    ones the first.

    A place may lose all its groups: the residual connections carry on around it.

    Raises:
        ValueError: density outside (0, 1], or scores that are NaN.
    """
    check_density(density)
    check_scores({name: scores[name] for name in groups})
    values = [scores[name].detach().flatten() for name in groups]
    total = sum(value.numel() for value in values)
    kept = top_k(torch.cat(values), count_kept(density, total))
    masks = {}
    parts = torch.split(kept, [value.numel() for value in values])
    for group, part in zip(groups.values(), parts, strict=True):
        for name, span in group.spans.items():
            mask = span.expand(part.view(group.shape))
            masks[name] = mask.expand(span.shape).contiguous()
    return MaskSet(masks)
