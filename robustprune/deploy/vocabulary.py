"""The closed list of layers and functions of which a deployed network may consist.

A saved network names its parts only by the keys of these tables, so that loading a file can't build
or run anything else, whatever is written in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from robustprune.deploy import calls
from robustprune.deploy.attention import AttentionHeads
from robustprune.deploy.csr import CSRLinear

_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_TRANSPOSED = (*_CONV, "output_padding")
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
ZERO_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)

#: layers that work element by element, in the same way for each channel
ACTIVATIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Identity: (),
    nn.Dropout: ("p",),
    nn.Dropout1d: ("p",),
    nn.Dropout2d: ("p",),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Hardtanh: ("min_val", "max_val"),
}

#: layer type -> constructor arguments, which are also the names of its attributes
MODULES: dict[type[nn.Module], tuple[str, ...]] = {
    **ACTIVATIONS,
    nn.Linear: ("in_features", "out_features", "bias"),
    CSRLinear: ("in_features", "out_features", "nonzeros", "bias"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    AttentionHeads: ("in_features", "heads", "head_size", "bias", "batch_first"),
    **dict.fromkeys(CONVOLUTIONS, _CONV),
    **dict.fromkeys(TRANSPOSED, _TRANSPOSED),
    **dict.fromkeys(NORMS, _NORM),
    **dict.fromkeys(MAX_POOLS, _MAX_POOL),
    **dict.fromkeys(AVG_POOLS, _AVG_POOL),
    **dict.fromkeys(ADAPTIVE_POOLS, ("output_size",)),
    **dict.fromkeys(ZERO_PADS, ("padding",)),
}
MODULE_NAMES = {kind.__name__: kind for kind in MODULES}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": calls.add,
    "sub": calls.sub,
    "mul": operator.mul,
    "div": calls.div,
    "cat": torch.cat,
    "flatten": torch.flatten,
    "transpose": torch.transpose,
    "permute": torch.permute,
    "select": torch.select,
    "expand_batch": calls.expand_batch,
    "mean": torch.mean,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "max_pool1d": F.max_pool1d,
    "max_pool2d": F.max_pool2d,
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}
ARITHMETIC = ("add", "sub", "mul", "div")
ELEMENTWISE = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid")
MOVES = ("transpose", "permute")  # of dimensions
VIEWS = (*MOVES, "flatten", "select")
POOLS = tuple(name for name in FUNCTIONS if "pool" in name)

#: other ways to write the same functions in a forward method
ALIASES: dict[Any, str] = {
    **{function: name for name, function in FUNCTIONS.items()},
    operator.add: "add",
    operator.sub: "sub",
    operator.truediv: "div",
    operator.iadd: "add",
    operator.isub: "sub",
    operator.imul: "mul",
    operator.itruediv: "div",
    torch.add: "add",
    torch.sub: "sub",
    torch.mul: "mul",
    torch.div: "div",
    torch.relu: "relu",
    torch.concat: "cat",
    F.tanh: "tanh",
    F.sigmoid: "sigmoid",
}
METHODS: dict[str, str] = {
    **{name: name for name in (*ARITHMETIC, *VIEWS, "mean", "relu", "tanh", "sigmoid")},
    **{f"{name}_": name for name in (*ARITHMETIC, "relu", "tanh", "sigmoid")},
}
#: functions that do nothing in eval mode
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d)
IN_PLACE = frozenset((operator.iadd, operator.isub, operator.imul, operator.itruediv))


def arguments_of(module: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments of a layer like `module`; weights are not among them."""
    values = {name: getattr(module, name) for name in MODULES[type(module)] if name not in _HELD}
    held = {**_HELD, "bias": tensor_names(module)[1]}
    for name in MODULES[type(module)]:
        if name in held:
            values[name] = getattr(module, held[name]) is not None
    return {name: _plain(values[name]) for name in MODULES[type(module)]}


def tensor_names(layer: nn.Module) -> tuple[str, str]:
    """Return what a layer calls its weight and its bias."""
    if isinstance(layer, AttentionHeads):
        return "in_proj_weight", "in_proj_bias"
    return "weight", "bias"


def rebuilt(path: str, module: nn.Module) -> nn.Module:
    """Return the layer that `load_slim` will build for `module`, with the module's own tensors.

    Everything else that a layer may hold (hooks, further buffers, attributes) is left out.

    Raises:
        ValueError: the constructor arguments don't describe the layer: an attribute was changed by
            hand, or a weight has another shape than they say.
    """
    with torch.device("meta"):
        layer = type(module)(**arguments_of(module))
    for name, value in vars(layer).items():
        if name in _NOT_COMPARED:
            continue
        held = getattr(module, name, None)
        if _listed(held) != _listed(value):
            raise ValueError(
                f"layer {path!r} has {name}={held!r}, where a {type(module).__name__} made of its "
                f"other attributes has {value!r}; build the layer anew"
            )
    for stored in ("_parameters", "_buffers"):
        tensors, expected = getattr(module, stored), getattr(layer, stored)
        for name, place in expected.items():
            tensor = tensors.get(name)
            if (tensor is None) != (place is None) or (
                tensor is not None and tensor.shape != place.shape
            ):
                says, has = ("none" if one is None else tuple(one.shape) for one in (place, tensor))
                raise ValueError(
                    f"layer {path!r} has a {name} of shape {has}, but its attributes say {says}; "
                    "set them to what the tensor has"
                )
            expected[name] = tensor
    return layer


#: constructor arguments that say whether a layer has a tensor -> the name of that tensor
_HELD = {
    "bias": "bias",
    "affine": "weight",
    "elementwise_affine": "weight",
    "track_running_stats": "running_mean",
}
#: attributes of every module, those that `_HELD` reads off tensors, and those without effect here
_NOT_COMPARED = frozenset(vars(nn.Module())) | set(_HELD) | {"inplace", "_matrix", "_made_of"}


def _plain(value: Any) -> Any:
    """Return a number or a list of numbers in the form of JSON: no numpy scalar, no torch.Size."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, (tuple, list)) else value
