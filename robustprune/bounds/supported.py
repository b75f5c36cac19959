"""The layers and functions that have bounds, by type and by name."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from torch import nn

from robustprune.bounds import layers, tensors
from robustprune.bounds.program import Program, Value

SUPPORTED = (
    "Linear, Conv1d/2d, BatchNorm1d/2d, ReLU, LeakyReLU, Tanh, Sigmoid, average, adaptive average "
    "and max pooling in 1-D and 2-D, zero padding, flatten and other reshapes, mean, sum, Dropout, "
    "Identity, +, −, concatenation, and ×, ÷ by constants"
)

MODULES: dict[type[nn.Module], Callable[[Program, Any, Value], Value]] = {
    nn.Linear: lambda p, m, z: layers.linear(p, z, m.weight, m.bias),
    nn.Conv1d: layers.conv_layer,
    nn.Conv2d: layers.conv_layer,
    nn.BatchNorm1d: layers.batch_norm,
    nn.BatchNorm2d: layers.batch_norm,
    nn.ReLU: lambda p, m, z: layers.relu(p, z),
    nn.LeakyReLU: lambda p, m, z: layers.leaky_relu(p, z, m.negative_slope),
    nn.Tanh: lambda p, m, z: layers.tanh(p, z),
    nn.Sigmoid: lambda p, m, z: layers.sigmoid(p, z),
    nn.AvgPool1d: layers.avg_pool_layer,
    nn.AvgPool2d: layers.avg_pool_layer,
    nn.AdaptiveAvgPool1d: lambda p, m, z: tensors.pooled("adaptive_avg_pool1d")(
        p, z, m.output_size
    ),
    nn.AdaptiveAvgPool2d: lambda p, m, z: tensors.pooled("adaptive_avg_pool2d")(
        p, z, m.output_size
    ),
    nn.MaxPool1d: layers.max_pool_layer,
    nn.MaxPool2d: layers.max_pool_layer,
    nn.ZeroPad1d: lambda p, m, z: tensors.pad(p, z, m.padding),
    nn.ZeroPad2d: lambda p, m, z: tensors.pad(p, z, m.padding),
    nn.Flatten: lambda p, m, z: tensors.reshaped("flatten")(p, z, m.start_dim, m.end_dim),
    nn.Unflatten: lambda p, m, z: tensors.reshaped("unflatten")(p, z, m.dim, m.unflattened_size),
    nn.Identity: lambda p, m, z: z,
    nn.Dropout: lambda p, m, z: z,
    nn.Dropout1d: lambda p, m, z: z,
    nn.Dropout2d: lambda p, m, z: z,
}

#: torch functions, operators and tensor methods with the same name do the same
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linear": layers.linear,
    "matmul": layers.matmul,
    "conv1d": layers.conv,
    "conv2d": layers.conv,
    "relu": layers.relu,
    "leaky_relu": layers.leaky_relu,
    "tanh": layers.tanh,
    "sigmoid": layers.sigmoid,
    "max_pool1d": layers.max_pool,
    "max_pool2d": layers.max_pool,
    **{
        name: tensors.pooled(name)
        for name in ("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
    },
    "add": tensors.add,
    "iadd": tensors.add,
    "sub": tensors.sub,
    "isub": tensors.sub,
    "mul": tensors.mul,
    "imul": tensors.mul,
    "truediv": tensors.div,
    "itruediv": tensors.div,
    "div": tensors.div,
    "neg": tensors.neg,
    "cat": tensors.cat,
    "concat": tensors.cat,
    "mean": tensors.mean,
    "sum": tensors.total,
    "pad": tensors.pad,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d"), tensors.dropout),
    "size": tensors.sizes,
    "dim": lambda p, z: z.sample.dim(),
    "getattr": tensors.attribute,
    **{
        name: tensors.reshaped(name)
        for name in ("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten")
    },
    **dict.fromkeys(("contiguous", "clone", "double"), tensors.identity),
    "float": tensors.as_float32,
}


def standard_layer(module: nn.Module) -> type[nn.Module] | None:
    """Return the supported class whose forward the module runs, also for a parametrized layer.

    It returns None if a subclass or the instance itself replaces a method of the computation, such
    as ``_conv_forward``. Then its forward is traced like any other.
    """
    ancestors = type(module).__mro__
    kind = next((c for c in ancestors if c in MODULES), None)
    if kind is None:
        return None
    replaced = {name for c in ancestors[: ancestors.index(kind)] for name in vars(c)}
    replaced |= {name for name, value in vars(module).items() if callable(value)}
    return None if any(hasattr(kind, name) for name in replaced - _HARMLESS) else kind


#: attributes that a subclass may define without changing the computation
_HARMLESS = {name for name in dir(nn.Module) if name.startswith("__")} - {
    "__call__",
    "__getattr__",
    "__getattribute__",
} | {"train", "eval", "extra_repr", "reset_parameters"}


def function_name(target: Any) -> str:
    """Return the key of a function in FUNCTIONS; a user's function keeps its module's name."""
    name: str = target if isinstance(target, str) else target.__name__
    origin = getattr(target, "__module__", None) or ""
    torchs = isinstance(target, str | BuiltinFunctionType) or origin.partition(".")[0] == "torch"
    return name if torchs or origin in ("", "_operator") else f"{origin}.{name}"
