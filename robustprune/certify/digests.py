"""SHA-256 of files and of tensors, the same on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor


def file_digest(path: Path) -> str:
    """Of a file's bytes, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensor_digest(*tensors: Tensor) -> str:
    """Of each tensor's dtype, shape and values in order, little-endian, wherever they lie."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{values.dtype.name}{values.shape}".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
