"""Normalise as the network's first layer, so that eps stays in input units."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Compute (x - mean) / std per channel. The mean and the standard deviation are buffers.

    Args:
        mean, std: one number for each channel, in input units.

        dims: the number of dimensions after the channels: 2 for images, 1 for series, 0 for
            features.

    Shapes: (N, C, ...) -> (N, C, ...).

    Raises:
        ValueError: the two have different lengths, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, dims: int = 2) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise ValueError(
                f"{len(mean)} means, {len(std)} standard deviations; give one of each per channel"
            )
        if not all(s > 0 for s in std):
            raise ValueError(f"std {tuple(std)} must be positive")
        shape = (len(mean),) + (1,) * dims
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
