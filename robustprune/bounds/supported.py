"""The layers and functions that have bounds, by type and by name."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from torch import nn

from robustprune.bounds import attention, curved, formulas, layers, normalisation, shapes, tensors
from robustprune.bounds.program import Program
from robustprune.bounds.recurrent import recurrent
from robustprune.bounds.tensors import Unsupported
from robustprune.bounds.transformer import encoder, encoder_layer

SUPPORTED = (
    "Linear, Conv and ConvTranspose1d/2d/3d, BatchNorm1d/2d/3d, LayerNorm, LSTM, GRU, RNN, "
    "TransformerEncoder, MultiheadAttention and scaled_dot_product_attention, softmax, ReLU, "
    "ReLU6, LeakyReLU, ELU, GELU, SiLU, Mish, Hardswish, Hardsigmoid, Hardtanh, clamp, Tanh, "
    "Sigmoid, abs, exp, average, "
    "adaptive average and max pooling in 1-D to 3-D, padding, reshapes, permute, transpose, chunk, "
    "split, stack, concatenation, indices, mean, sum, Dropout, Identity, +, −, ×, matrix products, "
    "squares, and ÷ by constants"
)

MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: lambda p, m, z: layers.linear(p, z, m.weight, m.bias),
    nn.Conv1d: layers.conv_layer,
    nn.Conv2d: layers.conv_layer,
    nn.Conv3d: layers.conv_layer,
    nn.ConvTranspose1d: layers.conv_transpose_layer,
    nn.ConvTranspose2d: layers.conv_transpose_layer,
    nn.ConvTranspose3d: layers.conv_transpose_layer,
    nn.BatchNorm1d: layers.batch_norm,
    nn.BatchNorm2d: layers.batch_norm,
    nn.BatchNorm3d: layers.batch_norm,
    nn.LayerNorm: normalisation.layer_norm_layer,
    nn.LSTM: lambda p, m, z, hx=None: recurrent(p, m, z, hx),
    nn.GRU: lambda p, m, z, hx=None: recurrent(p, m, z, hx),
    nn.RNN: lambda p, m, z, hx=None: recurrent(p, m, z, hx),
    nn.MultiheadAttention: attention.multi_head,
    nn.TransformerEncoderLayer: lambda p, m, *args, **options: encoder_layer(
        p, applied, m, *args, **options
    ),
    nn.TransformerEncoder: lambda p, m, *args, **options: encoder(p, applied, m, *args, **options),
    nn.Softmax: lambda p, m, z: attention.softmax(p, z, m.dim),
    nn.ReLU: lambda p, m, z: layers.relu(p, z),
    nn.LeakyReLU: lambda p, m, z: layers.leaky_relu(p, z, m.negative_slope),
    nn.Tanh: lambda p, m, z: layers.tanh(p, z),
    nn.Sigmoid: lambda p, m, z: layers.sigmoid(p, z),
    nn.GELU: lambda p, m, z: curved.gelu(p, z, m.approximate),
    nn.ELU: lambda p, m, z: curved.elu(p, z, m.alpha),
    # the limits of ReLU6, a subclass, are attributes too
    nn.Hardtanh: lambda p, m, z: curved.clamp(p, z, m.min_val, m.max_val),
    nn.SiLU: lambda p, m, z: p.add(formulas.silu(), z),
    nn.Mish: lambda p, m, z: p.add(formulas.mish(), z),
    nn.Hardswish: lambda p, m, z: p.add(formulas.hardswish(), z),
    nn.Hardsigmoid: lambda p, m, z: p.add(formulas.hardsigmoid(), z),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), layers.avg_pool_layer),
    nn.AdaptiveAvgPool1d: lambda p, m, z: tensors.pooled("adaptive_avg_pool1d")(
        p, z, m.output_size
    ),
    nn.AdaptiveAvgPool2d: lambda p, m, z: tensors.pooled("adaptive_avg_pool2d")(
        p, z, m.output_size
    ),
    nn.AdaptiveAvgPool3d: lambda p, m, z: tensors.pooled("adaptive_avg_pool3d")(
        p, z, m.output_size
    ),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), layers.max_pool_layer),
    **dict.fromkeys(
        (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), lambda p, m, z: tensors.pad(p, z, m.padding)
    ),
    nn.Flatten: lambda p, m, z: tensors.reshaped("flatten")(p, z, m.start_dim, m.end_dim),
    nn.Unflatten: lambda p, m, z: tensors.reshaped("unflatten")(p, z, m.dim, m.unflattened_size),
    nn.Identity: lambda p, m, z: z,
    nn.Dropout: lambda p, m, z: z,
    nn.Dropout1d: lambda p, m, z: z,
    nn.Dropout2d: lambda p, m, z: z,
    nn.Dropout3d: lambda p, m, z: z,
}

#: torch functions, operators and tensor methods with the same name do the same
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linear": layers.linear,
    "matmul": layers.matmul,
    "bmm": layers.matmul,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.conv),
    **{f"conv_transpose{dims}d": layers.conv_transpose for dims in (1, 2, 3)},
    "layer_norm": normalisation.layer_norm,
    "relu": layers.relu,
    "relu6": curved.relu6,
    "hardtanh": curved.hardtanh,
    **dict.fromkeys(("clamp", "clip"), curved.clamp),
    "clamp_min": curved.clamp_min,
    "clamp_max": curved.clamp_max,
    "elu": curved.elu,
    "gelu": curved.gelu,
    "silu": curved.plain(formulas.silu),
    "mish": curved.plain(formulas.mish),
    "hardswish": curved.plain(formulas.hardswish),
    "hardsigmoid": curved.plain(formulas.hardsigmoid),
    "abs": curved.plain(formulas.magnitude),
    "exp": curved.plain(formulas.exponential),
    "square": curved.plain(formulas.square),
    "pow": tensors.power,
    "softmax": attention.softmax,
    "scaled_dot_product_attention": attention.attention,
    "leaky_relu": layers.leaky_relu,
    "tanh": layers.tanh,
    "sigmoid": layers.sigmoid,
    **{f"max_pool{dims}d": layers.max_pool for dims in (1, 2, 3)},
    **{
        name: tensors.pooled(name)
        for dims in (1, 2, 3)
        for name in (f"avg_pool{dims}d", f"adaptive_avg_pool{dims}d")
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
    "mean": tensors.mean,
    "sum": tensors.total,
    "pad": tensors.pad,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), tensors.dropout),
    "size": tensors.sizes,
    "dim": lambda p, z: z.sample.dim(),
    **shapes.METHODS,
    **{
        name: tensors.reshaped(name)
        for name in ("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten")
    },
    **dict.fromkeys(("contiguous", "clone", "double"), tensors.identity),
    "float": tensors.as_float32,
}


def applied(p: Program, part: Any, *args: Any, **options: Any) -> Any:
    """Bound a layer inside another layer, or a function that this calls.

    Raises:
        Unsupported: it has no bounds.
    """
    if isinstance(part, nn.Module):
        kind = standard_layer(part)
        if kind is not None:
            return MODULES[kind](p, part, *args, **options)
        raise Unsupported(f"no bounds for {type(part).__name__} inside it")
    handler = FUNCTIONS.get(function_name(part))
    if handler is None:
        raise Unsupported(f"no bounds for '{function_name(part)}' inside it")
    return handler(p, *args, **options)


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
    """Return the key of a function in FUNCTIONS. A function that is not torch's own keeps its
    module's name, also an operator that somebody registered in torch.ops."""
    if isinstance(target, str):
        return target
    name: str = getattr(target, "__name__", type(target).__name__)
    origin = getattr(target, "__module__", None) or ""
    torchs = origin.partition(".")[0] == "torch"
    if origin.startswith(_OPERATORS):
        torchs = origin == f"{_OPERATORS}aten"
    builtin = isinstance(target, BuiltinFunctionType) and origin in ("", "_operator", "builtins")
    return name if torchs or builtin else f"{origin}.{name}"


#: the beginning of the modules of operators; "aten" are those of torch itself
_OPERATORS = "torch._ops."
