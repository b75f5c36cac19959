"""Describe the arguments of a call as plain text that another process can compare.

A checkpoint stores this text, so that no call with other arguments continues from it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustprune.run.content import bytes_of, kind_of

#: the value of each option of a call, as text
Call = Mapping[str, str]

#: of larger tensors that are no weights, only this number of evenly spaced entries is used
_LOOKED_AT = 2**24
#: fields that do not change the result of a call
_NOT_ASKED = ("history", "on_selection", "on_epoch")
_SHOWN = 120  # largest number of characters of a value in a message


def described(value: Any, *, digests: bool = True, depth: int = 8) -> str:
    """Describe a value as text, which is the same in every process and differs for another value.

    Numbers, texts and collections are written out. Tensors and networks are replaced by a digest of
    their content. A dataclass or other object is described by its type and those options of its
    constructor that it stores under the same names; a function by its qualified name, its defaults
    and its closure; a loader by its length, its batch size and, if they are in memory, its
    examples.

    Args:
        digests: whether tensors are described by their content, or only by their shape.
        depth: how many levels of nested values are described.
    """
    if depth == 0:
        return type(value).__qualname__
    tell = functools.partial(described, digests=digests, depth=depth - 1)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Path):
        return str(value) if isinstance(value, Path) else repr(value)
    if isinstance(value, Tensor):
        return _tensor(value, digests)
    if isinstance(value, torch.dtype | torch.device | type):
        return str(value) if not isinstance(value, type) else value.__qualname__
    if isinstance(value, nn.Module):
        return f"network {digest_of(value)}" if digests else "network"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {tell(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(tell, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(tell, value)))}}}"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy number
        return repr(value.item())
    if isinstance(value, functools.partial):
        return f"partial {tell((value.func, value.args, value.keywords))}"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {tell(value.__self__)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return _function(value, tell)
    if isinstance(value, DataLoader):
        return _loader(value, tell)
    return _object(value, tell)


def digest_of(model: nn.Module) -> str:
    """Return the digest of the network's state: names, dtypes, shapes and values."""
    total, state = hashlib.sha256(), model.state_dict()
    for name, value in state.items():
        if name.endswith(".mask") and value.dtype == torch.bool:
            # older files have digests of masks with the dtype of the masked weight
            value = value.to(state.get(f"{name.rsplit('.', 2)[0]}.original", value).dtype)
        if isinstance(value, Tensor):
            total.update(f"\0{name}\0torch.{kind_of(value)}".encode())
            total.update(bytes_of(value))
        else:
            total.update(f"\0{name}\0{value}".encode())
    return total.hexdigest()[:16]


def _start_of_difference(old: str, new: str) -> int:
    """Return where to start in showing two texts: a little before they differ, if they are long."""
    if max(len(old), len(new)) <= _SHOWN:
        return 0
    pairs = enumerate(zip(old, new, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    return 0 if same <= _SHOWN // 2 else old.rfind(" ", 0, same - _SHOWN // 4) + 1


def _shown(text: str, start: int) -> str:
    end = start + _SHOWN
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def check_same_call(path: Path, there: Call | None, here: Call) -> None:
    """Raise a ValueError if the file at `path` belongs to another call, or doesn't say to which."""
    if there is None:
        raise ValueError(
            f"{path} does not say of which call it is, because an older version wrote it, and "
            "cannot be continued; delete it to start over, or give another file"
        )
    differing = [n for n in dict.fromkeys([*here, *there]) if here.get(n) != there.get(n)]
    if differing:
        name, *others = differing
        old, new = there.get(name, "not given"), here.get(name, "not given")
        start = _start_of_difference(old, new)
        too = f"; different, too: {', '.join(others)}" if others else ""
        raise ValueError(
            f"{path} is of another call: {name} is {_shown(old, start)} there and "
            f"{_shown(new, start)} here{too}; delete it to start over, or give another file"
        )


def _tensor(value: Tensor, digests: bool) -> str:
    shape = kind_of(value)
    if not digests:
        return shape
    if value.numel() == 1:
        return f"{shape} {value.item()!r}"
    flat = value.detach().reshape(-1)
    step = -(-flat.numel() // _LOOKED_AT) or 1
    return f"{shape} {hashlib.sha256(bytes_of(flat[::step])).hexdigest()[:16]}"


def _function(value: Any, tell: Any) -> str:
    """Describe a function by its name and the values that distinguish functions of the same
    name."""
    parts = [f"{getattr(value, '__module__', '')}.{value.__qualname__}"]
    parts += [tell(default) for default in getattr(value, "__defaults__", None) or ()]
    for cell in getattr(value, "__closure__", None) or ():
        try:
            parts.append(tell(cell.cell_contents))
        except ValueError:  # the cell is empty
            continue
    return parts[0] if len(parts) == 1 else f"{parts[0]}({', '.join(parts[1:])})"


def _loader(loader: DataLoader[Any], tell: Any) -> str:
    data = loader.dataset
    held = tell(data.tensors) if isinstance(data, TensorDataset) else type(data).__qualname__
    try:
        number: int | None = len(data)  # type: ignore[arg-type]
    except TypeError:
        number = None
    return (
        f"DataLoader(batch_size={loader.batch_size}, drop_last={loader.drop_last}, "
        f"sampler={type(loader.sampler).__qualname__}, {number} examples, {held})"
    )


def _object(value: Any, tell: Any) -> str:
    kind = type(value).__qualname__
    if dataclasses.is_dataclass(value):
        names: Iterable[str] = [f.name for f in dataclasses.fields(value) if f.init]
    else:
        try:
            names = inspect.signature(type(value)).parameters
        except (ValueError, TypeError):  # the type has no signature
            names = ()
    held = vars(value) if hasattr(value, "__dict__") else {}
    options = [
        f"{name}={tell(getattr(value, name))}"
        for name in names
        if name not in _NOT_ASKED and (name in held or dataclasses.is_dataclass(value))
    ]
    if hasattr(value, "__iter__") and hasattr(value, "__len__"):
        options.append(f"{len(value)} batches")
    return f"{kind}({', '.join(options)})"
