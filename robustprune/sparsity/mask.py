"""A MaskSet says which weights a sub-network keeps. Every search returns one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustprune.tabular import html_table, share


@dataclass(frozen=True)
class LayerDensity:
    """The number of weights of one parameter that are kept."""

    name: str
    kept: int
    total: int

    @property
    def density(self) -> float:
        return self.kept / self.total


def _counts(kept: int, total: int) -> tuple[str, str, str]:
    return f"{kept:,}", f"{total:,}", share(kept / total)


class MaskSet(Mapping[str, Tensor]):
    """An immutable mapping from parameter names to boolean tensors (True = kept).

    The masks are copied to the CPU and never change. `masks.to_device(device)` returns plain
    tensors to work with.

    Raises:
        ValueError: there are no masks, or a mask is empty or not boolean.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        if not masks:
            raise ValueError("a MaskSet needs at least one mask, got none")
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ValueError(f"mask {name!r} must be boolean, got {mask.dtype}")
            if mask.numel() == 0:
                raise ValueError(f"mask {name!r} is empty (shape {tuple(mask.shape)})")
        self._masks = {
            name: mask.detach().to("cpu", copy=True).contiguous() for name, mask in masks.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet):
            return NotImplemented
        return self._masks.keys() == other._masks.keys() and all(
            torch.equal(mask, other._masks[name]) for name, mask in self._masks.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: MaskSet) -> MaskSet:
        """Keep what both keep. A parameter that only one of them names keeps the mask of that
        one."""
        both = {**self._masks, **other._masks}
        return MaskSet(
            {
                name: self._masks.get(name, mask) & other._masks.get(name, mask)
                for name, mask in both.items()
            }
        )

    def __repr__(self) -> str:
        return f"MaskSet({len(self)} tensors, {self.kept} of {self.total} weights kept)"

    def _repr_html_(self) -> str:
        rows = [(one.name, *_counts(one.kept, one.total)) for one in self.layers()]
        rows.append(("all", *_counts(self.kept, self.total)))
        return html_table("weights that the mask keeps", ("parameter", "kept", "of", "share"), rows)

    def to_device(self, device: torch.device | str) -> dict[str, Tensor]:
        """Return copies of the masks on `device`."""
        return {name: mask.to(device, copy=True) for name, mask in self._masks.items()}

    def layers(self) -> list[LayerDensity]:
        return [
            LayerDensity(name, int(mask.sum()), mask.numel()) for name, mask in self._masks.items()
        ]

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers())

    @property
    def total(self) -> int:
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def density(self) -> float:
        """The kept fraction of all masked parameters."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """The removed fraction, 1 - density."""
        return 1.0 - self.density

    def save(self, path: Path | str) -> None:
        """Write the masks as a safetensors file."""
        save_file(self._masks, path)

    @classmethod
    def load(cls, path: Path | str) -> MaskSet:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is a folder, a named pipe or a device, or a file of another kind.
        """
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path} is not an ordinary file; give one with masks")
        try:
            return cls(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} holds no masks, or is damaged ({error})") from error
