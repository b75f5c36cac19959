"""Self-attention as two layers that can lose heads: the heads, and the projection behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CALL = (
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
)
_MASKS = ("key_padding_mask", "attn_mask", "is_causal")


class AttentionHeads(nn.Module):
    """Compute the concatenated heads softmax(q_h k_hᵀ / √d) v_h of self-attention.

    This is `nn.MultiheadAttention` without its output projection, for any number of heads: the
    packed matrix has the rows of all queries, then of all keys, then of all values.

    Args:
        in_features: the width E of the input.
        heads, head_size: the number H of heads and the width d of each.
        bias: whether queries, keys and values have a bias.
        batch_first: whether the input is (N, L, E); otherwise it is (L, N, E).

    Shapes: (N, L, E) -> (N, L, H·d), (L, N, E) -> (L, N, H·d), or (L, E) -> (L, H·d).
    """

    in_proj_bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        heads: int,
        head_size: int,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.heads = heads
        self.head_size = head_size
        self.batch_first = batch_first
        rows = 3 * heads * head_size
        self.in_proj_weight = nn.Parameter(torch.zeros(rows, in_features))
        self.in_proj_bias = nn.Parameter(torch.zeros(rows)) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        swapped = input.ndim == 3 and not self.batch_first
        packed = F.linear(input, self.in_proj_weight, self.in_proj_bias)
        if swapped:
            packed = packed.transpose(0, 1)
        query, key, value = (
            part.reshape(*part.shape[:-1], self.heads, self.head_size).transpose(-3, -2)
            for part in packed.chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        joined = mixed.transpose(-3, -2).flatten(-2)
        return joined.transpose(0, 1) if swapped else joined

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, heads={self.heads}, head_size={self.head_size}, "
            f"bias={self.in_proj_bias is not None}, batch_first={self.batch_first}"
        )


def split(path: str, attention: nn.MultiheadAttention) -> tuple[AttentionHeads, nn.Linear]:
    """Return the heads and the output projection of `attention`, with its own tensors.

    Raises:
        ValueError: keys or values have another width than queries, or there are keys that come from
            no input (`add_bias_kv`, `add_zero_attn`).
    """
    options = {
        "kdim or vdim": not attention._qkv_same_embed_dim,
        "add_bias_kv": attention.bias_k is not None,
        "add_zero_attn": attention.add_zero_attn,
    }
    if found := [name for name, used in options.items() if used]:
        raise ValueError(
            f"layer {path!r} is a MultiheadAttention with {found[0]}, which can't be deployed"
        )
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    size, out = attention.head_dim, attention.out_proj
    with torch.device("meta"):
        heads = AttentionHeads(
            weight.shape[1], attention.num_heads, size, bias is not None, attention.batch_first
        )
        projection = nn.Linear(out.in_features, out.out_features, out.bias is not None)
    heads.in_proj_weight, heads.in_proj_bias = weight, bias
    projection.weight, projection.bias = out.weight, out.bias
    return heads, projection


def attended(path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the one input of a call of `nn.MultiheadAttention`.

    Raises:
        ValueError: query, key and value differ, or there is a mask.
    """
    given = {**dict(zip(_CALL, args, strict=False)), **kwargs}
    query, key, value = (given.get(name) for name in _CALL[:3])
    if query is None or not query == key == value:
        raise ValueError(
            f"layer {path!r} attends from one tensor to another; only self-attention, in which "
            "query, key and value are the same tensor, can be deployed"
        )
    for name in _MASKS:
        if given.get(name) not in (None, False):
            raise ValueError(
                f"layer {path!r} is called with {name}={given[name]!r}; attention with a mask "
                "can't be deployed"
            )
    return query
