"""Allocation and selection, against answers a reader can compute and exact counts."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustprune.sparsity import (
    Groups,
    MaskSet,
    allot,
    apportion,
    count_kept,
    group_weight,
    keep_best,
    maskable_layers,
)
from robustprune.sparsity.ranking import count_best
from robustprune.sparsity.shares import ideal_gas_quotas


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


def test_ideal_gas_quotas_by_hand() -> None:
    """Of 4 and 12 groups, F = 1/4 keeps 4/2 + 12/4 = 5."""
    assert ideal_gas_quotas({"a": 4, "b": 12}, 5 / 16) == pytest.approx({"a": 2, "b": 3})
    values = {"a": torch.zeros(4), "b": torch.zeros(12)}
    assert allot(values, groups_of(values), 5 / 16, "igq") == {"a": 2, "b": 3}
    assert allot(values, groups_of(values), 1.0, "igq") == {"a": 4, "b": 12}
    assert allot(values, groups_of(values), 0.01, "igq") == {"a": 1, "b": 1}


def test_ideal_gas_quotas_of_a_resnet() -> None:
    """A pre-activation ResNet-18 at 1%, by its stem, classifier and last convolutions."""
    sizes = {"stem": 1728, "fc": 5120}
    sizes |= {f"1.{i}": 64 * 64 * 9 for i in range(4)}
    for stage, width in ((2, 128), (3, 256), (4, 512)):
        sizes[f"{stage}.0"] = width * width // 2 * 9
        sizes |= {f"{stage}.{i}": width * width * 9 for i in range(1, 4)}
        sizes[f"{stage}.down"] = width * width // 2
    kept = ideal_gas_quotas(sizes, 0.01)
    assert sum(kept.values()) == pytest.approx(0.01 * sum(sizes.values()))
    shares = {name: kept[name] / size for name, size in sizes.items()}
    assert shares["stem"] == pytest.approx(0.780, abs=5e-4)
    assert shares["fc"] == pytest.approx(0.545, abs=5e-4)
    assert shares["4.1"] == pytest.approx(0.003, abs=5e-4)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.floats(0.001, 1))
def test_ideal_gas_quotas_add_up_and_favour_small_layers(sizes: list[int], density: float) -> None:
    numbers = {str(i): size for i, size in enumerate(sizes)}
    kept = ideal_gas_quotas(numbers, density)
    assert sum(kept.values()) == pytest.approx(density * sum(sizes), rel=1e-6)
    by_size = sorted(numbers, key=lambda name: numbers[name])
    shares = [kept[name] / numbers[name] for name in by_size]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(shares))


ROWS = {
    "linear": nn.Linear(7, 5),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose1d(4, 6, 3, groups=2),
    "one input": nn.Linear(1, 5),
}


@pytest.mark.parametrize("layer", ROWS)
@pytest.mark.parametrize("pattern", ["element", "kernel", "1x2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(st.integers(1, 100), st.booleans())
def test_every_output_keeps_its_best(
    layer: str, pattern: str, dtype: torch.dtype, percent: int, ties: bool
) -> None:
    """Against sorting the groups of one output at a time, in Python."""
    module, density = ROWS[layer], percent / 100
    if layer == "transposed" and pattern == "kernel":
        pattern = "row"  # of a convolution in one dimension the same
    torch.manual_seed(percent)
    score = torch.rand(module.weight.shape)
    score = ((4 * score).round() if ties else score).to(dtype)
    masks = keep_best({"a": score}, {"a": module}, density=density, pattern=pattern, allocate="row")

    def outputs(values: torch.Tensor) -> list[list[float]]:
        """The weights of each output, however the layer has them."""
        if layer == "transposed":
            values = torch.cat([part.transpose(0, 1) for part in values.chunk(2)])
        return values.flatten(1).tolist()  # type: ignore[no-any-return]

    size = {"element": 1, "1x2": 2}.get(pattern, module.weight[0, 0].numel())
    for scores, kept in zip(outputs(score.float()), outputs(masks["a"]), strict=True):
        sums = [sum(scores[i : i + size]) for i in range(0, len(scores), size)]
        wanted = math.ceil(Fraction(percent, 100) * len(sums))
        best = sorted(range(len(sums)), key=lambda i: -sums[i])[:wanted]
        assert kept == [i // size in best for i in range(len(scores))]


def test_rows_within_earlier_masks_bring_nothing_back() -> None:
    layer = {"a": nn.Linear(4, 2)}
    scores = {"a": torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])}
    alive = torch.tensor([[False, True, False, True], [True, True, True, False]])
    masks = keep_best(scores, layer, density=0.5, allocate="row", within=MaskSet({"a": alive}))
    assert masks["a"].int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    lone = torch.tensor([[True, False, False, False], [True, True, True, True]])
    masks = keep_best(scores, layer, density=0.5, allocate="row", within=MaskSet({"a": lone}))
    assert masks["a"].int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("pattern", ["filter", "channel", "column", "2x2", "row"])
def test_rows_are_refused_where_nothing_in_them_is_compared(pattern: str) -> None:
    layer = {"a": nn.Linear(4, 2)}
    why = "is all that an output has" if pattern in ("row", "filter") else "spans outputs"
    with pytest.raises(ValueError, match=f"pattern '{pattern}' {why} in 'a'; take pattern 'elem"):
        keep_best({"a": torch.rand(2, 4)}, layer, density=0.5, pattern=pattern, allocate="row")


FLOATS = st.sampled_from([math.nan, -math.inf, math.inf, -2.0, -1e-30, -0.0, 0.0, 0.5, 0.5, 1.0])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@given(
    st.lists(
        st.tuples(st.lists(FLOATS | st.floats(width=16), min_size=1), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_the_best_of_all_are_counted_exactly(
    parts: list[tuple[list[float], torch.dtype]], data: st.DataObject
) -> None:
    """Against sorting all values together: NaN last, of equal ones the first."""
    values = {str(i): torch.tensor(v, dtype=dtype) for i, (v, dtype) in enumerate(parts)}
    flat = [
        (name, -math.inf if math.isnan(one) else one)
        for name, value in values.items()
        for one in value.tolist()
    ]
    k = data.draw(st.integers(0, len(flat)))
    first = [name for name, _ in sorted(flat, key=lambda pair: -pair[1])[:k]]
    assert count_best(values, k) == {name: first.count(name) for name in values}
    # at least one of each: its largest leads
    left = list(flat)
    for name in values:
        left.remove(max((pair for pair in flat if pair[0] == name), key=lambda pair: pair[1]))
    more = sorted(left, key=lambda pair: -pair[1])[: max(k - len(values), 0)]
    names = [*values, *(name for name, _ in more)]
    assert count_best(values, k, least=1) == {name: names.count(name) for name in values}


def test_infinite_scores_leave_every_layer_one() -> None:
    values = {"a": torch.full((3,), math.inf), "b": torch.tensor([1.0, 2.0])}
    assert allot(values, groups_of(values), 0.4, "global") == {"a": 1, "b": 1}


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
