"""Which weights matter on one set of data and not on another one, by their Wanda scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.layerwise.inputs import calibration_batches
from robustprune.layerwise.moments import as_matrices, as_weight, is_solvable
from robustprune.layerwise.ratios import dense_scores
from robustprune.minmax import Batches
from robustprune.sparsity import MaskSet, groups_of, maskable_layers


def set_difference(
    network: nn.Module,
    first: Batches,
    second: Batches,
    *,
    top: float = 0.05,
    rest: float = 0.05,
    dense: tuple[str, ...] = (),
) -> MaskSet:
    """Return masks without the weights that matter on the first set of data alone.

        removed = S₁(top) \\ S₂(rest)

    S(q) are in each row the share q of weights with the largest |w_ij| ‖x_j‖₂ (Wanda) on a set (Wei
    et al. 2024, arXiv 2402.05162, Sec. 3.1). With refusals of harmful requests as the first set and
    useful answers as the second one, the paper finds that about 3% of the weights carry the
    refusals: alignment is brittle. Compare what the network does with and without these weights,
    and without as many random ones.

    Args:
        network: it is called on the batches in eval mode, and not changed.
        first, second: batches, such as dicts with `input_ids`, or (x, y).
        top, rest: shares in (0, 1]; at least one weight of each row is in S.
        dense: layers to leave alone, see `maskable_layers`.

    Raises:
        ValueError: a share is out of range, or there is no batch or no layer.
    """
    for name, share in (("top", top), ("rest", rest)):
        if not 0 < share <= 1:
            raise ValueError(f"{name}={share} must be in (0, 1]")
    layers = {k: m for k, m in maskable_layers(network, dense=dense).items() if is_solvable(m)}
    if not layers:
        raise ValueError("the network has no linear or convolutional layer to look at")
    groups = groups_of(layers, "element")
    device = next(network.parameters()).device

    def best(loader: Batches, share: float) -> dict[str, Tensor]:
        batches = calibration_batches(network, loader, None, device=device, attack=None)
        scores = dense_scores(network, layers, groups, batches, device, share=False)
        return {name: _largest(as_matrices(groups[name], s), share) for name, s in scores.items()}

    with evaluating(network):
        one, other = best(first, top), best(second, rest)
    return MaskSet({name: as_weight(groups[name], ~(one[name] & ~other[name])) for name in layers})


def _largest(scores: Tensor, share: float) -> Tensor:
    """Return a mask of the largest scores of each row, (groups, rows, columns)."""
    number = max(1, int(share * scores.shape[-1]))
    place = torch.topk(scores, number, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, place, True)
