"""The layers of ``nn.TransformerEncoder`` as operations of a ``Program``.

Their Python code chooses between kernels by what it finds in the tensors, so it can't be traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from robustprune.bounds.program import Program, Value
from robustprune.bounds.tensors import Unsupported, add

#: bounds a sub-layer, or an activation function: (program, layer, *arguments) -> values
Apply = Callable[..., Any]


def encoder_layer(
    p: Program,
    apply: Apply,
    m: nn.TransformerEncoderLayer,
    src: Value,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Value:
    """Return what ``nn.TransformerEncoderLayer`` returns in eval mode."""

    def attended(z: Value) -> Value:
        options: dict[str, Any] = {
            "attn_mask": src_mask,
            "key_padding_mask": src_key_padding_mask,
            "need_weights": False,
            "is_causal": is_causal,
        }
        found: Value = apply(p, m.self_attn, z, z, z, **options)[0]
        return found

    def fed(z: Value) -> Value:
        found: Value = apply(p, m.linear2, apply(p, m.activation, apply(p, m.linear1, z)))
        return found

    if m.norm_first:
        z = add(p, src, attended(apply(p, m.norm1, src)))
        return add(p, z, fed(apply(p, m.norm2, z)))
    z = apply(p, m.norm1, add(p, src, attended(src)))
    found: Value = apply(p, m.norm2, add(p, z, fed(z)))
    return found


def encoder(
    p: Program,
    apply: Apply,
    m: nn.TransformerEncoder,
    src: Value,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Value:
    """Return what ``nn.TransformerEncoder`` returns in eval mode."""
    if src_key_padding_mask is not None:
        raise Unsupported("a padding mask; leave it out")
    z = src
    for layer in m.layers:
        z = apply(p, layer, z, src_mask=mask)
    return z if m.norm is None else apply(p, m.norm, z)
