"""Describe the parts of a transformer: its layers, their heads and neurons, and its output head.

The known layers are those of BERT (RoBERTa, ELECTRA, ...), DistilBERT, Llama (Mistral, Qwen2,
Qwen3, ...; there may be fewer key and value heads than query heads, and the feed-forward part has a
gate) and GPT-2 (whose matrices are stored as (in, out), with query, key and value in one).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """One layer of a transformer, with the names of its modules.

    Attributes:
        family: the model family that the layer belongs to: "BERT", "DistilBERT", "Llama" or
            "GPT-2".
        name: the name of the layer itself.
        attention: the module that splits into heads.
        query, key, value: the projections into heads; the same name three times where one matrix
            holds all three, one after the other.
        output: the projection that follows the heads.
        inner: the first matrices of the feed-forward part: one, or the gate and one more.
        down: the last matrix of the feed-forward part.
        heads: the number of query heads.
        shared: the number of consecutive query heads that share one key head and one value head.
        size: the number of rows of one head.
    """

    family: str
    name: str
    attention: str
    query: str
    key: str
    value: str
    output: str
    inner: tuple[str, ...]
    down: str
    heads: int = field(kw_only=True)
    shared: int = field(kw_only=True)
    size: int = field(kw_only=True)

    @property
    def projections(self) -> tuple[str, ...]:
        """Return the matrices into heads, each of them once."""
        return tuple(dict.fromkeys((self.query, self.key, self.value)))


@dataclass(frozen=True)
class Head:
    """The output layer of a transformer.

    Attributes:
        name: the name of the module.
        embedding: the name of the embedding that shares its weight, or None.
    """

    name: str
    embedding: str | None


#: family -> attention, query, key, value, output, feed-forward input and feed-forward output
_FAMILIES: dict[str, tuple[str, str, str, str, str, tuple[str, ...], str]] = {
    "BERT": (
        "attention.self", "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", ("intermediate.dense",), "output.dense",
    ),
    "DistilBERT": (
        "attention", "attention.q_lin", "attention.k_lin", "attention.v_lin",
        "attention.out_lin", ("ffn.lin1",), "ffn.lin2",
    ),
    "Llama": (
        "self_attn", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj",
    ),
    "GPT-2": (
        "attn", "attn.c_attn", "attn.c_attn", "attn.c_attn",
        "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj",
    ),
}  # fmt: skip


def transformer_blocks(model: nn.Module) -> list[Block]:
    """Return the layers of a transformer, in order; the top of this module lists the known ones.

    Raises:
        ValueError: there are none, or some layers are of another kind.
    """
    modules = dict(model.named_modules())
    found = [_block(modules, family, name) for name in modules for family in _FAMILIES]
    blocks = [block for block in found if block is not None]
    known, wrong = {block.name for block in blocks}, None
    for block in blocks:
        holder = block.name.rpartition(".")[0]
        children = dict(modules[block.name].named_children())
        beside = [f"{holder}.{child}".lstrip(".") for child, _ in modules[holder].named_children()]
        unlike = [name for name in beside if name not in known]
        if any("cross" in child for child in children):
            wrong = f"layer {block.name!r} has cross-attention"
        elif not _fits(modules, block):
            wrong = f"layer {block.name!r} has the names of {block.family}'s but not its shapes"
        elif isinstance(modules[holder], nn.ModuleList) and unlike:
            wrong = f"layer {unlike[0]!r} is not like {block.name!r}"
    if not blocks:
        wrong = f"{type(model).__name__} has no layers like those of {', '.join(_FAMILIES)}"
    if wrong is not None:
        raise ValueError(
            f"{wrong}, so that heads and neurons are not known; use granularity 'weight', which "
            "fits every model"
        )
    return blocks


def output_head(model: nn.Module) -> Head | None:
    """Return the output head of a transformer, or None if it has none.

    It is the last linear layer outside of the base model, which is the smallest module that holds
    the transformer's layers and an embedding. If there is none outside, it is the last linear
    layer behind the transformer's layers. In the library transformers this finds `score`,
    `classifier` and `lm_head`. Layers before them (`pre_classifier`, a pooler) are not the head.

    Raises:
        ValueError: as in `transformer_blocks`.
    """
    blocks = transformer_blocks(model)
    modules = dict(model.named_modules())
    embeddings = {name: m for name, m in modules.items() if isinstance(m, nn.Embedding)}
    order, base = list(modules), _base(blocks, embeddings)
    inside = tuple(f"{block.name}." for block in blocks)
    linear = [n for n in order if isinstance(modules[n], nn.Linear) and not n.startswith(inside)]
    outside = [name for name in linear if not f"{name}.".startswith(base)]
    behind = [name for name in linear if order.index(name) > order.index(blocks[-1].down)]
    if not (candidates := outside or behind):
        return None
    weight = modules[candidates[-1]]._parameters.get("weight")
    tied = [name for name, embedding in embeddings.items() if embedding.weight is weight]
    return Head(candidates[-1], tied[0] if tied else None)


def hf_conv1d() -> tuple[type[nn.Module], ...]:
    """Return the class Conv1D of the library transformers, a linear layer whose weight is (in,
    out), in a tuple that is empty if nothing has imported that library."""
    module = sys.modules.get("transformers.pytorch_utils")
    return () if module is None else (module.Conv1D,)


def out_dim(layer: nn.Module) -> int:
    """Return the dimension of a linear layer's weight that counts its outputs."""
    return 1 if isinstance(layer, hf_conv1d()) else 0


def _base(blocks: Sequence[Block], embeddings: Iterable[str]) -> str:
    """Return the prefix of names in the smallest module that holds all layers and an embedding."""
    shared = blocks[0].name.split(".")[:-1]
    while any(block.name.split(".")[: len(shared)] != shared for block in blocks):
        shared.pop()
    while shared and not any(name.startswith(".".join(shared) + ".") for name in embeddings):
        shared.pop()
    return "".join(f"{part}." for part in shared)


def _block(modules: Mapping[str, nn.Module], family: str, name: str) -> Block | None:
    """Return the layer of this name if it belongs to this family, otherwise None."""
    *paths, into, last = _FAMILIES[family]
    attention, query, key, value, output, down, *inner = (
        f"{name}.{path}".lstrip(".") for path in (*paths, last, *into)
    )
    if not modules.keys() >= {attention, query, key, value, output, down, *inner}:
        return None
    split, fused = modules[attention], query == key
    size = getattr(split, "attention_head_size", None) or getattr(split, "head_dim", None)
    if not isinstance(size, int) or fused != isinstance(modules[query], hf_conv1d()):
        return None
    heads = _shape(modules[query])[0] // size // (3 if fused else 1)
    pairs = heads if fused else _shape(modules[key])[0] // size
    return Block(
        family, name, attention, query, key, value, output, tuple(inner), down,
        heads=heads, shared=heads // max(pairs, 1), size=size,
    )  # fmt: skip


def _fits(modules: Mapping[str, nn.Module], block: Block) -> bool:
    """Return whether the shapes fit the number of heads, and one number of neurons."""
    shapes = {name: _shape(modules[name]) for name in (*block.projections, *block.inner)}
    width, fused = block.heads * block.size, block.query == block.key
    keys = width // max(block.shared, 1)
    rows = [3 * width] if fused else [width, keys, keys]
    neurons = {shapes[name][0] for name in block.inner}
    return (
        min(width, keys) > 0
        and [shapes[name][0] for name in block.projections] == rows
        and _shape(modules[block.output])[1] == width
        and neurons == {_shape(modules[block.down])[1]}
    )


def _shape(layer: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer, or (0, 0) for other layers."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return 0, 0
    outs, ins = weight.shape if out_dim(layer) == 0 else weight.shape[::-1]
    return outs, ins
