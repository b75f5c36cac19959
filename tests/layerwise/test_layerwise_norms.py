"""Batch norm statistics of the pruned network."""

from __future__ import annotations

import pytest
import torch
from layerwise_networks import data_for, made
from torch import Tensor, nn

from robustprune.layerwise import prune_layerwise
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.norms import estimate

FEW = pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")


def test_the_statistics_are_means_over_all_examples() -> None:
    """Batches of unequal size; their variances are averaged as in a training, each by n - 1."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5)).eval()
    parts = [torch.randn(n, 3) * 2 + 1 for n in (4, 6, 10)]
    estimate(network, [Batch(part) for part in parts], torch.device("cpu"))
    norm = network[0]
    torch.testing.assert_close(norm.running_mean, torch.cat(parts).mean(0))
    expected = sum(len(part) * part.var(0) for part in parts) / 20
    torch.testing.assert_close(norm.running_var, expected)
    assert norm.momentum == 0.3
    assert not any(module.training for module in network.modules())


@FEW
def test_later_norms_see_the_pruned_layers() -> None:
    network, data = made("cnn"), data_for("cnn")
    kept, anew = (
        prune_layerwise(network, data, density=0.3, batch_norm=option).model
        for option in ("keep", "estimate")
    )
    assert torch.equal(kept[1].running_mean, network[1].running_mean)
    x: Tensor = torch.cat([x for x, _ in data])
    torch.testing.assert_close(anew[1].running_mean, anew[0](x).mean((0, 2, 3)))
    for one, other in zip(kept.parameters(), anew.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "option", "match"),
    [("twice", "estimate", "has no batch norm"), ("cnn", "anew", "choose one of keep, estimate")],
)
def test_refused(name: str, option: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(made(name), data_for(name), density=0.5, batch_norm=option)  # type: ignore[arg-type]
