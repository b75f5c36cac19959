"""Checkpoints: safetensors files with JSON and a digest in the header, replaced atomically.

A process that is killed at any moment leaves the old file, the new one, or both. The digest shows
if a file was cut off or changed later.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustprune.run.atomic import replacing as replacing
from robustprune.run.atomic import write_atomically as write_atomically
from robustprune.run.content import bytes_of, kind_of
from robustprune.run.files import plain_file
from robustprune.run.runtime import is_first
from robustprune.run.terminal import shown

#: the field of the header with the digest (this number of hex digits of SHA-256) and the JSON
_HEADER, _DIGITS = "digest and json", 64


class Damaged(ValueError):
    """A file was cut off or changed after it was written."""


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any] | None = None,
    *,
    keep_previous: bool = False,
) -> None:
    """Write `tensors`, with `meta` as JSON. An existing file stays whole until the new one is
    complete. Tensors that share storage are written separately. Of several ranks, only the first
    writes.

    Args:
        keep_previous: whether the present file is kept beside the new one, for `load_latest`.

    Raises:
        OSError: as in `replacing`.
    """
    if not is_first():
        return
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps(dict(meta or {}))
    # a single entry, because safetensors writes several in an order that is not fixed
    header = {_HEADER: _digest(copies, text) + text}
    with replacing(path, previous=_previous(path) if keep_previous else None) as temporary:
        save_file(copies, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`, or any other safetensors file, which has no digest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, a named pipe or a device.
        Damaged: it is no safetensors file, was cut off, or is not what was written.
    """
    plain_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = (file.metadata() or {}).get(_HEADER)
        if header is None:
            return tensors, {}
        text = header[_DIGITS:]
        if header[:_DIGITS] != _digest(tensors, text):
            raise ValueError("its content is not what was written: the digest differs")
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError("its JSON is no mapping")
    except (SafetensorError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({shown(error)}); delete it to start over") from error
    return tensors, meta


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load the weights of a file into a network without a cast. `load_state_dict` would silently
    cast numbers of another dtype, and the network would differ from the file.

    Raises:
        ValueError: names, shapes or dtypes do not fit.
    """
    for name, own in model.state_dict().items():
        if name in state and state[name].dtype != own.dtype:
            kinds = (str(tensor.dtype).removeprefix("torch.") for tensor in (state[name], own))
            stored, needed = kinds
            raise ValueError(
                f"{source}: {name!r} is {stored}, and the network's is {needed}; convert the "
                "weights, or the network, before they are saved"
            )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # torch lists names and shapes that do not fit
        said = " ".join(str(error).split())
        raise ValueError(f"{source} does not fit the network: {said}") from error


def load_latest(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the last file of `save_tensors(..., keep_previous=True)`. If it is damaged, a warning is
    given and the one before it is read and takes its place. Return None if there is neither.

    Raises:
        Damaged: both files are damaged.
    """
    previous = _previous(path)
    try:
        if path.exists():
            return load_tensors(path)
    except Damaged as error:
        if not previous.exists():
            raise
        found = load_tensors(previous)
        reason = str(error).removesuffix("; delete it to start over")
        warnings.warn(f"{reason}; going on from the checkpoint before it", stacklevel=2)
    else:
        if not previous.exists():
            return None
        found = load_tensors(previous)  # killed between two renames
    os.replace(previous, path)
    return found


def forget(path: Path) -> None:
    """Remove the files of `save_tensors(..., keep_previous=True)` if they exist. The previous file
    is removed, too, because a new training would otherwise continue from it."""
    for file in (_previous(path), path):
        file.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of the whole content: names, dtypes, shapes, values and JSON."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"\0{name}\0torch.{kind_of(tensors[name])}\0".encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state per parameter as tensors with names "<parameter index>.<key>"."""
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore a result of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
