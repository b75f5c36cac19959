"""Groups and exact top-k, against answers a reader can compute."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from robustprune.sparsity import Groups, check_pattern, count_kept, group_weight, top_k


@pytest.mark.parametrize(
    ("density", "total", "kept"),
    [(0.5, 4, 2), (0.5, 5, 3), (0.07, 100, 7), (1.0, 7, 7), (1e-9, 7, 1), (0.3, 10, 3)],
)
def test_count_is_the_exact_ceiling(density: float, total: int, kept: int) -> None:
    assert count_kept(density, total) == kept


def test_the_float_ceiling_would_be_one_off() -> None:
    assert math.ceil(0.07 * 100) == 8
    assert count_kept(0.07, 100) == 7


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        count_kept(density, 10)


@given(st.integers(1, 999), st.integers(1, 10_000))
def test_count_agrees_with_fractions(thousandths: int, total: int) -> None:
    exact = math.ceil(Fraction(thousandths, 1000) * total)
    assert count_kept(thousandths / 1000, total) == exact


def test_of_equal_values_the_first_are_kept() -> None:
    values = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0])
    assert top_k(values, 3).tolist() == [True, True, False, True, False]
    assert top_k(torch.zeros(4), 2).tolist() == [True, True, False, False]


few_values = npst.arrays(
    np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])
)


@given(few_values, st.data())
def test_top_k_equals_a_stable_sort(array: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(array)))
    values = torch.from_numpy(array)
    order = torch.sort(values, descending=True, stable=True).indices
    expected = torch.zeros(len(array), dtype=torch.bool).index_fill_(0, order[:k], True)
    assert torch.equal(top_k(values, k), expected)


@pytest.mark.parametrize("kind", ["normal", "ties", "periodic", "half NaN", "NaN", "infinite"])
@pytest.mark.parametrize("k", [1, 777, 100_000, 199_999])
def test_top_k_of_many_values_equals_a_stable_sort(kind: str, k: int) -> None:
    number, g = 200_001, torch.Generator().manual_seed(0)
    values = torch.randn(number, generator=g)
    some = torch.rand(number, generator=g) < 0.5
    values = {
        "normal": values,
        "ties": values.relu(),
        "periodic": torch.arange(number) % 1024.0,
        "half NaN": values.masked_fill(some, torch.nan),
        "NaN": torch.full_like(values, torch.nan),
        "infinite": values.masked_fill(some, -torch.inf),
    }[kind]
    order = torch.sort(values.nan_to_num(-torch.inf, torch.inf), descending=True, stable=True)
    expected = torch.zeros(number, dtype=torch.bool).index_fill_(0, order.indices[:k], True)
    assert torch.equal(top_k(values, k), expected)


NAMES = ("element", "row", "kernel", "filter", "channel", "column")
# the module, and how many groups it has under each of NAMES
_COUNTED = {
    "linear": (nn.Linear(3, 4), (12, 4, 12, 4, 3, 3)),
    "conv1d": (nn.Conv1d(3, 4, 5), (60, 12, 12, 4, 3, 15)),
    "conv2d": (nn.Conv2d(3, 4, 5), (300, 60, 12, 4, 3, 75)),
    "conv3d": (nn.Conv3d(1, 2, 3), (54, 18, 2, 2, 1, 27)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (108, 36, 12, 6, 4, 36)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), (108, 36, 12, 6, 4, 36)),
}
LAYERS = {
    name: (module, dict(zip(NAMES, counts, strict=True)))
    for name, (module, counts) in _COUNTED.items()
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pattern", NAMES)
def test_groups_are_counted_and_spread(layer: str, pattern: str) -> None:
    module, numbers = LAYERS[layer]
    groups = group_weight(module, pattern)  # type: ignore[arg-type]
    assert groups.number == numbers[pattern]
    index = torch.arange(groups.number, dtype=torch.float32)
    spread = groups.expand(index)
    assert spread.shape == module.weight.shape
    sizes = torch.bincount(spread.flatten().long())
    assert sizes.tolist() == [module.weight.numel() // groups.number] * groups.number
    # summing what was spread gives each index times its group's size back
    assert torch.equal(groups.reduce(spread), index * sizes)


def test_a_filter_of_a_transposed_convolution_is_one_output_channel() -> None:
    """Dropping filter o must silence output channel o and nothing else."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    groups = group_weight(layer, "filter")
    x = torch.randn(2, 4, 5, 5)
    whole = layer(x)
    for channel in range(6):
        kept = torch.ones(6)
        kept[channel] = 0.0
        with torch.no_grad():
            masked = nn.functional.conv_transpose2d(x, layer.weight * groups.expand(kept), groups=2)
        assert float(masked[:, channel].abs().max()) == 0.0
        others = [c for c in range(6) if c != channel]
        assert torch.allclose(masked[:, others], whole[:, others])


def test_fan_in_counts_the_inputs_of_one_output() -> None:
    assert group_weight(nn.Linear(3, 4)).fan_in == 3
    assert group_weight(nn.Conv2d(4, 6, 3, groups=2)).fan_in == 18
    assert group_weight(nn.ConvTranspose2d(4, 6, 3, groups=2)).fan_in == 18
    assert group_weight(nn.ConvTranspose1d(4, 6, 5)).fan_in == 20


@pytest.mark.parametrize("layer", ["conv2d", "grouped", "transposed"])
def test_a_channel_is_one_input(layer: str) -> None:
    """Without group i no output depends on input channel i, and the others are as before."""
    torch.manual_seed(0)
    module = LAYERS[layer][0]
    groups = group_weight(module, "channel")
    x = torch.randn(2, groups.number, 7, 7)
    original = module.weight.detach().clone()
    for channel in range(groups.number):
        kept = torch.ones(groups.number)
        kept[channel] = 0.0
        without = x.clone()
        without[:, channel] = 0.0
        with torch.no_grad():
            expected = module(without)
            module.weight.copy_(original * groups.expand(kept))
            got = module(x)
            module.weight.copy_(original)
        assert torch.allclose(got, expected, atol=1e-6)


def test_tiles_by_hand() -> None:
    groups = group_weight(nn.Linear(5, 3), "2x2")
    assert groups.number == 2 * 3
    spread = groups.expand(torch.arange(6))
    assert spread.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert groups.reduce(torch.ones(3, 5)).tolist() == [4, 4, 2, 2, 2, 1]


def test_two_of_four_by_hand() -> None:
    groups = group_weight(nn.Linear(6, 2), "2:4")
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0, 7.0, 8.0], [5.0, 5.0, 5.0, 5.0, 0.0, 0.0]])
    chosen = groups.expand(groups.choose(groups.reduce(score), 0))
    # the last block has two inputs and keeps one of them; of equal scores the first stay
    assert chosen.int().tolist() == [[0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0]]
    assert groups.fixed == int(chosen.sum()) == 6


def test_two_of_four_of_a_layer_that_stores_its_inputs_first() -> None:
    # the weight of transformers' Conv1D is (inputs, outputs); 8 inputs are whole blocks
    groups = Groups(shape=(8, 2), pattern="2:4", transposed=True)
    values = torch.tensor([[1.0, 4.0, 3.0, 2.0, 7.0, 8.0, 5.0, 6.0], [5, 5, 5, 5, 0, 0, 0, 0]]).T
    chosen = groups.choose(values.flatten(), 8).view(8, 2).T
    assert chosen.int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("layer", LAYERS)
def test_n_of_m_runs_along_the_inputs(layer: str) -> None:
    module, _ = LAYERS[layer]
    groups = group_weight(module, "1:2")
    torch.manual_seed(0)
    values = torch.rand(module.weight.numel())
    chosen = groups.expand(groups.choose(values, 0))
    laid = Groups(groups.shape, "element", groups.conv_groups, groups.transposed).lay_out(chosen)
    ins = laid.shape[2]
    pairs = [laid.select(2, i).int() + laid.select(2, i + 1).int() for i in range(0, ins - 1, 2)]
    assert all(bool((pair == 1).all()) for pair in pairs)
    if ins % 2:
        assert bool(laid.select(2, ins - 1).all())
    assert int(chosen.sum()) == groups.fixed


@pytest.mark.parametrize(
    ("pattern", "density", "message"),
    [
        ("block", None, "unknown pattern 'block'; choose one of element, row"),
        ("0:4", None, "unknown pattern '0:4'"),
        ("5:4", None, "keeps 5 of every 4; N must not exceed M"),
        ("2:4", 0.25, "keeps exactly 0.5 of the weights, got density 0.25; set density to 0.5"),
        ("1:3", 0.333, "set density to 0.3333333333333333 or"),
    ],
)
def test_impossible_patterns_are_refused(pattern: str, density: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern, density)


def test_nm_stays_nm_where_rows_are_compared():
    groups = group_weight(nn.Linear(8, 3), "2:4", by_row=True)
    mask = groups.expand(groups.choose(torch.arange(24.0), 12))
    assert mask.int().tolist() == [[0, 0, 1, 1] * 2] * 3
