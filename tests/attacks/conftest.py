"""Models whose worst case is known in closed form."""

import pytest
import torch
from torch import nn


class Linear(nn.Module):
    """f(x) = W x + b on inputs of any shape, in float64."""

    def __init__(self, shape, classes, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = torch.Size(shape).numel()
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator).double())
        self.bias = nn.Parameter(torch.randn(classes, generator=generator).double())

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias

    def nearest(self, x, y, norm):
        """r*_i = min over j ≠ y of (z_y − z_j) / ‖w_y − w_j‖_dual, without bounds."""
        order = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
        logits = self(x)
        gaps = logits.gather(1, y[:, None]) - logits
        normals = self.weight[y][:, None] - self.weight[None]
        ratios = gaps / torch.linalg.vector_norm(normals, ord=order, dim=2)
        ratios.scatter_(1, y[:, None], float("inf"))
        return ratios.amin(1).clamp_min(0).detach()


@pytest.fixture
def linear():
    def make(shape, classes=3, examples=8, seed=0):
        model = Linear(shape, classes, seed)
        x = torch.randn(examples, *shape, generator=torch.Generator().manual_seed(seed + 1))
        x = x.double()
        return model, x, model(x).argmax(1)

    return make


@pytest.fixture(scope="session")
def trained():
    """A small network with curved boundaries, trained on three rings: (model, x, y)."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(300, generator=generator) * 6.2832
    y = torch.arange(300) % 3
    radius = 0.5 + y + 0.15 * torch.randn(300, generator=generator)
    x = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU())
        model.append(nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y
