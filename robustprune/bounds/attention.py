"""Softmax and attention as operations of a ``Program``.

softmax(z)_i = 1 / Σ_j exp(z_j − z_i): differences, an exponential, a sum and a reciprocal. So
nothing but curves of one number has to be enclosed, and no product of exp and 1/sum, which in
Shi et al. 2020, arXiv 2002.06622, is the looser part.

A network computes e_j = exp(z_j − max z), then e_i / Σ e_j. In its own precision, the difference
has an error of u · range(z), and exp has a relative one. Both are put into the differences
z_j − z_i here, with twice their size, because they meet in e_j / e_i. Errors of the sum and of the
division are those of the result. This includes sums with weights that are rescaled from block to
block, as in "flash" attention, with one rounding more for each block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustprune.bounds import formulas
from robustprune.bounds.affine import Affine
from robustprune.bounds.algebra import Interval
from robustprune.bounds.layers import linear, product_of_matrices
from robustprune.bounds.precision import EXACT, ULPS, Precision
from robustprune.bounds.program import Program, Value
from robustprune.bounds.shapes import reshaped_to, transpose
from robustprune.bounds.tensors import Unsupported, constant_like, mean, scaled


@dataclass(frozen=True)
class Differences(Affine):
    """The map of (…, K) to all differences z_j − z_i, (…, K, K), with j last."""

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor:
        (box,) = inputs
        width = box.hi.amax(-1, keepdim=True) - box.lo.amin(-1, keepdim=True)
        error = precision.of_result(width, 6) + precision.of_result(
            torch.ones_like(width), 4 * ULPS
        )
        error = error.where(box.size.amax(-1, keepdim=True) < precision.largest / 4, torch.inf)
        return error.unsqueeze(-1).expand_as(out.lo) * _off_diagonal(box.lo)


def _off_diagonal(like: Tensor) -> Tensor:
    return 1 - torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _differences() -> Differences:
    return Differences(
        lambda z: z.unsqueeze(-2) - z.unsqueeze(-1),
        lambda z: (z.unsqueeze(-2) + z.unsqueeze(-1)) * _off_diagonal(z),
        lambda A: A.sum(-2) - A.sum(-1),
    )


def _total(count: int) -> Affine:
    """Return the sum over the last dimension; its errors are those of the result."""

    def forward(z: Tensor) -> Tensor:
        return z.sum(-1)

    return Affine(
        forward,
        forward,
        lambda A: A.unsqueeze(-1).expand(*A.shape, count),
        arithmetic=EXACT,
    )


def softmax(p: Program, input: Value, dim: int | None = None, dtype: Any = None) -> Value:
    """Return the softmax along a dimension."""
    if dim is None or dim % input.sample.dim() == 0:
        raise Unsupported(f"softmax along dim={dim}; name a dimension behind the batch")
    if dtype is not None:
        raise Unsupported("softmax in another dtype; leave dtype out")
    return transpose(p, weights(p, transpose(p, input, dim, -1)), dim, -1)


def weights(p: Program, input: Value, allowed: Tensor | None = None) -> Value:
    """Return the softmax along the last dimension, over the entries that are allowed.

    Args:
        allowed: (…, K), bool, with at least one entry in a row; None for all.
    """
    count = input.sample.shape[-1]
    exps = p.add(formulas.exponential(rounded=0), p.add(_differences(), input))
    if allowed is not None:
        among = allowed.unsqueeze(-2).expand(exps.sample.shape[1:])
        exps = scaled(p, exps, among.to(p.dtype), None, roundings=0)
    total = p.add(_total(count), exps)
    if allowed is None:
        return p.add(formulas.reciprocal(1.0, 2.0 * count + 16), total)
    # a row that may not attend to itself has a sum of the others alone
    own = allowed.expand(input.sample.shape[1:]).to(p.dtype)
    total = scaled(p, total, own, 1 - own, roundings=0)
    return scaled(
        p, p.add(formulas.reciprocal(1.0, 2.0 * count + 16), total), own, None, roundings=0
    )


def attention(p: Program, *args: Any, **options: Any) -> Value:
    """Return softmax(Q Kᵀ · scale) V for values (N, …, L, D), with the options of ``attended``."""
    return attended(p, *args, **options)[0]


def attended(
    p: Program,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Value, Value]:
    """Return the result of ``attention`` and its weights."""
    if dropout_p or enable_gqa:
        raise Unsupported("dropout that stays on in eval mode" if dropout_p else "grouped queries")
    factor = 1 / math.sqrt(query.sample.shape[-1]) if scale is None else scale
    # some kernels multiply both factors by the root of the scale, rounded
    scores = scaled(
        p, product_of_matrices(p, query, transpose(p, key, -2, -1)), factor, None, roundings=6
    )
    allowed = None
    if is_causal:
        allowed = torch.ones(scores.sample.shape[-2:], dtype=torch.bool).tril()
        allowed = allowed.to(scores.sample.device)
    if attn_mask is not None:
        if attn_mask.dtype != torch.bool:  # it is added to the scores, and may be -inf
            shift = attn_mask.where(attn_mask > -torch.inf, 0.0)
            scores = scaled(p, scores, None, shift) if bool(shift.any()) else scores
            attn_mask = attn_mask > -torch.inf
        mask = constant_like(p, attn_mask.to(p.dtype), scores.sample) > 0
        allowed = mask if allowed is None else mask & allowed
    if allowed is not None and not bool(allowed.any(-1).all()):
        raise Unsupported("attention whose mask leaves a row without any entry")
    found = weights(p, scores, allowed)
    return product_of_matrices(p, found, value), found


def multi_head(
    p: Program,
    m: Any,
    query: Value,
    key: Value,
    value: Value,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Value, Value | None]:
    """Return what ``nn.MultiheadAttention`` returns in eval mode, with batch_first=True."""
    if not m.batch_first and query.sample.dim() == 3:
        raise Unsupported("batch_first=False; the batch must be the first dimension")
    if query.sample.dim() != 3:
        raise Unsupported("an input without a batch; it must be (N, L, E)")
    if key_padding_mask is not None or m.bias_k is not None or m.add_zero_attn:
        raise Unsupported("a padding mask, bias_k or add_zero_attn; leave them out")
    if is_causal and attn_mask is None:
        raise Unsupported("is_causal=True without attn_mask")
    if m._qkv_same_embed_dim:
        matrices: Sequence[Tensor] = m.in_proj_weight.chunk(3)
    else:
        matrices = (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
    biases = (None,) * 3 if m.in_proj_bias is None else m.in_proj_bias.chunk(3)
    heads = []
    for source, matrix_, bias in zip((query, key, value), matrices, biases, strict=True):
        z = linear(p, source, matrix_, bias)
        length, width = z.sample.shape[1:]
        parted = reshaped_to(p, z, (length, m.num_heads, width // m.num_heads))
        heads.append(transpose(p, parted, 1, 2))
    if attn_mask is not None:  # True means that an entry is left out, in this layer
        attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
        if attn_mask.dim() == 3:
            raise Unsupported("a mask for each example; one for all, (L, S), has bounds")
    mixed, found = attended(p, heads[0], heads[1], heads[2], attn_mask)
    joined = reshaped_to(p, transpose(p, mixed, 1, 2), query.sample.shape[1:])
    out = linear(p, joined, m.out_proj.weight, m.out_proj.bias)
    if not need_weights:
        return out, None
    return out, mean(p, found, 1) if average_attn_weights else found
