"""Keep the layers that are solved, so that a process that was killed goes on behind them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from robustprune.minmax import Checkpoint, EpochRecord
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.fingerprint import check_same_call
from robustprune.run.runtime import is_first


class Solved:
    """The layers that are solved, with their new weights, their masks and their records.

    They are written beside `checkpoint.path` into files with a number at the end of their names,
    each of which has the layers since the file before it, so that a large network is written once.
    What depends on the dense network alone, such as the counts of layers, is computed again.

    Args:
        checkpoint: where they are kept; None keeps nothing.
        sweeps: the number of walks over the layers.

    Raises:
        ValueError: there is more than one walk, or a file is damaged or belongs to another call.
    """

    def __init__(self, checkpoint: Checkpoint | None, sweeps: int = 1) -> None:
        self.checkpoint = checkpoint
        self.found: dict[str, tuple[dict[str, Tensor], EpochRecord]] = {}
        self.pending: dict[str, tuple[dict[str, Tensor], EpochRecord]] = {}
        self.number, self.saved_at = 0, time.monotonic()
        if checkpoint is None:
            return
        if sweeps > 1:
            raise ValueError(
                f"a checkpoint has the layers of one walk, and sweeps={sweeps}; leave one of them "
                "out"
            )
        for path in _files(checkpoint.path):
            if not path.exists():
                break
            tensors, meta = load_tensors(path)
            check_same_call(path, meta.get("call"), checkpoint.call or {})
            if not isinstance(records := meta.get("records"), dict):
                raise ValueError(f"{path} has no layers of a pruning; give another file")
            for name, record in records.items():
                kept = {
                    key: tensor
                    for key in ("weight", "bias", "mask")
                    if (tensor := tensors.get(f"{name}/{key}")) is not None
                }
                self.found[name] = kept, EpochRecord(**record)
            self.number += 1

    def __contains__(self, name: object) -> bool:
        return name in self.found

    @torch.no_grad()
    def restore(self, name: str, layer: nn.Module) -> tuple[Tensor, EpochRecord]:
        """Give a layer what was found for it; return its mask and its record."""
        tensors, record = self.found[name]
        for key, tensor in tensors.items():
            if key != "mask":
                cast(Tensor, getattr(layer, key)).copy_(tensor)
        return tensors["mask"].to(cast(Tensor, layer.weight).device), record

    def keep(self, layer: nn.Module, mask: Tensor, record: EpochRecord) -> None:
        """Take in a layer, and write the layers since the last time if it is long ago."""
        if self.checkpoint is None:
            return
        tensors = {"weight": cast(Tensor, layer.weight), "mask": mask}
        if isinstance(layer.bias, Tensor):
            tensors["bias"] = layer.bias
        copies = {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}
        self.pending[str(record.layer)] = copies, record
        if time.monotonic() - self.saved_at >= self.checkpoint.seconds:
            self._save(self.checkpoint)

    def _save(self, checkpoint: Checkpoint) -> None:
        path = next(file for n, file in enumerate(_files(checkpoint.path)) if n == self.number)
        if is_first():
            meta = {
                "call": dict(checkpoint.call or {}),
                "records": {name: asdict(record) for name, (_, record) in self.pending.items()},
            }
            tensors = {
                f"{name}/{key}": tensor
                for name, (found, _) in self.pending.items()
                for key, tensor in found.items()
            }
            save_tensors(path, tensors, meta)
        self.pending, self.number, self.saved_at = {}, self.number + 1, time.monotonic()


def _files(path: Path) -> Iterator[Path]:
    """Yield the names of the files, in their order."""
    number = 0
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
