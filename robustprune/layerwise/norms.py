"""Batch norm statistics, estimated anew on the calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.layerwise.inputs import Batch

BatchNorm = Literal["keep", "estimate"]
BATCH_NORMS: tuple[BatchNorm, ...] = get_args(BatchNorm)


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms that have running statistics."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and isinstance(module.running_mean, Tensor)
    ]


@torch.no_grad()
def estimate(network: nn.Module, batches: Sequence[Batch], device: torch.device) -> None:
    """Set running means and variances to the averages over these batches, in one pass.

    As in a training, each batch is normalised with its own statistics meanwhile; larger batches
    count more. All other modules stay in their modes.
    """
    norms = batch_norms(network)
    before = [(norm.momentum, norm.training) for norm in norms]
    seen = 0
    try:
        for norm in norms:
            norm.train()
        for batch in batches:
            seen += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / seen  # 1 for the first, which replaces what was there
            batch.call(network, device)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
