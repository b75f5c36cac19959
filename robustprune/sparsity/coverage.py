"""Coverage: what masks cover of a network, and what they leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from robustprune.sparsity.apply import maskable_layers
from robustprune.sparsity.mask import MaskSet

#: the share of matrix weights left out from which on a search says so
NOTABLE = 0.05
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


class LeftOut(UserWarning):
    """A notable part of the network has weights that no mask covers, so that they stay dense."""


class Folded(UserWarning):
    """A search works on plain weights where the network computes them (weight_norm, ...)."""


@dataclass(frozen=True)
class Coverage:
    """What masks cover of a network; all counts are of distinct parameters.

    Attributes:
        kept, masked: weights that the masks keep, and all that they cover.
        left_out: by name, the size of every matrix weight without a mask, embeddings apart: layers
            left whole as asked, LSTM and attention inputs, tied heads, other libraries' layers.
        embeddings: weights of embeddings, tied ones included; never masked.
        parameters: all parameters of the network, biases and norms included.
    """

    kept: int
    masked: int
    left_out: Mapping[str, int]
    embeddings: int
    parameters: int

    @property
    def density(self) -> float:
        """Kept fraction of the weights that masks cover, which is what searches are given."""
        return self.kept / self.masked

    @property
    def whole_density(self) -> float:
        """Kept fraction of all parameters of the network."""
        return 1 - (self.masked - self.kept) / self.parameters

    @property
    def share_left_out(self) -> float:
        """What is left out, as a fraction of all matrix weights, embeddings apart."""
        left = sum(self.left_out.values())
        return left / (left + self.masked)

    def __str__(self) -> str:
        said = (
            f"density {self.density:.3g} of the {self.masked:,} weights with a mask, "
            f"{self.whole_density:.3g} of all {self.parameters:,} parameters"
        )
        if self.left_out:
            said += f"; {self.share_left_out:.0%} of the matrix weights have no mask: "
            said += _names(self.left_out)
        return said


def coverage(model: nn.Module, masks: MaskSet) -> Coverage:
    """What `masks` cover of `model`, whose weights are plain Parameters (see `plain`)."""
    matrices, embeddings = _matrices(model)
    return Coverage(
        kept=masks.kept,
        masked=masks.total,
        left_out={name: size for name, size in matrices.items() if name not in masks},
        embeddings=embeddings,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def left_out_of(model: nn.Module) -> str | None:
    """A sentence on the matrix weights that searches cannot mask, if their share is notable.

    Layers left whole by `dense` aren't among them: they are asked for.
    """
    matrices, _ = _matrices(model)
    can = maskable_layers(model)
    left = {name: size for name, size in matrices.items() if name not in can}
    share = sum(left.values()) / max(sum(matrices.values()), 1)
    if share < NOTABLE:
        return None
    return (
        f"{sum(left.values()):,} of {sum(matrices.values()):,} matrix weights ({share:.0%}) stay "
        f"dense, since no mask covers {_names(left)}; `density` is that of the rest, and "
        "`ticket.coverage` has the density of the whole network"
    )


def _names(sizes: Mapping[str, int], most: int = 6) -> str:
    names = sorted(sizes, key=lambda name: -sizes[name])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{name} ({sizes[name]:,})" for name in names[:most]) + more


def _matrices(model: nn.Module) -> tuple[dict[str, int], int]:
    """Sizes of all weights of two dimensions or more by name, without embeddings and norms; and
    how many weights embeddings have."""
    norms: set[int] = set()
    embeddings: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embeddings[id(parameter)] = parameter.numel()
            elif isinstance(module, _NORMS):
                norms.add(id(parameter))
    apart = norms | embeddings.keys()
    matrices = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in apart
    }
    return matrices, sum(embeddings.values())
