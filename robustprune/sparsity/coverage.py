"""Count which part of a network the masks cover, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from robustprune.sparsity.apply import maskable_layers
from robustprune.sparsity.mask import MaskSet

#: the least share of uncovered matrix weights of which a search warns
NOTABLE = 0.05
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


class LeftOut(UserWarning):
    """This warning says that no mask covers a notable part of the network, which stays dense."""


class Folded(UserWarning):
    """This warning says that computed weights (weight_norm, ...) were made plain."""


@dataclass(frozen=True)
class Coverage:
    """The part of a network that masks cover. All counts are of distinct parameters.

    Attributes:
        kept, masked: the number of weights that the masks keep, and of all weights that they cover.
        left_out: the name and size of every matrix weight without a mask, except embeddings: layers
            that are dense on request, inputs of LSTMs and of attention, tied heads, and layers of
            other libraries.
        embeddings: the number of weights in embeddings, tied ones included; they are never masked.
        parameters: the number of all parameters of the network, with biases and norms.
    """

    kept: int
    masked: int
    left_out: Mapping[str, int]
    embeddings: int
    parameters: int

    @property
    def density(self) -> float:
        """The kept fraction of the weights that masks cover, which is the density of a search."""
        return self.kept / self.masked

    @property
    def whole_density(self) -> float:
        """The kept fraction of all parameters of the network."""
        return 1 - (self.masked - self.kept) / self.parameters

    @property
    def share_left_out(self) -> float:
        """The fraction of all matrix weights, except embeddings, that is left out."""
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
    """Return what `masks` cover of `model`, whose weights must be Parameters (see `plain`)."""
    matrices, embeddings = _matrices(model)
    return Coverage(
        kept=masks.kept,
        masked=masks.total,
        left_out={name: size for name, size in matrices.items() if name not in masks},
        embeddings=embeddings,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def left_out_of(model: nn.Module, *, besides: Iterable[str] = ()) -> str | None:
    """Return a sentence on the matrix weights that searches can't mask, or None if there are few.

    Layers that stay dense because `dense` names them are not counted.

    Args:
        besides: names of further weights, which this search can't mask although others can.
    """
    matrices, _ = _matrices(model)
    can = maskable_layers(model).keys() - set(besides)
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
    """Return the size of each weight with two dimensions or more by its name, without embeddings
    and norms, and the number of weights of all embeddings."""
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
