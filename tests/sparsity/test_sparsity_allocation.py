"""Allocation and selection, against answers a reader can compute and exact counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustprune.sparsity import (
    Groups,
    allot,
    apportion,
    count_kept,
    group_weight,
    keep_best,
    maskable_layers,
)


def groups_of(values: dict[str, torch.Tensor]) -> dict[str, Groups]:
    return {name: Groups((value.numel(),), "element") for name, value in values.items()}


def test_uniform_keeps_the_same_share_of_each_layer() -> None:
    values = {"a": torch.rand(10), "b": torch.rand(5)}
    assert allot(values, groups_of(values), 0.3, "layer") == {"a": 3, "b": 2}


def test_global_keeps_the_best_of_all_and_one_of_each() -> None:
    values = {"a": torch.tensor([9.0, 8.0, 7.0]), "b": torch.tensor([1.0, 2.0, 3.0])}
    groups = groups_of(values)
    assert allot(values, groups, 0.5, "global") == {"a": 2, "b": 1}
    assert allot(values, groups, 0.01, "global") == {"a": 1, "b": 1}
    assert allot(values, groups, 1.0, "global") == {"a": 3, "b": 3}


def test_given_densities_are_taken_layer_by_layer() -> None:
    values = {"a": torch.rand(10), "b": torch.rand(5)}
    assert allot(values, groups_of(values), 0.4, {"a": 0.1, "b": 1.0}) == {"a": 1, "b": 5}
    with pytest.raises(ValueError, match="'bb', which is no masked layer; the layers are a, b"):
        allot(values, groups_of(values), 0.5, {"a": 0.1, "bb": 1.0})
    with pytest.raises(ValueError, match="no density is given for layer 'b'"):
        allot(values, groups_of(values), 0.5, {"a": 0.1})


def test_erk_by_hand() -> None:
    """Shares before capping: (4 + 100)/400 · 400 = 104 and (10 + 4)/40 · 40 = 14; 110 are kept."""
    network = nn.Sequential(nn.Linear(100, 4), nn.Linear(4, 10))
    layers = maskable_layers(network)
    scores = {name: torch.rand(layer.weight.shape) for name, layer in layers.items()}
    masks = keep_best(scores, layers, density=0.25, allocate="erk")
    assert {m.name: m.kept for m in masks.layers()} == {"0.weight": 97, "1.weight": 13}
    # at a high density the small layer is full and the rest goes to the other
    masks = keep_best(scores, layers, density=0.9, allocate="erk")
    assert {m.name: m.kept for m in masks.layers()} == {"0.weight": 356, "1.weight": 40}


def test_unknown_allocation_is_refused() -> None:
    values = {"a": torch.rand(3)}
    with pytest.raises(ValueError, match="unknown allocation 'erdos'; choose one of layer"):
        allot(values, groups_of(values), 0.5, "erdos")  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 40)), min_size=1, max_size=6),
    st.integers(0, 250),
)
def test_apportioned_numbers_add_up_within_their_limits(
    layers: list[tuple[float, int]], total: int
) -> None:
    shares = {str(i): share for i, (share, _) in enumerate(layers)}
    limits = {str(i): limit for i, (_, limit) in enumerate(layers)}
    counts = apportion(shares, limits, total)
    assert sum(counts.values()) == min(max(total, len(limits)), sum(limits.values()))
    assert all(1 <= counts[name] <= limits[name] for name in limits)


@pytest.mark.parametrize("pattern", ["element", "row", "kernel", "filter", "channel", "column"])
@pytest.mark.parametrize("allocate", ["layer", "global", "erk"])
@given(st.integers(1, 99))
def test_exactly_as_many_groups_are_kept_as_the_density_says(
    pattern: str, allocate: str, percent: int
) -> None:
    torch.manual_seed(percent)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Linear(8, 5))
    layers = maskable_layers(network)
    scores = {name: torch.rand(layer.weight.shape) for name, layer in layers.items()}
    masks = keep_best(
        scores,
        layers,
        density=percent / 100,
        pattern=pattern,
        allocate=allocate,  # type: ignore
    )
    kept, every = [], []
    for name, mask in masks.items():
        groups = group_weight(layers[name], pattern)
        sums, sizes = groups.reduce(mask.float()), groups.reduce(torch.ones(mask.shape))
        assert bool(((sums == 0) | (sums == sizes)).all())  # whole groups live or die
        kept.append(int((sums > 0).sum()))
        every.append(groups.number)
    if allocate == "layer":
        assert kept == [count_kept(percent / 100, number) for number in every]
    else:
        assert sum(kept) == max(count_kept(percent / 100, sum(every)), len(every))
