"""SHA-256 of the content of files and tensors, which is the same on every machine and device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.run.files import plain_file

#: the number of bytes of a file that are read at a time
_PART = 2**20


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes, 64 hex digits.

    Raises:
        FileNotFoundError, ValueError: as in `plain_file`.
    """
    digest = hashlib.sha256()
    with plain_file(path).open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def tensor_digest(*tensors: Tensor) -> str:
    """Return the digest of each tensor's dtype, shape and values in order, 64 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(kind_of(tensor).encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def kind_of(tensor: Tensor) -> str:
    """Return dtype and shape, such as "float32(3, 4)"."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"


def bytes_of(tensor: Tensor) -> Any:
    """Return the values, row by row, as a buffer of bytes."""
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    plain = dense.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""
