"""Load the user's own network by its name, give it its weights, and try it on the data."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from attacks.network import logits_of, unwrapped
from robustprune.run.suggest import did_you_mean

#: the largest numbers of names in an error, and of characters of another message that it repeats
_NAMED, _ECHO = 4, 200
#: the prefixes that wrappers add to the names of the network inside
_WRAPPERS = ("module.", "_orig_mod.")
#: layouts that are tried if a network does not accept the examples: (dimensions, what, how)
_LAYOUTS: tuple[tuple[int, str, Callable[[Tensor], Tensor]], ...] = (
    (2, "with a channel, x[:, None]", lambda x: x[:, None]),
    (3, "with a channel, x[:, None]", lambda x: x[:, None]),
    (3, "without the channel, x[:, 0]", lambda x: x[:, 0]),
    (3, "with the channels first, x.transpose(0, 2, 1)", lambda x: x.transpose(1, 2)),
    (4, "with the channels first, x.transpose(0, 3, 1, 2)", lambda x: x.permute(0, 3, 1, 2)),
    (3, "flat, x.reshape(len(x), -1)", lambda x: x.flatten(1)),
    (4, "flat, x.reshape(len(x), -1)", lambda x: x.flatten(1)),
)


def load_network(named: str, state: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Call `package.module:function` and return its network with the weights of a file.

    The module is imported, which runs its code, so name only what you would run. It is searched in
    the current folder first. The function is called without arguments.

    Args:
        state: a safetensors file of a state dictionary. The prefixes `_orig_mod.` or `module.` of
            `torch.compile` and `DataParallel` are removed from its names.

    Raises:
        ValueError: there is no such module or function; the function needs arguments, fails or
            returns no network; or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    module, colon, function = named.partition(":")
    if not colon or not module or not function:
        raise ValueError(
            f"{named[:_ECHO]!r} is not of the form package.module:function, such as nets:build"
        )
    if not state.is_file():
        raise FileNotFoundError(f"there is no state file {state}")
    build = _function(_imported(module, function), function)
    model = _built(build, named, function)
    _take_weights(unwrapped(model), state, named)
    return model.to(device).eval()


def check_fits(model: nn.Module, x: Tensor, y: Tensor, named: str) -> None:
    """Try the network on a few examples, so that errors are found before any attack.

    Args:
        x: (N, ...), y: (N,); on the model's device.

    Raises:
        ValueError: the network fails on such examples (the message names a layout that works), does
            not return logits (N, C) with C ≥ 2, or has fewer classes than the labels.
    """
    few = x[:3]
    logits = _tried(model, few)
    if isinstance(logits, Exception):
        taken = (
            what
            for dimensions, what, arranged in _LAYOUTS
            if x.ndim == dimensions and _classes(_tried(model, arranged(few)), len(few))
        )
        hint = next((f"; it takes them {what}: save the array so" for what in taken), "")
        raise ValueError(
            f"{named} cannot take examples of shape {tuple(x.shape[1:])} and type "
            f"{str(x.dtype).removeprefix('torch.')}{hint} ({_said(logits)})"
        ) from logits
    classes = _classes(logits, len(few))
    if not classes:
        raise ValueError(
            f"{named} returned shape {tuple(logits.shape)} for {len(few)} examples; it must return "
            "(N, C) logits, a column a class, at least two"
        )
    if int(y.max()) >= classes:
        raise ValueError(
            f"the labels go up to {int(y.max())}, but {named} has {classes} classes, 0 to "
            f"{classes - 1}"
        )


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
            raise ValueError(f"cannot import {module}: {_said(error)}{near}") from error


def _function(module: ModuleType, name: str) -> Callable[[], Any]:
    found: Callable[[], Any] | None = getattr(module, name, None)
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
        f"{_few(own) or 'none'}"
    )


def _built(build: Callable[[], Any], named: str, function: str) -> nn.Module:
    needed = _needed(build)
    if needed:
        given = ", ".join(f"{name}=..." for name in needed)
        raise ValueError(
            f"{named} needs {'arguments' if len(needed) > 1 else 'an argument'}: "
            f"{', '.join(needed)}; name a function without any, such as "
            f"def build(): return {function}({given})"
        )
    try:
        model = build()
    except Exception as error:  # somebody else's code
        raise ValueError(f"{named} failed: {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{named} returned {type(model).__name__}; it must return an nn.Module")
    return model


def _needed(build: Callable[..., Any]) -> list[str]:
    """Return the arguments that a call needs."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # of a built-in without a signature
        return []
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in many]


def _take_weights(network: nn.Module, state: Path, named: str) -> None:
    try:
        tensors = load_file(state)
    except SafetensorError as error:
        raise ValueError(
            f"{state} is no safetensors file ({_said(error)}); write the weights with "
            "safetensors.torch.save_model(model, path), those of a .pt file, too: it is a pickle, "
            "which is not opened here"
        ) from error
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    own = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    problems = _misfits(own, tensors)
    if not problems:
        try:
            missing, unknown = network.load_state_dict(tensors, strict=False)
        except Exception as error:  # a network may load its weights by code of its own
            raise ValueError(f"{state} does not fit {named}: {_said(error)}") from error
        missing = [name for name in missing if not _tied(name, own, tensors)]
        problems = _names(missing, unknown, of=len(own))
    if problems:
        raise ValueError(f"{state} does not fit {named}: {'; '.join(problems)}")


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Describe tensors of both whose shapes or dtypes differ."""
    both = [name for name in own if name in tensors]
    wrong = [n for n in both if own[n].shape != tensors[n].shape]
    cast = [n for n in both if own[n].dtype != tensors[n].dtype]
    problems = []
    if wrong:
        first = wrong[0]
        problems.append(
            f"{len(wrong)} of {len(own)} tensors have another shape ({_few(wrong)}): {first} is "
            f"{tuple(own[first].shape)}, the file's {tuple(tensors[first].shape)}"
        )
    if cast:
        first = cast[0]
        problems.append(
            f"{len(cast)} of {len(own)} tensors hold another type of numbers ({_few(cast)}): "
            f"{first} is {own[first].dtype}, the file's {tensors[first].dtype}, which would be "
            "rounded; convert one of the two first, as in model.half()"
        )
    return problems


def _names(missing: Sequence[str], unknown: Sequence[str], *, of: int) -> list[str]:
    problems = []
    if missing:
        problems.append(f"the file lacks {len(missing)} of {of} tensors ({_few(missing)})")
    if unknown:
        problems.append(f"it has {len(unknown)} that the network lacks ({_few(unknown)})")
    pairs = ((m, u) for m in missing for u in unknown if u.endswith(f".{m}"))
    if missing and (pair := next(pairs, None)):
        prefix = pair[1].removesuffix(pair[0])
        problems.append(f"take {prefix!r} off the file's names")
    return problems


def _tied(name: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the file has a missing tensor under the name of another, tied one."""
    one = own.get(name)
    return one is not None and any(
        other in tensors
        and value.data_ptr() == one.data_ptr()
        and value.shape == one.shape
        and value.numel() > 0
        for other, value in own.items()
    )


def _few(names: Sequence[str]) -> str:
    more = f", ... {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name[:60] for name in names[:_NAMED]) + more


def _said(error: BaseException) -> str:
    said = " ".join(str(error).split())
    kind = "" if isinstance(error, ImportError | ValueError) and said else type(error).__name__
    text = f"{kind}: {said}" if kind and said else kind or said
    return text if len(text) <= _ECHO else f"{text[:_ECHO]}..."


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Import from the current folder first, as `python script.py` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
