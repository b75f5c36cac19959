"""How the functions of the vocabulary are called: each argument is known by name, or refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

#: the arguments that are tensors, the results of earlier steps
TENSORS = ("input", "other", "tensors")
_POOL = ("input", "kernel_size", "stride", "padding")

#: by function, the parameters in the order of positional arguments; after "*" by name alone
PARAMETERS: dict[str, tuple[str, ...]] = {
    "add": ("input", "other", "*", "alpha", "out"),
    "sub": ("input", "other", "*", "alpha", "out"),
    "mul": ("input", "other", "*", "out"),
    "div": ("input", "other", "*", "rounding_mode", "out"),
    "cat": ("tensors", "dim", "*", "out"),
    "flatten": ("input", "start_dim", "end_dim"),
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
#: other names that torch takes for the same
_SAME = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x1": "input", "x2": "other"}
#: what is left out of a step, because these values change nothing in a network whose steps each
#: make a new tensor; any other value of the last four is refused
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
    """input + alpha · other."""
    return operator.add(input, other) if alpha == 1 else torch.add(input, other, alpha=alpha)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input − alpha · other."""
    return operator.sub(input, other) if alpha == 1 else torch.sub(input, other, alpha=alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other, rounded to whole numbers if asked."""
    if rounding_mode is None:
        return operator.truediv(input, other)
    return torch.div(input, other, rounding_mode=rounding_mode)


def bind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a function of `PARAMETERS` by the names of its parameters.

    Raises:
        ValueError: an argument that the function doesn't have, or one that is given twice.
    """
    names = PARAMETERS[name]
    positional = names[: names.index("*")] if "*" in names else names
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
    """The arguments of a step: the tensors first, and nothing that makes no difference there.

    Args:
        is_result: tells the result of an earlier step from other values.

    Raises:
        ValueError: an argument that a step can't keep, by name.
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
    row = []  # what was given without a name stays so, up to the first that is left out
    for key in [key for key in PARAMETERS[name][: len(args)] if key not in TENSORS]:
        if key not in bound:
            break
        row.append(bound.pop(key))
    tensors = [bound.pop(key) for key in TENSORS if key in bound]
    return (*tensors, *row), bound


def layer_arguments(
    kind: type[nn.Module], path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a layer: its input, and the size that a transposed one is to give.

    Raises:
        ValueError: others.
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


def _shown(value: Any) -> str:
    return repr(getattr(value, "name", value))
