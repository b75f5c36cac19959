"""Sums of second moments give the same least squares as running the layer itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustprune.layerwise import columns
from robustprune.layerwise.moments import Moments, as_matrices, as_weight, energy_of, outputs_of
from robustprune.sparsity import group_weight

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A layer and an input for it."""
    dims = draw(st.integers(0, 3))
    torch.manual_seed(draw(st.integers(0, 999)))
    if dims == 0:
        lead = draw(st.lists(st.integers(1, 3), max_size=3))
        return nn.Linear(4, 3), torch.randn(*lead, 4)
    groups = draw(st.sampled_from([1, 2]))
    mode = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    stride = draw(st.integers(1, 2))
    padding: Any = draw(st.integers(0, 2))
    if stride == 1:
        padding = draw(st.sampled_from([padding, "same", "valid"]))
    layer = CONVS[dims](
        2 * groups, 2 * groups, tuple(draw(st.integers(1, 3)) for _ in range(dims)), stride=stride,
        padding=padding, dilation=draw(st.integers(1, 2)), groups=groups, padding_mode=mode,
    )  # fmt: skip
    size = [draw(st.integers(5, 7)) for _ in range(dims)]
    batch = [3] if draw(st.booleans()) else []
    if dims == 3 and mode == "reflect":
        batch = [3]
    return layer, torch.randn(*batch, 2 * groups, *size)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@given(layers(), st.booleans())
@settings(max_examples=60)
def test_the_error_is_that_of_the_layer_itself(made: tuple[nn.Module, Tensor], small: bool) -> None:
    layer, x = made
    layer, x = layer.double(), x.double()
    groups, weight = group_weight(layer), layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    bias = layer.bias.detach().view(-1, *[1] * (weight.ndim - 2))
    torch.testing.assert_close(outputs_of(layer, weight, x) + bias, layer(x).detach())
    target = torch.randn_like(layer(x))
    before = columns.PIECE
    try:
        columns.PIECE = 20 if small else before
        sums = Moments(layer, groups, dtype=torch.float64)
        sums.add(x, {"it": target})
        sums.add(2 * x, {"it": target})
        energy = energy_of(layer, x, dtype=torch.float64) * 5
    finally:
        columns.PIECE = before
    problem = sums.problem("it", groups, weight, groups.number)
    other = torch.randn_like(weight)
    error = sum((outputs_of(layer, other, k * x) - target).square().sum() for k in (1, 2))
    expected = float(error / (2 * target.square().sum()))
    assert problem.error(as_matrices(groups, other)) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(energy, problem.energy)
    torch.testing.assert_close(as_weight(groups, problem.weight), weight)


def test_without_a_target_it_is_what_the_weights_give() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv1d(2, 3, 3).double(), torch.randn(4, 2, 9).double()
    weight = layer.weight.detach()
    sums = Moments(layer, group_weight(layer), dtype=torch.float64)
    sums.add(x, {})
    problem = sums.problem("it", group_weight(layer), weight, 3)
    assert problem.error(problem.weight) == pytest.approx(0, abs=1e-12)
    assert problem.error(0 * problem.weight) == pytest.approx(1)
    torch.testing.assert_close(problem.power, outputs_of(layer, weight, x).square().sum())


@pytest.mark.parametrize("target", [True, False])
def test_the_bias_of_least_squares(target: bool) -> None:
    """Weights and bias together are the regression with a column of ones."""
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).double(), torch.randn(50, 4).double() + 2
    wanted = torch.randn(50, 3).double() if target else x @ layer.weight.detach().T
    sums = Moments(layer, group_weight(layer), dtype=torch.float64)
    sums.add(x, {"it": wanted} if target else {})
    problem = sums.problem("it", group_weight(layer), layer.weight.detach(), 12, centred=True)
    found = problem.quadratic(0.0).optimum
    ones = torch.cat([x, torch.ones(50, 1).double()], 1)
    expected = torch.linalg.lstsq(ones, wanted).solution.T
    torch.testing.assert_close(found[0], expected[:, :4])
    step = sums.bias_step("it", problem.weight, found)
    torch.testing.assert_close(step, expected[:, 4], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("flat", [True, False])
def test_tokens_that_do_not_count(flat: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    counted = torch.rand(2, 5) > 0.4
    target = torch.randn(2, 5, 3)
    one, two = (Moments(layer, group_weight(layer), dtype=torch.float64) for _ in range(2))
    given_x, given_t = (x.flatten(0, 1), target.flatten(0, 1)) if flat else (x, target)
    one.add(given_x, {"it": given_t}, counted)
    two.add(x[counted], {"it": target[counted]})
    assert one.samples == int(counted.sum())
    assert torch.equal(one.gram, two.gram)
    assert torch.equal(one.cross["it"], two.cross["it"])
    pooled = Moments(layer, group_weight(layer), dtype=torch.float64)
    pooled.add(x.mean(1), {}, counted)  # no tokens
    assert pooled.samples == 2


def test_transformers_conv1d() -> None:
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer, x = Conv1D(3, 4).double(), torch.randn(2, 5, 4).double()
    groups, weight = group_weight(layer), layer.weight.detach()
    sums = Moments(layer, groups, dtype=torch.float64)
    target = torch.randn(2, 5, 3).double()
    sums.add(x, {"it": target})
    problem = sums.problem("it", groups, weight, 12)
    other = torch.randn_like(weight)
    expected = (x @ other - target).square().sum() / target.square().sum()
    assert problem.error(as_matrices(groups, other)) == pytest.approx(float(expected))
    torch.testing.assert_close(as_weight(groups, problem.weight), weight)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_products_in_float32_are_as_accurate_with_many_batches_as_with_one(kind: str) -> None:
    """Sums in float64 do not lose digits: each product's error is a few times 2^-24."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 5) if kind == "linear" else nn.Conv2d(4, 5, 3, padding=1)
    exact, fast = (
        Moments(layer, group_weight(layer), dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    sums = torch.zeros_like(exact.gram, dtype=torch.float32)
    for _ in range(200):
        x = torch.randn(2000, 12) + 3 if kind == "linear" else torch.rand(4, 4, 16, 16)
        before = fast.gram.clone()
        with torch.no_grad():
            target = layer(x)
        exact.add(x, {"it": target})
        fast.add(x, {"it": target})
        sums += (fast.gram - before).float()
    energy = exact.gram.diagonal(dim1=1, dim2=2).sqrt()
    size = energy.unsqueeze(1) * energy.unsqueeze(2)
    worst, before = (float(((g - exact.gram) / size).abs().max()) for g in (fast.gram, sums))
    assert worst < 2e-7 < before  # sums in float32 lose a digit here
    torch.testing.assert_close(
        fast.cross["it"], exact.cross["it"], rtol=1e-6, atol=1e-6 * size.max()
    )
    torch.testing.assert_close(fast.total, exact.total, rtol=1e-6, atol=0)
    torch.testing.assert_close(fast.power["it"], exact.power["it"], rtol=1e-6, atol=0)
    problem = fast.problem("it", group_weight(layer), layer.weight.detach(), 1)
    assert problem.gram.dtype == torch.float32
