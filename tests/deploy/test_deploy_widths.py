"""What a channel costs, against counts that a reader can make."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from robustprune.deploy import channel_seconds, widths
from robustprune.models import FCN, MLP, LeNet


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def by_parameters(models: Sequence[nn.Module], x: Tensor, *, repeats: int) -> list[list[float]]:
    """A machine on which a network takes a second for each of its parameters, and sometimes
    longer."""
    sizes = [float(sum(p.numel() for p in model.parameters())) for model in models]
    return [[size + 7.0, size, size + 1.0] for size in sizes]


@pytest.fixture
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "time_in_turns", by_parameters)


@pytest.mark.usefixtures("_counted")
def test_a_channel_costs_what_makes_it_and_what_reads_it() -> None:
    found = channel_seconds(MLP((5,), 3, hidden=(6, 4)), torch.randn(2, 5))
    # a neuron of the first layer: 5 weights, its bias and 4 readers; of the second: 6 + 1 + 3
    assert found == {"linear2.weight": 10.0, "classifier.weight": 10.0}


@pytest.mark.usefixtures("_counted")
def test_batch_norm_counts_and_an_odd_number_of_channels() -> None:
    model = FCN(1, 2, widths=(5, 4, 3), kernels=(3, 3, 3))
    found = channel_seconds(model, torch.randn(2, 1, 9))
    # kernels that make it and that read it, scale and shift
    assert found == {
        "blocks.1.conv.weight": 3 * 1 + 3 * 4 + 2,
        "blocks.2.conv.weight": 3 * 5 + 3 * 3 + 2,
        "classifier.weight": 3 * 4 + 2 + 2,
    }


@pytest.mark.usefixtures("_counted")
def test_what_cannot_be_removed_one_by_one_is_left_out() -> None:
    lenet = LeNet((1, 8, 8), 3, width=2)  # the hidden layer reads flattened features
    assert set(channel_seconds(lenet, torch.randn(2, 1, 8, 8))) == {
        "conv2.weight", "classifier.weight"
    }  # fmt: skip
    residual = nn.Sequential(nn.Linear(4, 4), Residual(), nn.Linear(4, 2))
    assert set(channel_seconds(residual, torch.randn(2, 4))) == {"1.out.weight"}
    with pytest.raises(ValueError, match="MLP has no layer whose input channels can be removed"):
        channel_seconds(MLP((4,), 2, hidden=()), torch.randn(2, 4))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.relu(self.into(x)))


@pytest.mark.usefixtures("_counted")
def test_of_a_network_with_dead_channels_the_live_ones_are_measured() -> None:
    model = MLP((5,), 3, hidden=(6, 4))
    with torch.no_grad():
        model.get_parameter("linear2.weight")[:, 3:] = 0  # 3 neurons are left
    assert channel_seconds(model, torch.randn(2, 5)) == {
        "linear2.weight": 10.0, "classifier.weight": 3 + 1 + 3
    }  # fmt: skip


def test_no_saving_counts_as_a_thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "time_in_turns", lambda *args, repeats: [[2.0], [2.5]])
    found = channel_seconds(MLP((5,), 3, hidden=(6,)), torch.randn(2, 5))
    assert found == {"classifier.weight": pytest.approx(2.0 / 1000 / 3)}


def test_measured_seconds_are_positive_and_the_network_stays_as_it_is() -> None:
    model = FCN(1, 2, widths=(4, 4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    found = channel_seconds(model, torch.randn(2, 1, 16), repeats=2)
    assert len(found) == 3
    assert all(seconds > 0 for seconds in found.values())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
