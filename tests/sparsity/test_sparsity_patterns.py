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

from robustprune.sparsity import count_kept, group_weight, top_k


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


LAYERS = {
    "linear": (nn.Linear(3, 4), {"element": 12, "row": 4, "kernel": 12, "filter": 4}),
    "conv1d": (nn.Conv1d(3, 4, 5), {"element": 60, "row": 12, "kernel": 12, "filter": 4}),
    "conv2d": (nn.Conv2d(3, 4, 5), {"element": 300, "row": 60, "kernel": 12, "filter": 4}),
    "conv3d": (nn.Conv3d(1, 2, 3), {"element": 54, "row": 18, "kernel": 2, "filter": 2}),
    "grouped": (
        nn.Conv2d(4, 6, 3, groups=2),
        {"element": 108, "row": 36, "kernel": 12, "filter": 6},
    ),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        {"element": 108, "row": 36, "kernel": 12, "filter": 6},
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pattern", ["element", "row", "kernel", "filter"])
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


def test_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown pattern 'block'; choose one of element, row"):
        group_weight(nn.Linear(2, 2), "block")  # type: ignore[arg-type]
