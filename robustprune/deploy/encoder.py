"""Transformer encoders of torch, with a forward that can be traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn


def written_out(model: nn.Module) -> nn.Module:
    """Replace `nn.TransformerEncoder` and its layers in `model`, in place, by modules that have the
    same parts under the same names and can be traced. Return the model, or what replaces it."""
    made: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        kind = _WRITTEN.get(type(module))
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


_WRITTEN: dict[type[nn.Module], type[Written]] = {
    nn.TransformerEncoderLayer: _Layer,
    nn.TransformerEncoder: _Encoder,
}
