"""How many groups each layer keeps, by its inputs in the dense network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerwise_networks import data_for, made
from torch import Tensor, nn

from robustprune.layerwise import Owl
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.ratios import Ratios, check_ratios, layer_counts, outlier_weighed
from robustprune.sparsity import Groups, count_kept, group_weight, maskable_layers

CPU = torch.device("cpu")


def groups_of(sizes: list[int]) -> dict[str, Groups]:
    return {str(i): Groups((1, n), "element") for i, n in enumerate(sizes)}


def counts_of(
    network: nn.Module,
    x: Tensor,
    density: float,
    allocate: Ratios,
    counted: Tensor | None = None,
) -> dict[str, int]:
    layers = maskable_layers(network)
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    check_ratios(allocate, groups, density)
    data = [Batch(x, counted=counted)]
    return layer_counts(
        network, layers, groups, data, density=density, allocate=allocate, device=CPU
    )


def test_owl_by_hand() -> None:
    """Of twenty scores each, two, one and none exceed five times their mean."""
    scores = {"0": torch.full((1, 20), 0.1), "1": torch.full((1, 20), 0.1), "2": torch.ones(1, 20)}
    scores["0"][0, :2] = 5
    scores["1"][0, :1] = 5
    # D = 0.1, 0.05, 0; δ = 1, 1/2, 0, of mean 1/2; λ = 0.1: densities 0.6, 0.5, 0.4
    blocks = {name: name for name in scores}
    found = outlier_weighed(Owl(5.0, 0.1), scores, blocks, groups_of([20] * 3), 0.5)
    assert found == {"0": 12, "1": 10, "2": 8}
    # layers of one block are counted together: D = 3/40 and 0
    blocks = {"0": "a", "1": "a", "2": "b"}
    found = outlier_weighed(Owl(5.0, 0.15), scores, blocks, groups_of([20] * 3), 0.5)
    assert found == {"0": 12, "1": 12, "2": 6}  # 0.5 + 0.3 (1 − 2/3) and 0.5 − 0.3 · 2/3


def test_owl_where_all_layers_are_alike() -> None:
    scores = {str(i): torch.ones(1, 10) for i in range(3)}
    blocks = {name: name for name in scores}
    found = outlier_weighed(Owl(), scores, blocks, groups_of([10] * 3), 0.3)
    assert found == {"0": 3, "1": 3, "2": 3}


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
    st.floats(0.02, 1),
    st.floats(0, 0.5),
    st.integers(0, 99),
)
def test_owl_keeps_the_total_within_what_layers_have(
    sizes: list[int], density: float, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.rand(1, n, generator=generator) ** 4 for i, n in enumerate(sizes)}
    blocks = {name: name for name in scores}
    found = outlier_weighed(Owl(2.0, spread), scores, blocks, groups_of(sizes), density)
    assert sum(found.values()) == max(count_kept(density, sum(sizes)), len(sizes))
    assert all(1 <= found[str(i)] <= n for i, n in enumerate(sizes))


def test_global_keeps_the_weights_with_the_largest_share_of_their_layers_outputs() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), torch.randn(20, 6)
    shares = {}
    inputs = x
    for name, layer in (("0", network[0]), ("1", network[1])):
        weight = layer.weight.detach()
        power = (inputs @ weight.T).square().sum()
        shares[f"{name}.weight"] = weight.square() * inputs.square().sum(0) / power
        inputs = layer(inputs).detach()
    threshold = torch.cat([s.flatten() for s in shares.values()]).sort(descending=True).values[24]
    expected = {name: int((s >= threshold).sum()) for name, s in shares.items()}
    assert counts_of(network, x, 0.5, "global") == expected
    # the scale of a layer says nothing about how much its weights matter
    with torch.no_grad():
        network[0].weight.mul_(10)
        network[0].bias.mul_(10)
    assert counts_of(network, x, 0.5, "global") == expected


@pytest.mark.parametrize("allocate", ["global", "owl"])
def test_tokens_that_do_not_count_have_no_say(allocate: Ratios) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    x = torch.randn(4, 5, 6)
    counted = torch.rand(4, 5) < 0.6
    other = torch.where(counted.unsqueeze(-1), x, 9 * x)
    one, two = (counts_of(network, z, 0.5, allocate, counted) for z in (x, other))
    assert one == two


@pytest.mark.parametrize("allocate", ["layer", "erk", "igq", {"0.weight": 0.5, "1.weight": 0.5}])
def test_the_others_look_at_no_data(allocate: Ratios) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    counts = counts_of(network, torch.full((2, 6), torch.nan), 0.5, allocate)
    assert sum(counts.values()) == 25


def test_blocks_of_a_transformer_are_compared_as_a_whole() -> None:
    network, (ids, _) = made("llama"), data_for("llama")[0]
    network.config.use_cache = False
    counts = counts_of(network, ids, 0.5, Owl(2.0, 0.2))
    sizes = {name: layer.weight.numel() for name, layer in maskable_layers(network).items()}
    for block in ("layers.0.", "layers.1."):
        shares = [counts[name] / sizes[name] for name in counts if block in name]
        assert len(shares) == 7
        assert max(shares) - min(shares) < 0.01


@pytest.mark.parametrize(("outliers", "spread"), [(0.0, 0.1), (5.0, -0.1), (5.0, 0.6)])
def test_owls_options_have_a_range(outliers: float, spread: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Owl(outliers, spread)
