"""Transform training batches at random, a whole batch at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Apply the usual CIFAR augmentation: pad 4 zero pixels, crop at random, flip horizontally.

    Each image draws its own offsets, uniform on 0..8, and is mirrored with probability 1/2.

    Args:
        x: (N, C, H, W) on any device.
        generator: a generator on the CPU, so that the random numbers are the same for every device.

    Returns:
        (N, C, H, W), a new tensor.
    """
    count, _, height, width = x.shape
    offsets = torch.randint(0, 9, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.where(flip, torch.arange(width - 1, -1, -1), torch.arange(width))
    rows, columns = rows.to(x.device), columns.to(x.device)
    images = torch.arange(count, device=x.device)[:, None, None]
    # With the channels last, the three index tensors choose whole pixels.
    padded = F.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    chosen = padded[images, rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2).contiguous()
