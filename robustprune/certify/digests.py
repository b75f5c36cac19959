"""SHA-256 of files and of tensors, the same on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from robustprune.run.files import plain_file

#: bytes of a file that are read at a time
_PART = 2**20


def file_digest(path: Path) -> str:
    """Of a file's bytes, 64 hex digits.

    Raises:
        FileNotFoundError, ValueError: as `plain_file`.
    """
    digest = hashlib.sha256()
    with plain_file(path).open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def tensor_digest(*tensors: Tensor) -> str:
    """Of each tensor's dtype, shape and values in order, little-endian, wherever they lie."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{values.dtype.name}{values.shape}".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
