"""Read how a function of the vocabulary is called: each argument is known by name, or refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

#: the arguments that are tensors, the results of earlier steps
TENSORS = ("input", "other", "tensors")
_POOL = ("input", "kernel_size", "stride", "padding")

#: the parameters of each function in their order; those after "*" are keyword-only
PARAMETERS: dict[str, tuple[str, ...]] = {
    "add": ("input", "other", "*", "alpha", "out"),
    "sub": ("input", "other", "*", "alpha", "out"),
    "mul": ("input", "other", "*", "out"),
    "div": ("input", "other", "*", "rounding_mode", "out"),
    "cat": ("tensors", "dim", "*", "out"),
    "flatten": ("input", "start_dim", "end_dim"),
    "transpose": ("input", "dim0", "dim1"),
    "permute": ("input", "dims"),
    "select": ("input", "dim", "index"),
    "expand_batch": ("input", "other"),
    "mean": ("input", "dim", "keepdim", "*", "dtype", "out"),
    "relu": ("input", "inplace"),
    "leaky_relu": ("input", "negative_slope", "inplace"),
    "gelu": ("input", "*", "approximate"),
    "silu": ("input", "inplace"),
    "tanh": ("input", "*", "out"),
    "sigmoid": ("input", "*", "out"),
    "max_pool1d": (*_POOL, "dilation", "ceil_mode", "return_indices"),
    "max_pool2d": (*_POOL, "dilation", "ceil_mode", "return_indices"),
    "avg_pool1d": (*_POOL, "ceil_mode", "count_include_pad"),
    "avg_pool2d": (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool1d": ("input", "output_size"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "dropout": ("input", "p", "training", "inplace"),
}
#: other names that torch accepts for the same parameters
_SAME = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x1": "input", "x2": "other"}
#: values that a step leaves out, because they change nothing in a network whose steps each make a
#: new tensor; any other value of the parameters in `_REFUSED` is refused
_LEFT_OUT: dict[str, tuple[Any, ...]] = {
    "alpha": (1,),
    "rounding_mode": (None,),
    "inplace": (True, False),
    "return_indices": (False,),
    "dtype": (None,),
    "out": (None,),
}
_REFUSED = ("inplace", "return_indices", "dtype", "out")


def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Return input + alpha · other."""
    return operator.add(input, other) if alpha == 1 else torch.add(input, other, alpha=alpha)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Return input − alpha · other."""
    return operator.sub(input, other) if alpha == 1 else torch.sub(input, other, alpha=alpha)


def expand_batch(input: Any, other: Any) -> Any:
    """Return input (1, ...) as often as `other` has rows."""
    return input.expand(other.shape[0], *[-1] * (input.ndim - 1))


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Return input / other, rounded to whole numbers if `rounding_mode` is given, as in
    torch.div."""
    if rounding_mode is None:
        return operator.truediv(input, other)
    return torch.div(input, other, rounding_mode=rounding_mode)


def bind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a function of `PARAMETERS`, by the names of its parameters.

    Raises:
        ValueError: an argument is unknown to the function, or is given twice.
    """
    names = PARAMETERS[name]
    positional = names[: names.index("*")] if "*" in names else names
    if name == "permute" and len(args) > 2:  # the method takes the dimensions in a row, too
        args = (args[0], list(args[1:]))
    if len(args) > len(positional):
        raise ValueError(
            f"{name!r} is called with {len(args)} arguments in a row; a deployed network takes "
            f"{', '.join(positional)}"
        )
    bound = dict(zip(positional, args, strict=False))
    for given, value in kwargs.items():
        known = given if given in names else _SAME.get(given, given)
        if known not in names or known == "*" or known in bound:
            raise ValueError(
                f"{name!r} is called with {given}={_shown(value)}, which can't be deployed; known "
                f"are {', '.join(part for part in names if part != '*')}, each once"
            )
        bound[known] = value
    return bound


def kept_arguments(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], is_result: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that a step keeps: the tensors first, without those that change nothing.

    Args:
        is_result: a function that tells the result of an earlier step from other values.

    Raises:
        ValueError: a step can't keep an argument; the message names it.
    """
    bound = bind(name, args, kwargs)
    for key, value in list(bound.items()):
        if key in TENSORS:
            continue
        if is_result(value) and key not in _REFUSED:
            raise ValueError(f"{name!r} is called with a value of {key} that depends on the input")
        if any(value is left or value == left for left in _LEFT_OUT.get(key, ())):
            del bound[key]
        elif key in _REFUSED:
            raise ValueError(
                f"{name!r} is called with {key}={_shown(value)}, which a deployed network can't "
                "keep"
            )
    missing = [key for key in PARAMETERS[name] if key in TENSORS and key not in bound]
    if missing:
        raise ValueError(f"{name!r} is called without {', '.join(missing)}")
    row = []  # positional arguments stay positional, up to the first that is left out
    for key in [key for key in PARAMETERS[name][: len(args)] if key not in TENSORS]:
        if key not in bound:
            break
        row.append(bound.pop(key))
    tensors = [bound.pop(key) for key in TENSORS if key in bound]
    return (*tensors, *row), bound


def layer_arguments(
    kind: type[nn.Module], path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call of a layer: its input, and the output size of a transposed
    one.

    Raises:
        ValueError: there are other arguments.
    """
    names = ("input", "output_size") if kind.__name__.startswith("ConvTranspose") else ("input",)
    bound = dict(zip(names, args, strict=False))
    rest = {("input" if key == "x" else key): value for key, value in kwargs.items()}
    if len(args) > len(names) or set(rest) - set(names) or set(rest) & set(bound):
        raise ValueError(
            f"layer {path!r} is called with {len(args)} arguments and {', '.join(kwargs) or 'none'}"
            f" by name; a deployed one takes {' and '.join(names)}"
        )
    bound.update(rest)
    if "input" not in bound:
        raise ValueError(f"layer {path!r} is called without its input")
    if bound.get("output_size") is None:
        bound.pop("output_size", None)
    return (bound.pop("input"),), bound


def leaves_first_dimension(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function treats each row of its input separately."""
    arguments = bind(name, args, kwargs)
    if name == "flatten":
        return bool(arguments.get("start_dim", 0) > 0)
    if name in ("cat", "select"):
        return bool(arguments.get("dim", 0) > 0)
    if name == "transpose":
        return bool(min(arguments["dim0"], arguments["dim1"]) > 0)
    if name == "permute":
        return bool(arguments["dims"][0] == 0)
    # a mean over all rows leaves no batch dimension, which a view could use
    return True


def _shown(value: Any) -> str:
    return repr(getattr(value, "name", value))
