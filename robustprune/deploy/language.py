"""Remove dead heads and neurons from transformers, and save and load the smaller networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.network import check_no_hooks
from attacks.text import refuse_kernels
from robustprune.deploy.copies import check_baked
from robustprune.run.checkpoint import load_state, load_tensors, save_tensors
from robustprune.run.size import check_size
from robustprune.sparsity import Block, transformer_blocks
from robustprune.sparsity.plain import computed_weights, copy_of

_FORMAT = 1


def slim_language(model: nn.Module) -> nn.Module:
    """Copy a transformer without the heads and neurons whose outputs are not used.

    These are the ones whose columns of the output projection, or of the second feed-forward
    matrix, are all zero. They add exactly nothing, so the answers stay the same up to the order of
    summation. A layer keeps at least one head and one neuron, even if all are dead.

    Args:
        model: a network with a BERT or DistilBERT inside and masks baked in; it is not changed.

    Raises:
        ValueError: there are no such layers, masks are still applied on the fly, something else
            computes a weight (`robustprune.sparsity.plain` makes it plain), or there is a hook.
    """
    check_baked(model)
    small = copy_of(model)
    for block in _layers(small):
        heads = _alive(small.get_parameter(f"{block.output}.weight"), block.heads)
        neurons = _alive(small.get_parameter(f"{block.down}.weight"))
        _shrink(small, block, heads, neurons)
    return small


def language_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return the numbers of heads and of feed-forward neurons of each layer."""
    return [
        (block.heads, len(model.get_parameter(f"{block.inner[0]}.weight")))
        for block in _layers(model)
    ]


def save_slim_language(path: Path | str, model: nn.Module) -> None:
    """Write the weights, the sizes and the network's own config into one safetensors file.

    Args:
        model: a module with a `network` that has a transformers config, such as an
            `EmbeddingClassifier`.

    Raises:
        ValueError: something computes a weight, or there is a hook; a file can't hold either.
    """
    check_no_hooks(model)
    if computed := computed_weights(model):
        raise ValueError(f"{next(iter(computed))!r} is computed; bake it in first")
    config = cast(Any, model).network.config.to_diff_dict()
    meta = {"format": _FORMAT, "config": config, "sizes": language_sizes(model)}
    save_tensors(Path(path), model.state_dict(), meta)


def load_slim_language(path: Path | str, wrap: type[nn.Module]) -> nn.Module:
    """Read a file of `save_slim_language`. Nothing in the file is run as code.

    Args:
        wrap: the class of the saved model, `models.EmbeddingClassifier`.

    Raises:
        ValueError: the file is damaged or of another format, or the network, before heads and
            neurons were taken out, is larger than `run.files.memory_limit` allows.
    """
    import transformers

    auto = cast(Any, transformers)
    tensors, meta = load_tensors(Path(path))
    try:
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']} is not {_FORMAT}")
        config = dict(meta["config"])
        refuse_kernels(config, str(path))
        config.pop("num_labels", None)  # it is never written, and may be huge
        build = partial(
            auto.AutoModelForSequenceClassification.from_config,
            auto.AutoConfig.for_model(config.pop("model_type"), **config),
            trust_remote_code=False,
        )
        check_size(build, model=str(path), held=Path(path).stat().st_size)
        model = wrap(build())
        pairs = zip(_layers(model), language_sizes(model), meta["sizes"], strict=True)
        for block, most, (heads, neurons) in pairs:
            if not (1 <= heads <= most[0] and 1 <= neurons <= most[1]):
                raise ValueError(f"{path} has {heads, neurons} heads and neurons of {most}")
            _shrink(model, block, range(heads), range(neurons))
        load_state(model, tensors, Path(path))
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is no slim language model ({error})") from error
    return model.eval()


def _layers(model: nn.Module) -> list[Block]:
    blocks = transformer_blocks(model)
    if other := [block.family for block in blocks if block.family not in ("BERT", "DistilBERT")]:
        raise ValueError(
            f"{type(model).__name__} has layers like {other[0]}'s, and heads and neurons can be "
            "taken out of those of BERT and DistilBERT alone; keep its masks as zeros"
        )
    return blocks


def _alive(weight: Tensor, groups: int | None = None) -> list[int]:
    """Return the groups of columns with an entry that is not zero; the first group if there are
    none."""
    columns = (weight != 0).any(0)
    if groups is not None:
        columns = columns.view(groups, -1).any(1)
    return columns.nonzero().flatten().tolist() or [0]


def _shrink(model: nn.Module, block: Block, heads: Sequence[int], neurons: Sequence[int]) -> None:
    """Keep only these heads and neurons of one layer, in place."""
    size = len(model.get_parameter(f"{block.query}.weight")) // block.heads
    rows = (torch.tensor(list(heads))[:, None] * size + torch.arange(size)).flatten()
    for name in block.projections:
        _keep(model, name, 0, rows)
    _keep(model, block.output, 1, rows)
    attention = cast(Any, model.get_submodule(block.attention))
    for attribute, value in {
        "num_attention_heads": len(heads),  # BERT
        "all_head_size": len(heads) * size,
        "n_heads": len(heads),  # DistilBERT
        "dim": len(heads) * size,
    }.items():
        if hasattr(attention, attribute):
            setattr(attention, attribute, value)
    index = torch.tensor(list(neurons))
    _keep(model, block.inner[0], 0, index)
    _keep(model, block.down, 1, index)


def _keep(model: nn.Module, name: str, dim: int, index: Tensor) -> None:
    """Keep only these rows (dim 0) or columns (dim 1) of a linear layer."""
    layer = cast(nn.Linear, model.get_submodule(name))
    index = index.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, index))
    if dim == 0:
        layer.out_features = len(index)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach().index_select(0, index))
    else:
        layer.in_features = len(index)
