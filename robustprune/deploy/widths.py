"""What one channel costs: the time that a smaller network saves, measured layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustprune.deploy.copies import baked
from robustprune.deploy.slim import slim
from robustprune.deploy.timing import time_in_turns
from robustprune.sparsity import Groups, MaskSet, groups_of, maskable_layers

#: the least saving of the removed channels of a layer, as a share of the network's time
LEAST = 1e-3


def channel_seconds(model: nn.Module, example: Tensor, *, repeats: int = 30) -> dict[str, float]:
    """Measure the seconds that one input channel of each layer costs on the batch `example`.

    Every second input channel of one layer is removed by `slim`, with the filters that make these
    channels. The small network and the whole one are timed in turns, and the difference of their
    shortest times is divided by the number of channels that were removed. So a channel's cost
    contains the layer that makes it, the layer that reads it and what lies between. Times are those
    of this machine, with this batch and this number of threads.

    A layer is left out if `slim` can't remove its inputs one by one: the network's own inputs,
    a residual stream, features behind a flattening. Name these layers in `dense` for a search of
    widths, `prune_scores(..., method="harp", pattern="channel", cost=...)`.

    Args:
        model: the network, which is copied and never changed; it is timed in eval mode.
        example: a batch (N, ...) on the model's device, of the size that is used later.
        repeats: the number of timed calls of both networks.

    Returns:
        Seconds by the layer's parameter name, as in a ticket's masks. A saving that is smaller than
        a thousandth of the network's time, or negative, counts as a thousandth: noise, or a size
        for which the machine has no faster code.

    Raises:
        ValueError: `slim` refuses the network, `repeats` is below 1, or no layer has inputs that
            can be removed.
    """
    whole = slim(model, None, example)
    masked = maskable_layers(baked(model))
    seconds: dict[str, float] = {}
    for name, groups in groups_of(maskable_layers(whole), "channel").items():
        removed = groups.number // 2
        if name not in masked or not removed:
            continue
        small = slim(whole, _every_second(name, groups), example)
        if _size(small) == _size(whole):
            continue
        times = time_in_turns([whole, small], example, repeats=repeats)
        before, after = (min(turns) for turns in times)
        seconds[name] = max(before - after, LEAST * before) / removed
    if not seconds:
        raise ValueError(
            f"{type(model).__name__} has no layer whose input channels can be removed one by one"
        )
    return seconds


def _every_second(name: str, groups: Groups) -> MaskSet:
    """Return a mask that prunes every second channel, so that no run of neighbours goes."""
    kept = torch.arange(groups.number) % 2 == 0
    return MaskSet({name: groups.expand(kept)})


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
