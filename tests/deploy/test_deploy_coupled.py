"""Channels that can only go together, in networks whose smaller size is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustprune.deploy import load_slim, prune_channels, save_slim, slim
from robustprune.minmax import Natural
from robustprune.search import finetune_ticket


def separable(ins: int, outs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(ins, ins, 3, stride, 1, groups=ins, bias=False), nn.BatchNorm2d(ins), nn.ReLU(),
        nn.Conv2d(ins, outs, 1), nn.BatchNorm2d(outs), nn.ReLU6(),
    ]  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        *separable(8, 16, 2), *separable(16, 24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """The stem and the second convolution of the block are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.two, self.norm = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.norm(self.two(self.one(x).relu()))).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Concatenation, and flattening of channels with two positions each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(3, 6, 3, padding=1)
        self.twice = nn.Conv1d(10, 20, 3, padding=1, groups=10)  # two filters a channel
        self.head = nn.Linear(20 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x).relu()], 1)
        return self.head(torch.nn.functional.max_pool1d(self.twice(x), 4).flatten(1))  # type: ignore[no-any-return]


NETWORKS = {
    "depthwise": (depthwise, (3, 8, 8)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 32, 32)),
    "residual": (Residual, (3, 8, 8)),
    "concatenation": (Dense, (3, 8)),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network of random weights, biases and statistics in eval mode, and a batch for it."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, x = make().train(), torch.randn(4, *shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.1, 1.0)
        model(x)
    return model.eval(), x


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def halved(model: nn.Module) -> int:
    """The size with half of all channels, but for 3 inputs, 10 classes, 1 input of a depthwise
    filter, and positions of kernels."""
    total = 0
    for parameter in model.parameters():
        channels = [n if n in (1, 3, 10) else n // 2 for n in parameter.shape[:2]]
        total += math.prod((*channels, *parameter.shape[2:]))
    return total


@pytest.mark.parametrize("name", ["depthwise", "resnet18", "residual"])
def test_half_of_the_channels_leave_the_network_of_half_the_width(
    name: str, tmp_path: Path
) -> None:
    model, x = network(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ticket = prune_channels(model, x, density=0.5)
    small = slim(ticket.model, None, x)
    assert size(small) == halved(model)
    assert round(ticket.coverage.whole_density * size(model)) == size(small)
    torch.testing.assert_close(small(x), ticket.model(x), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    save_slim(tmp_path / "small.safetensors", small)
    torch.testing.assert_close(load_slim(tmp_path / "small.safetensors")(x), small(x))


@pytest.mark.parametrize(
    ("name", "density"),
    [
        *(("concatenation", 0.5), ("concatenation", 0.3), ("residual", 0.4), ("depthwise", 0.7)),
        pytest.param("mobilenet", 0.5, marks=pytest.mark.slow),
    ],
)
def test_masked_and_slim_networks_are_equal(name: str, density: float) -> None:
    model, x = network(name)
    ticket = prune_channels(model, x, density=density)
    small = slim(ticket.model, None, x)
    assert size(small) < size(model)
    assert round(ticket.coverage.whole_density * size(model)) == size(small)
    torch.testing.assert_close(small(x), ticket.model(x), atol=1e-4, rtol=1e-4)


def test_the_weakest_channel_of_all_that_meet_goes() -> None:
    """Channel 2 is weak in the stem alone, 4 in the sum of both and of their readers."""
    model, x = network("residual")
    assert isinstance(model, Residual)
    with torch.no_grad():
        for layer in (model.stem, model.two, model.one, model.head):
            layer.weight.fill_(1.0)
        model.stem.weight[2] = 0.5
        model.stem.weight[4] = model.two.weight[4] = 0.6
        model.one.weight[3] = 0.1
    masks = prune_channels(model, x, density=0.8).masks  # 5 of 6, and 4 of 4
    rows = torch.tensor([True, True, True, True, False, True])
    assert torch.equal(masks["stem.weight"][:, 0, 0, 0], rows)
    assert torch.equal(masks["two.weight"][:, 0, 0, 0], rows)
    assert torch.equal(masks["head.weight"], rows.expand(10, 6))
    assert torch.equal(masks["one.weight"][0, :, 0, 0], rows)
    assert torch.equal(masks["norm.weight"], rows)
    assert torch.equal(masks["norm.bias"], rows)
    assert "one.bias" not in masks
    masks = prune_channels(model, x, density=0.75).masks  # 5 of 6, and 3 of 4
    assert masks["one.bias"].tolist() == [True, True, True, False]
    kept = prune_channels(model, x, density=0.5, dense=("stem",)).masks
    assert bool(kept["stem.weight"].all())
    assert bool(kept["two.weight"].any(1).any(1).any(1).all())  # all its outputs
    assert int(kept["one.weight"][:, 0, 0, 0].sum()) == 2


def test_training_keeps_pruned_channels_zero() -> None:
    model, x = network("depthwise")
    ticket = prune_channels(model, x, density=0.5)
    tuned = finetune_ticket(
        ticket, [(x, torch.arange(4))], Natural(), epochs=2, mode="inherit", quiet=True
    )
    small = slim(tuned.model.eval(), None, x)
    assert size(small) == halved(model)
    torch.testing.assert_close(small(x), tuned.model(x), atol=1e-4, rtol=1e-4)


def test_a_depthwise_filter_of_a_constant_channel() -> None:
    """A constant that is not zero stays before zero padding, and moves into a bias without it."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6)
    for padding in (0, 1):
        model = nn.Sequential(
            nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 3, padding=padding, groups=4), nn.ReLU(),
            nn.Conv1d(4, 2, 1),
        ).eval()  # fmt: skip
        with torch.no_grad():
            model[0].weight[1] = 0.0
            model[1].bias[1] = 2.0
        small = slim(model, None, x)
        assert small.get_submodule("1").groups == (4 if padding else 3)
        torch.testing.assert_close(small(x), model(x))


def test_refused() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="Sequential has no channels that can be removed"):
        prune_channels(nn.Sequential(nn.Linear(4, 3)), x, density=0.5)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"keep 'one' dense: no such layer; use one of 0, 2"):
        prune_channels(model, x, density=0.5, dense=("one",))
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        prune_channels(model, x, density=0.0)
    assert prune_channels(model, x, density=1.0).masks.density == 1.0
    grouped = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, groups=2), nn.Conv1d(4, 2, 1))
    masks = prune_channels(nn.Sequential(grouped, nn.Conv1d(2, 4, 1), nn.Conv1d(4, 1, 1)),
                           torch.randn(2, 4, 3), density=0.5).masks  # fmt: skip
    assert bool(masks["0.0.weight"].all())  # a layer that can't be cut reads it
