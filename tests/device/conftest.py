"""A small network that is trained on the accelerator."""

import pytest
import torch
from accelerator import DEVICE, INNER, SPEC
from torch import Tensor, nn

from robustprune.minmax import Adversarial, train


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    x = (0.3 * torch.rand(96, 1, 8, 8, generator=generator) + 0.35 * y[:, None, None, None]).clamp(
        0, 1
    )
    return list(zip(x.split(24), y.split(24), strict=True))


@pytest.fixture
def trained(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[nn.Module, Tensor, Tensor]:
    train(network, batches, Adversarial(INNER), optimizer=SPEC, epochs=8, device=DEVICE, quiet=True)
    x, y = (torch.cat(part).to(DEVICE) for part in zip(*batches, strict=True))
    network.eval()
    right = network(x).argmax(1) == y
    assert right.float().mean() > 0.8
    return network, x[right][:16], y[right][:16]
