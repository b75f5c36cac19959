"""Transformer encoders of torch and torchvision, with a forward that can be traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


def written_out(model: nn.Module) -> nn.Module:
    """Replace encoders of torch and torchvision in `model`, in place, by traceable modules.

    These have the same parts under the same names. Return the model, or what replaces it.
    """
    known = _written()
    made: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        kind = known.get(type(module))
        if kind is None:
            continue
        new = made.setdefault(module, kind(module))
        owner, _, leaf = path.rpartition(".")
        if leaf:
            setattr(model.get_submodule(owner), leaf, new)
        else:
            model = new
    return model


class Written(nn.Module):
    """Hold the parts of another module. The forward takes the input alone, without masks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, part in module.named_children():
            self.add_module(name, part)
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)


def without_masks(path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the input of a call of a `Written` module, as a tuple of one argument.

    Raises:
        ValueError: the call sets a mask, or another argument that is not None or False.
    """
    given = {**{str(place): arg for place, arg in enumerate(args[1:], 2)}, **kwargs}
    src = args[:1] or (given.pop("src", None),)
    masks = [name for name, mask in given.items() if mask is not None and mask is not False]
    if masks:
        raise ValueError(
            f"the encoder {path!r} is called with a mask as argument {masks[0]}; attention with a "
            "mask can't be deployed"
        )
    return tuple(src)


class _Layer(Written):
    self_attn: nn.Module
    linear1: nn.Module
    linear2: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    dropout: nn.Module
    dropout1: nn.Module
    dropout2: nn.Module
    activation: Callable[[Tensor], Tensor]

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        layer = cast(nn.TransformerEncoderLayer, module)
        self._norm_first = layer.norm_first
        if not isinstance(layer.activation, nn.Module):
            self.activation = layer.activation

    def forward(self, src: Tensor) -> Tensor:
        if self._norm_first:
            x = src + self._attend(self.norm1(src))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + self._attend(src))
        return cast(Tensor, self.norm2(x + self._feed_forward(x)))

    def _attend(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dropout1(self.self_attn(x, x, x, need_weights=False)[0]))

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return cast(Tensor, self.dropout2(self.linear2(hidden)))


class _Encoder(Written):
    layers: nn.ModuleList
    norm: nn.Module

    def forward(self, src: Tensor) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, self.norm(x)) if "norm" in self._modules else x


class _VisionBlock(Written):
    """`EncoderBlock` of torchvision."""

    ln_1: nn.Module
    ln_2: nn.Module
    self_attention: nn.Module
    dropout: nn.Module
    mlp: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x = input + self.dropout(self.self_attention(x, x, x, need_weights=False)[0])
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


class _VisionEncoder(Written):
    """`Encoder` of torchvision."""

    pos_embedding: Tensor
    dropout: nn.Module
    layers: nn.Module
    ln: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self.ln(self.layers(self.dropout(input + self.pos_embedding))))


class _Vision(Written):
    """`VisionTransformer` of torchvision."""

    conv_proj: nn.Module
    class_token: Tensor
    encoder: nn.Module
    heads: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        first = self.class_token.expand(x.shape[0], -1, -1)
        return cast(Tensor, self.heads(self.encoder(torch.cat([first, tokens], 1))[:, 0]))


def _written() -> dict[type[nn.Module], type[Written]]:
    """Return the known classes, those of torchvision only if the network could have them."""
    known: dict[type[nn.Module], type[Written]] = {
        nn.TransformerEncoderLayer: _Layer,
        nn.TransformerEncoder: _Encoder,
    }
    if vision := sys.modules.get("torchvision.models.vision_transformer"):
        known |= {
            vision.EncoderBlock: _VisionBlock,
            vision.Encoder: _VisionEncoder,
            vision.VisionTransformer: _Vision,
        }
    return known
