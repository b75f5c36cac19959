"""Build the user's own network by the name of a function, and try it on the data."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attacks.network import logits_of
from robustprune.pipeline.own_state import read_state, take_state
from robustprune.pipeline.wording import ECHO, few, said
from robustprune.run.suggest import did_you_mean

_SAVE, _FLAT = "save the array so", "set the option layout to flat"
_LAST = "set the option layout to channels_last"
#: layouts that are tried if a network does not take the examples: (dimensions, what, advice, how)
_LAYOUTS: tuple[tuple[int, str, str, Callable[[Tensor], Tensor]], ...] = (
    (2, "with a channel, x[:, None]", _SAVE, lambda x: x[:, None]),
    (3, "flat, x.reshape(len(x), -1)", _FLAT, lambda x: x.flatten(1)),
    (4, "flat, x.reshape(len(x), -1)", _FLAT, lambda x: x.flatten(1)),
    (3, "with a channel, x[:, None]", _SAVE, lambda x: x[:, None]),
    (3, "with the channels first, x.transpose(0, 2, 1)", _LAST, lambda x: x.transpose(1, 2)),
    (4, "with the channels first, x.transpose(0, 3, 1, 2)", _LAST, lambda x: x.movedim(3, 1)),
)


def call_function(named: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Call `package.module:function` with `options` as its arguments and return its network.

    The module is imported, which runs its code, so name only what you would run. It is searched in
    the current folder first.

    Raises:
        ValueError: there is no such module or function; the function needs other arguments, fails
            or returns no network.
    """
    module, colon, function = named.partition(":")
    if not colon or not module or not function:
        name = repr(named[:ECHO])
        hint = (
            "; a file of weights belongs behind --state, beside the function that builds it"
            if len(named) <= ECHO and Path(named).is_file()
            else ""
        )
        raise ValueError(
            f"{name} is not of the form package.module:function, such as nets:build{hint}"
        )
    build = _function(_imported(module, function), function)
    return _built(build, named, dict(options or {}))


def load_network(
    named: str,
    state: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Call `package.module:function` and return its network with the weights of a file, in eval
    mode.

    Args:
        named, options: as in `call_function`.
        state: a file as in `own_state.read_state`; None for the weights that the function gives.

    Raises:
        ValueError: as in `call_function` and `read_state`, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    if state is not None and not state.is_file():
        raise FileNotFoundError(f"there is no state file {state}")
    model = call_function(named, options)
    if state is not None:
        take_state(model, read_state(state), state, named)
    return model.to(device).eval()


def check_fits(model: nn.Module, x: Tensor, y: Tensor, named: str) -> None:
    """Try the network on a few examples, so that errors are found before any attack.

    Args:
        x: (N, ...), y: (N,); on the model's device.

    Raises:
        ValueError: the network fails on such examples (the message names a layout that works), does
            not return logits (N, C) with C ≥ 2, or has fewer classes than the labels.
    """
    three = x[:3]
    logits = _tried(model, three)
    classes = _classes(logits, len(three))
    if not classes:
        hints = (
            f"; it takes them {what}: {advice}"
            for dimensions, what, advice, arranged in _LAYOUTS
            if x.ndim == dimensions and _classes(_tried(model, arranged(three)), len(three))
        )
        hint = next(hints, "")
        if not isinstance(logits, Exception):
            raise ValueError(
                f"{named} returned shape {tuple(logits.shape)} for {len(three)} examples of shape "
                f"{tuple(x.shape[1:])}; it must return (N, C) logits, a column a class, at least "
                f"two{hint}"
            )
        raise ValueError(
            f"{named} cannot take examples of shape {tuple(x.shape[1:])} and type "
            f"{str(x.dtype).removeprefix('torch.')}{hint} ({said(logits)})"
        ) from logits
    if int(y.max()) >= classes:
        raise ValueError(
            f"the labels go up to {int(y.max())}, but {named} has {classes} classes, 0 to "
            f"{classes - 1}"
        )


def code_digest(named: str) -> str:
    """Return 16 hex digits of the code in the module of a function, whatever its comments say.

    Other modules that it imports are not read.

    Raises:
        ValueError: as in `call_function`.
    """
    module, _, function = named.partition(":")
    file = getattr(_imported(module, function), "__file__", None)
    if file is None or not Path(file).is_file():
        return ""
    content = Path(file).read_bytes()
    if file.endswith(".py"):
        content = ast.dump(ast.parse(content)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _tried(model: nn.Module, x: Tensor) -> Tensor | Exception:
    try:
        with torch.no_grad():
            return logits_of(model, x)
    except Exception as error:  # the user's code may raise anything
        return error


def _classes(logits: Tensor | Exception, n: int) -> int:
    """Return C of logits (n, C), or 0 for anything else."""
    if isinstance(logits, Exception) or logits.ndim != 2 or len(logits) != n:
        return 0
    return logits.shape[1] if logits.shape[1] > 1 else 0


def _imported(module: str, function: str) -> ModuleType:
    with _current_folder_first():
        try:
            return importlib.import_module(module)
        except (Exception, SystemExit) as error:  # its code runs and may raise anything
            here = [path.stem for path in Path.cwd().glob("*.py")]
            near = did_you_mean(module, here)
            if module.endswith(".py") or "/" in module:
                dotted = module.removesuffix(".py").strip("./").replace("/", ".")
                near = f" (a module is named without .py and with dots: '{dotted}:{function}')"
            elif not isinstance(error, ModuleNotFoundError) or error.name != module:
                near = ""
            raise ValueError(f"cannot import {module}: {said(error)}{near}") from error


def _function(module: ModuleType, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(module, name, None)
    if isinstance(found, nn.Module):
        raise ValueError(f"{module.__name__}:{name} is a network; name a function that returns one")
    if callable(found):
        return found
    own = [
        key
        for key, value in vars(module).items()
        if callable(value)
        and not key.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    raise ValueError(
        f"module {module.__name__} has no function {name!r}{did_you_mean(name, own)}; it has "
        f"{few(own) or 'none'}"
    )


def _built(build: Callable[..., Any], named: str, options: dict[str, Any]) -> nn.Module:
    _check_arguments(build, named, options)
    try:
        model = build(**options)
    except Exception as error:  # somebody else's code
        raise ValueError(f"{named} failed: {said(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{named} returned {type(model).__name__}; it must return an nn.Module")
    return model


def _check_arguments(build: Callable[..., Any], named: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the function does not take, and those that it needs and lacks."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):  # of a built-in without a signature
        return
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = [p.name for p in parameters.values() if p.kind not in many]
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in options if name not in taken and not anything]
    if unknown:
        raise ValueError(
            f"{named} has no argument '{unknown[0]}'{did_you_mean(unknown[0], taken)}; it has "
            f"{few(taken) or 'none'}; model.options are its arguments"
        )
    needed = [n for n in taken if parameters[n].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in options]
    if missing:
        given = ", ".join(f"{name}: ..." for name in missing)
        raise ValueError(
            f"{named} needs {'arguments' if len(missing) > 1 else 'an argument'}: "
            f"{', '.join(missing)}; give --set 'model.options={{{given}}}', or name a function "
            "without any"
        )


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Import from the current folder first, as `python script.py` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
