"""What a network loses without the weights that matter on one set of data alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.layerwise.set_difference import set_difference
from robustprune.minmax import Batches

#: the losses of a network on examples of the first and of the second set, (N,) and (M,)
Losses = Callable[[nn.Module], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Brittleness:
    """The loss of each example of two sets, with and without some weights.

    Attributes:
        removed: the number of weights that matter on the first set alone, and that are not zero.
        total: the number of weights that are not zero in the layers that were looked at.
        whole, without, random: the losses (N,) of the first and (M,) of the second set, of the
            network itself, without these weights, and without as many random ones of each layer.
    """

    removed: int
    total: int
    whole: tuple[Tensor, Tensor]
    without: tuple[Tensor, Tensor]
    random: tuple[Tensor, Tensor]

    @property
    def added(self) -> tuple[Tensor, Tensor]:
        """The loss that each example of the two sets gains without the weights."""
        first, second = (a - b for a, b in zip(self.without, self.whole, strict=True))
        return first, second


def brittleness(
    network: nn.Module,
    first: Batches,
    second: Batches,
    losses: Losses,
    *,
    top: float = 0.05,
    rest: float = 0.05,
    dense: tuple[str, ...] = (),
    seed: int = 0,
) -> Brittleness:
    """Remove the weights that matter on the first set alone, and measure both sets.

    The weights are those of `layerwise.set_difference` (Wei et al. 2024, arXiv 2402.05162, Sec.
    3.1). Weights that are zero already are not counted, and none of the random ones is zero.

    Args:
        network: it is not changed.
        first, second: batches from which the weights are found.
        losses: measures a network on other examples of the two sets.
        top, rest, dense: as in `set_difference`.
        seed: of the random weights.

    Raises:
        ValueError: as in `set_difference`.
    """
    masks = set_difference(network, first, second, top=top, rest=rest, dense=dense)
    weights = {name: network.get_parameter(name).detach() for name in masks}
    chosen = {name: ~masks[name] & (weights[name] != 0) for name in masks}
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: _drawn(weights[name] != 0, int(chosen[name].sum()), generator) for name in masks}
    return Brittleness(
        sum(int(one.sum()) for one in chosen.values()),
        sum(int((weight != 0).sum()) for weight in weights.values()),
        losses(network),
        losses(_without(network, chosen)),
        losses(_without(network, drawn)),
    )


def _drawn(among: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Return a mask of so many random ones of the places that are true."""
    places = among.flatten().nonzero().flatten().cpu()
    picked = places[torch.randperm(len(places), generator=generator)[:number]]
    mask = torch.zeros(among.numel(), dtype=torch.bool)
    mask[picked] = True
    return mask.view(among.shape).to(among.device)


@torch.no_grad()
def _without(network: nn.Module, removed: dict[str, Tensor]) -> nn.Module:
    bare = copy.deepcopy(network)
    for name, mask in removed.items():
        bare.get_parameter(name).masked_fill_(mask, 0.0)
    return bare
