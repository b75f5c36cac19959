"""Heads and neurons of transformers as groups of columns, which are removed and reconstructed.

A head ends in columns of the output projection, a neuron in a column of the last feed-forward
matrix. To remove it is to remove these columns; the columns that stay make up for them by the
least squares of that layer. Its rows in the matrices before, which have no effect any more, are
removed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity import transformer_blocks
from robustprune.sparsity.blocks import out_dim
from robustprune.sparsity.gates import gate_groups

#: what is kept or removed together
Structure = Literal["weight", "head", "neuron"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)


def last_columns(
    network: nn.Module, layers: Mapping[str, nn.Module], structure: Structure
) -> dict[str, str]:
    """Return the layers in which heads or neurons end, each with the pattern of their columns.

    A group of query heads that share a key and a value head is one head.

    Raises:
        ValueError: the network is no transformer that is known.
    """
    found: dict[str, str] = {}
    for block in transformer_blocks(network):
        name = f"{block.output if structure == 'head' else block.down}.weight"
        if name in layers:
            rows = cast(Tensor, layers[name].weight).shape[out_dim(layers[name])]
            wide = block.size * block.shared if structure == "head" else 1
            found[name] = f"{rows}x{wide}"
    return found


@torch.no_grad()
def with_rows(
    network: nn.Module, masks: Mapping[str, Tensor], structure: Structure
) -> dict[str, Tensor]:
    """Zero the rows of the heads or neurons whose columns are removed; return all masks."""
    found: dict[str, Tensor] = {}
    places = gate_groups(network, "head" if structure == "head" else "neuron")
    for place in places.values():
        *rows, last = place.spans
        if last not in masks:
            continue
        columns = place.spans[last]
        kept = columns.total(masks[last].float(), place.shape) > 0
        for name in rows:
            span = place.spans[name]
            found[name] = span.expand(kept).expand(span.shape).contiguous()
            weight = network.get_parameter(name)
            weight.copy_(torch.where(found[name], weight, 0.0))
        found[last] = masks[last]
    return found
