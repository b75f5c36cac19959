"""Checkpoints: one safetensors file with its JSON and a digest in the header, replaced atomically.

A process that is killed at any moment leaves the old file, the new one, or both; a file that was
cut off or changed afterwards is told by its digest.
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

#: where the header of a file has the digest, so many hex digits of SHA-256, and then the JSON
_HEADER, _DIGITS = "digest and json", 64


class Damaged(ValueError):
    """A file that was cut off or changed after it was written."""


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any] | None = None,
    *,
    keep_previous: bool = False,
) -> None:
    """Write `tensors` with the JSON-able `meta`; an existing file stays whole until the new one
    is complete. Tensors that share storage are written separately. Of several ranks, the first
    does so.

    Args:
        keep_previous: keep the file that is there now beside the new one, for `load_latest`.

    Raises:
        OSError: as `replacing`.
    """
    if not is_first():
        return
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps(dict(meta or {}))
    # one entry: safetensors writes several in an order that differs from process to process
    header = {_HEADER: _digest(copies, text) + text}
    with replacing(path, previous=_previous(path) if keep_previous else None) as temporary:
        save_file(copies, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, or any other safetensors file, which has no digest.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, a named pipe or a device.
        Damaged: the file is not one, was cut off, or is not what was written.
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
    """Put the weights of a file into a network, each as it is: `load_state_dict` would cast numbers
    of another type in silence, and leave another network than the file's.

    Raises:
        ValueError: names, shapes or types that do not fit.
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
    except RuntimeError as error:  # names or shapes that do not fit, listed by torch
        said = " ".join(str(error).split())
        raise ValueError(f"{source} does not fit the network: {said}") from error


def load_latest(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_tensors(..., keep_previous=True)` wrote last; where that is damaged, the one
    before, with a warning, which then takes its place. None where there is neither.

    Raises:
        Damaged: both are.
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
        found = load_tensors(previous)  # killed between the two moves of `replacing`
    os.replace(previous, path)
    return found


def forget(path: Path) -> None:
    """Remove what `save_tensors(..., keep_previous=True)` wrote, if it is there. The file before
    the last one goes too: left alone, a training that begins again would be taken up from it."""
    for file in (_previous(path), path):
        file.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of everything that a file says: names, types, shapes, values and JSON."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"\0{name}\0torch.{kind_of(tensors[name])}\0".encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as tensors named "<parameter index>.<key>"."""
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
