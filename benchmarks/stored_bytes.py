"""How many bytes a network has as a file: zeros as a bit mask, few bits as packed codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustprune.deploy import round_weights
from robustprune.run.checkpoint import load_tensors, save_tensors

#: layers whose weights `round_weights` rounds, here without transposed convolutions
_ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d)


def stored_bytes(model: nn.Module, path: Path, *, bits: int | None = None) -> int:
    """Write the weights of a network, read them back, and return the size of the file.

    The weights of linear and convolution layers are float32, or whole numbers of 8 or 4 bits with
    a scale for each output channel. Where it is smaller, a bit for each weight says which ones are
    not zero, and only these are written. Everything else is written as it is. A weight that two
    layers share is written once.

    Args:
        bits: 8, 4, or None for float32.

    Raises:
        ValueError: what is read back is not the network (for bits, that of `round_weights`).
    """
    state, wanted = model.state_dict(), (round_weights(model, bits) if bits else model).state_dict()
    places = {name: value.data_ptr() for name, value in state.items()}
    rounded = {
        places[f"{name}.weight" if name else "weight"]
        for name, layer in model.named_modules()
        if isinstance(layer, _ROUNDED)
    }
    first = {place: name for name, place in reversed(places.items())}
    parts: dict[str, Tensor] = {}
    for place, name in first.items():
        if place in rounded:
            parts |= {f"{name}/{key}": part for key, part in _packed(state[name], bits).items()}
        else:
            parts[name] = state[name].clone()
    save_tensors(path, parts)
    found = load_tensors(path)[0]
    for name, value in wanted.items():
        place = places[name]
        stored = first[place]
        mine = _unpacked(found, stored, value, bits) if place in rounded else found[stored]
        if not torch.equal(mine, value):
            raise ValueError(f"{name} is not what was stored")
    return path.stat().st_size


def _packed(weight: Tensor, bits: int | None) -> dict[str, Tensor]:
    flat = weight.reshape(len(weight), -1)
    found: dict[str, Tensor] = {}
    if bits is None:
        values = flat.flatten()
    else:
        found["scale"] = step = _steps(flat, bits)
        values = (flat / step).round().to(torch.int8).flatten()
    kept = values != 0
    size = values.element_size() * 8 if bits is None else bits
    if len(values) + size * int(kept.sum()) < size * len(values):
        found["mask"] = torch.from_numpy(np.packbits(kept.numpy()))
        values = values[kept]
    found["values"] = _nibbles(values) if bits == 4 else values.clone()
    return found


def _unpacked(parts: dict[str, Tensor], name: str, like: Tensor, bits: int | None) -> Tensor:
    values, number = parts[f"{name}/values"], like.numel()
    mask = parts.get(f"{name}/mask")
    if mask is not None:
        kept = torch.from_numpy(np.unpackbits(mask.numpy(), count=number).astype(bool))
    else:
        kept = torch.ones(number, dtype=torch.bool)
    if bits == 4:
        values = _from_nibbles(values, int(kept.sum()))
    whole = torch.zeros(number, dtype=values.dtype)
    whole[kept] = values
    rows = whole.view(len(like), -1)
    return (rows if bits is None else rows * parts[f"{name}/scale"]).view_as(like)


def _steps(rows: Tensor, bits: int) -> Tensor:
    step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, step, 1.0)


def _nibbles(codes: Tensor) -> Tensor:
    """Two codes from −8 to 7 in a byte."""
    unsigned = (codes + 8).to(torch.uint8)
    if len(unsigned) % 2:
        unsigned = torch.cat([unsigned, unsigned.new_zeros(1)])
    return unsigned[::2] * 16 + unsigned[1::2]


def _from_nibbles(packed: Tensor, number: int) -> Tensor:
    pairs = torch.stack([packed // 16, packed % 16], dim=1).flatten()[:number]
    return pairs.to(torch.int8) - 8
