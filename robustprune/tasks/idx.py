"""Read LeCun's idx files of bytes, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustprune.run.files import check_memory, plain_file

_BYTES = 8  # the number of the type unsigned byte


def read_idx(path: Path, *, dims: int, within: Path) -> npt.NDArray[np.uint8]:
    """Return the uint8 array of an idx file, which must have `dims` dimensions.

    Args:
        within: as in `run.files.plain_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format, the type or the number of dimensions is another one, the file has
            more or fewer bytes than its header says, or the array would take more than
            `run.files.memory_limit`.
    """
    size, begins = plain_file(path, within=within).stat().st_size, 4 + 4 * dims
    with open(path, "rb") as file:
        head = file.read(begins)
        if len(head) < begins or head[:2] != b"\0\0":
            raise ValueError(f"{path.name} is no idx file of {dims} dimensions")
        if (head[2], head[3]) != (_BYTES, dims):
            raise ValueError(
                f"{path.name} holds values of type {head[2]} in {head[3]} dimensions, not unsigned "
                f"bytes (type {_BYTES}) in {dims}"
            )
        shape = struct.unpack(f">{dims}I", head[4:])
        if math.prod(shape) != size - begins:
            raise ValueError(
                f"{path.name} promises {math.prod(shape)} values of shape {shape} and holds "
                f"{size - begins}"
            )
        check_memory(4 * (size - begins), f"{path.name}: its values as float32", held=size)
        values: npt.NDArray[np.uint8] = np.empty(shape, dtype=np.uint8)
        values.reshape(-1)[:] = np.frombuffer(file.read(), dtype=np.uint8)
        return values
