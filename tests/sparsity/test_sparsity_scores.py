"""Scores that have no order, scores of half precision, and choices that never take back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustprune.minmax import Natural
from robustprune.search import prune_one_shot
from robustprune.sparsity import (
    GateGroup,
    MaskSet,
    apportion,
    check_allocation,
    count_kept,
    draw_masks,
    group_weight,
    keep_best,
    maskable_layers,
    top_k,
)

NAN, INF = math.nan, math.inf


def test_nan_scores_are_refused_by_the_name_of_their_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    layers = maskable_layers(network)
    scores = {name: torch.rand(layer.weight.shape) for name, layer in layers.items()}
    scores["1.weight"][0, 1] = NAN
    for density in (0.25, 1.0):
        with pytest.raises(ValueError, match=r"the scores of '1\.weight' are NaN in 1 of 4 places"):
            keep_best(scores, layers, density=density)
    group = GateGroup((3,), {})
    with pytest.raises(ValueError, match=r"the scores of 'head\.0' are NaN in 1 of 3 places"):
        draw_masks({"head.0": torch.tensor([1.0, NAN, 2.0])}, {"head.0": group}, 0.5)


@pytest.mark.parametrize("criterion", ["magnitude", "snip"])
def test_a_network_of_nan_weights_is_not_pruned(criterion: str) -> None:
    network = nn.Linear(4, 2)
    with torch.no_grad():
        network.weight[0, 0] = NAN
    data = [(torch.randn(6, 4), torch.arange(6) % 2)]
    with pytest.raises(ValueError, match="NaN"):
        prune_one_shot(network, data, density=0.5, criterion=criterion)


NUMBERS = st.sampled_from([NAN, -2.0, -1.0, 0.0, 0.5, 0.5, 1.0, INF])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(values=st.lists(NUMBERS, min_size=1, max_size=12), data=st.data())
def test_top_k_is_exact_whatever_the_values(
    dtype: torch.dtype, values: list[float], data: st.DataObject
) -> None:
    """Against sorting in Python: NaN last, of equal ones the first by index."""
    k = data.draw(st.integers(0, len(values)))
    order = sorted(
        range(len(values)), key=lambda i: -(-INF if math.isnan(values[i]) else values[i])
    )
    expected = [i in order[:k] for i in range(len(values))]
    assert top_k(torch.tensor(values, dtype=dtype), k).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "pattern", ["element", "row", "kernel", "filter", "channel", "column", "4x4", "2:4"]
)
@pytest.mark.parametrize("allocate", ["layer", "row", "global", "erk"])
def test_half_precision_keeps_the_same_as_its_values_in_single(
    dtype: torch.dtype, pattern: str, allocate: str
) -> None:
    """A row of 300 weights around 1000 is beyond float16 when it is summed, and sums in bfloat16
    tie: the choice is that of the same numbers in float32."""
    torch.manual_seed(0)
    half = nn.Sequential(nn.Linear(300, 8), nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 16, 1)).to(dtype)
    with torch.no_grad():
        half[0].weight.copy_(1000 + 10 * torch.randn(8, 300))
        half[2].weight.copy_(1000 + 10 * torch.randn(16, 8, 1))
    options: dict = {"density": 0.5, "pattern": pattern, "allocate": allocate}
    if allocate != "layer" and ":" in pattern:
        return
    if allocate == "row" and pattern not in ("element", "kernel"):
        return
    masks = prune_one_shot(half, **options).masks
    assert masks == prune_one_shot(half.float(), **options).masks
    if allocate in ("layer", "row"):
        assert masks.density == pytest.approx(0.5)


def test_half_precision_weights_can_be_scored_by_data() -> None:
    torch.manual_seed(0)
    half = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16()
    data = [(torch.randn(12, 6).bfloat16(), torch.arange(12) % 3)]
    for criterion in ("snip", "grasp", "obd", "obd_ggn"):
        ticket = prune_one_shot(
            half,
            data,
            density=0.25,
            criterion=criterion,
            objective=Natural(),  # type: ignore
        )
        assert ticket.masks.kept == 12 + 6


@settings(max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=6),
    densities=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=7),
    pattern=st.sampled_from(["element", "row", "column", "3x2"]),
    allocate=st.sampled_from(["erk", "global", "layer"]),
    seed=st.integers(0, 99),
)
def test_what_is_pruned_stays_pruned_and_totals_are_exact(
    shapes: list[tuple[int, int]], densities: list[float], pattern: str, allocate: str, seed: int
) -> None:
    """Rounds of falling density, each with scores of its own, as in a lottery."""
    generator = torch.Generator().manual_seed(seed)
    layers = {str(i): nn.Linear(ins, outs, bias=False) for i, (ins, outs) in enumerate(shapes)}
    groups = {name: group_weight(layer, pattern) for name, layer in layers.items()}
    before: MaskSet | None = None
    for density in sorted(densities, reverse=True):
        scores = {n: torch.rand(g.shape, generator=generator) for n, g in groups.items()}
        masks = keep_best(
            scores,
            layers,
            density=density,
            pattern=pattern,
            allocate=allocate,
            within=before,  # type: ignore
        )
        kept = {n: int((g.reduce(masks[n].float()) > 0).sum()) for n, g in groups.items()}
        numbers = [g.number for g in groups.values()]
        if allocate == "layer":
            assert list(kept.values()) == [count_kept(density, number) for number in numbers]
        else:
            assert sum(kept.values()) == max(count_kept(density, sum(numbers)), len(layers))
        assert min(kept.values()) >= 1
        if before is not None:
            assert not any(bool((masks[name] & ~before[name]).any()) for name in layers)
        before = masks


def test_largest_remainders_alone_would_revive() -> None:
    """The Alabama paradox by hand, with shares 2 : 2 : 1. Of 4 parts the exact ones are 1.6, 1.6
    and 0.8, which is brought up to 1; of 3 they are 1 each."""
    shares, limits = {"a": 6.0, "b": 6.0, "c": 2.0}, dict.fromkeys("abc", 100)
    # of 11: 4.71, 4.71, 1.57 -> 5, 5, 1; of 10: 4.29, 4.29, 1.43 -> 4, 4, 2
    assert apportion(shares, limits, 11) == {"a": 5, "b": 5, "c": 1}
    assert apportion(shares, limits, 10) == {"a": 4, "b": 4, "c": 2}
    assert apportion(shares, {"a": 5, "b": 5, "c": 1}, 10) == {"a": 5, "b": 4, "c": 1}


def test_an_allocation_that_something_overrules_is_refused() -> None:
    layers = {"a": nn.Linear(10, 10), "b": nn.Linear(10, 5)}
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    check_allocation({"a": 0.1, "b": 0.7}, groups, 0.3)
    check_allocation({"a": 0.1, "b": 0.7}, groups, None)
    with pytest.raises(ValueError, match=r"keep 0\.3 of all groups, density says 0\.5; set dens"):
        check_allocation({"a": 0.1, "b": 0.7}, groups, 0.5)
    blocks = {name: group_weight(layer, "2:4") for name, layer in layers.items()}
    check_allocation("layer", blocks, 0.5)
    for allocate in ("global", "erk", {"a": 0.5, "b": 0.5}):
        with pytest.raises(ValueError, match="pattern '2:4' fixes what each layer keeps"):
            check_allocation(allocate, blocks, 0.5)  # type: ignore[arg-type]
