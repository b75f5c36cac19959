"""Read weights from a file of the user and give them to a network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from attacks.network import unwrapped
from robustprune.pipeline.wording import few, said
from robustprune.run.files import check_memory, plain_file

#: the prefixes that wrappers add to the names of the network inside
_WRAPPERS = ("module.", "_orig_mod.")
#: the names under which checkpoints of training loops keep the weights
_NESTED = ("state_dict", "model_state_dict", "model", "net")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary: safetensors, or what `torch.save(model.state_dict(), path)` wrote.

    A file of `torch.save` is read with `weights_only=True`, by which no code runs. Where it is a
    larger checkpoint, the weights under state_dict, model_state_dict, model or net are taken. The
    prefixes `_orig_mod.` or `module.` of `torch.compile` and `DataParallel` are removed.

    Raises:
        ValueError: the file is of another kind, has more than plain tensors, or is too large.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no state file {path}")
    try:
        tensors = load_file(path) if is_safetensors(path) else _torch_state(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is neither a safetensors file nor one of torch.save ({said(error)}); write "
            "the weights with safetensors.torch.save_model(model, path)"
        ) from error
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def is_safetensors(path: Path) -> bool:
    """Return whether a file is not one of torch.save; `read_state` says if it is neither."""
    with plain_file(path).open("rb") as file:
        return file.read(2) != b"PK"


def state_bytes(model: nn.Module) -> bytes:
    """Return a network's weights as a safetensors file, with tied weights once. The same weights
    give the same bytes."""
    kept: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, value in unwrapped(model).state_dict().items():
        if isinstance(value, Tensor) and (value.data_ptr(), value.shape) not in seen:
            kept[name] = value.detach().cpu().contiguous()
            if value.numel():
                seen.add((value.data_ptr(), value.shape))
    return save(kept)


def _torch_state(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        check_memory(size, f"{path}: its content", held=path.stat().st_size)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # torch raises errors of many kinds for a damaged or other file
        raise ValueError(
            f"{path} cannot be read as plain tensors ({said(error).partition('. ')[0]}); save the "
            "weights alone, with torch.save(model.state_dict(), path) or "
            "safetensors.torch.save_model(model, path)"
        ) from error
    inner = [found[key] for key in _NESTED if key in found] if isinstance(found, Mapping) else []
    for state in (found, *inner):
        if _is_state(state):
            return dict(state)
    held = few(list(map(str, found))) if isinstance(found, Mapping) else type(found).__name__
    raise ValueError(f"{path} holds {held}, and no state dictionary: names and their tensors")


def _is_state(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    )


def take_state(model: nn.Module, tensors: Mapping[str, Tensor], source: Path, named: str) -> None:
    """Give a network the tensors of a file, without a cast. Tied weights may be there once.

    Raises:
        ValueError: names, shapes or dtypes do not fit; the message names a few of them.
    """
    network = unwrapped(model)
    own = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    problems = _misfits(own, tensors)
    if not problems:
        try:
            missing, unknown = network.load_state_dict(tensors, strict=False)
        except Exception as error:  # a network may load its weights by code of its own
            raise ValueError(f"{source} does not fit {named}: {said(error)}") from error
        missing = [name for name in missing if not _tied(name, own, tensors)]
        problems = _names(missing, unknown, of=len(own))
    if problems:
        raise ValueError(f"{source} does not fit {named}: {'; '.join(problems)}")


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Describe tensors of both whose shapes or dtypes differ."""
    both = [name for name in own if name in tensors]
    wrong = [n for n in both if own[n].shape != tensors[n].shape]
    cast = [n for n in both if own[n].dtype != tensors[n].dtype]
    problems = []
    if wrong:
        first = wrong[0]
        problems.append(
            f"{len(wrong)} of {len(own)} tensors have another shape ({few(wrong)}): {first} is "
            f"{tuple(own[first].shape)}, the file's {tuple(tensors[first].shape)}"
        )
    if cast:
        first = cast[0]
        problems.append(
            f"{len(cast)} of {len(own)} tensors hold another type of numbers ({few(cast)}): "
            f"{first} is {own[first].dtype}, the file's {tensors[first].dtype}, which would be "
            "rounded; convert one of the two first, as in model.half()"
        )
    return problems


def _names(missing: Sequence[str], unknown: Sequence[str], *, of: int) -> list[str]:
    problems = []
    if missing:
        problems.append(f"the file lacks {len(missing)} of {of} tensors ({few(missing)})")
    if unknown:
        problems.append(f"it has {len(unknown)} that the network lacks ({few(unknown)})")
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
