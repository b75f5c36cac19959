"""Rounding of weights against literal statements of GPTQ and of rounding to nearest."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.layerwise import prune_layerwise
from robustprune.layerwise.rounding import grid_of, onto, with_rounding
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.sparsegpt import sparsegpt


def literal_grid(row: list[float], bits: int) -> list[float]:
    low, high = min([*row, 0.0]), max([*row, 0.0])
    step = (high - low) / (2**bits - 1) or 1.0
    zero = round(-low / step)
    return [step * (code - zero) for code in range(2**bits)]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6), st.floats(-3, 3))
def test_the_nearest_value_of_a_row(bits: int, seed: int, shift: float) -> None:
    weight = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed)).double() + shift
    grid = grid_of(weight, bits)
    asked = 2 * torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed + 1)).double()
    for row in range(3):
        values = torch.tensor(literal_grid(weight[0, row].tolist(), bits), dtype=torch.float64)
        assert 0.0 in values
        best = (asked[0, row, :, None] - values).abs().amin(-1)
        found = grid.nearest(asked)[0, row]
        assert torch.allclose((found - asked[0, row]).abs(), best, atol=1e-9)
        assert (found[:, None] - values).abs().amin(-1).max() < 1e-9
        # the ends of the row are off by at most half a step
        assert (grid.nearest(weight) - weight).abs().max() <= grid.step.max() / 2 + 1e-9


def test_a_row_of_zeros_stays() -> None:
    weight = torch.zeros(1, 2, 4)
    assert torch.equal(grid_of(weight, 4).nearest(weight), weight)


def gptq(weight: Tensor, gram: Tensor, damp: float, bits: int) -> Tensor:
    """GPTQ as its paper states it, without blocks: quantise a column, then spread its error by the
    inverse of the Hessian of the columns that are left."""
    weight, grid = weight.clone(), grid_of(weight.unsqueeze(0), bits)
    n = weight.shape[1]
    hessian = gram + damp * gram.diagonal().mean() * torch.eye(n).double()
    rounded = torch.zeros_like(weight)
    for i in range(n):
        inverse = torch.linalg.inv(hessian[i:, i:])
        column = weight[:, i].view(1, -1, 1)
        rounded[:, i] = grid.nearest(column).flatten()
        error = (weight[:, i] - rounded[:, i]) / inverse[0, 0]
        weight[:, i:] -= error.unsqueeze(1) * inverse[0]
    return rounded


@pytest.mark.parametrize("block", [1, 3, 128])
def test_at_density_one_sparsegpt_is_gptq(make_layer: Any, block: int) -> None:
    problem = make_layer(density=1.0, target="own").problem
    solve = with_rounding("sparsegpt", sparsegpt, 4)
    found = solve(problem, block=block)
    assert torch.allclose(found.weight[0], gptq(problem.weight[0], problem.gram[0], 0.01, 4))
    assert bool(found.mask.all())
    # better than the nearest values, which is what it is for
    nearest = onto(grid_of(problem.weight, 4))(problem.weight, found.mask)
    assert problem.error(found.weight) < problem.error(nearest)


def network() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 12), nn.ReLU(),
        nn.Linear(12, 3),
    )  # fmt: skip
    x = torch.randn(64, 2, 8)
    return model.eval(), [(part, torch.zeros(len(part)).long()) for part in x.split(16)]


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"basis_pursuit"}))
@pytest.mark.parametrize("bits", [3, 8])
def test_every_solver_gives_weights_of_the_grid_with_exact_counts(solver: str, bits: int) -> None:
    model, loader = network()
    plain = prune_layerwise(model, loader, density=0.5, solver=solver)
    ticket = prune_layerwise(model, loader, density=0.5, solver=solver, quantise=bits)
    for name, mask in ticket.masks.items():
        assert int(mask.sum()) == int(plain.masks[name].sum())
        rows = model.get_parameter(name).detach().double().flatten(1)
        found = ticket.model.get_parameter(name).detach().double().flatten(1)
        grid = grid_of(rows.unsqueeze(0), bits)
        assert torch.allclose(grid.nearest(found.unsqueeze(0))[0], found, atol=1e-5)
        assert bool((found[~mask.flatten(1)] == 0).all())


def test_more_bits_lose_less() -> None:
    model, loader = network()
    errors = [
        sum(
            record.figures["relative_error"]
            for record in prune_layerwise(model, loader, density=0.6, quantise=bits).history
        )
        for bits in (2, 4, 8)
    ] + [
        sum(
            r.figures["relative_error"] for r in prune_layerwise(model, loader, density=0.6).history
        )
    ]
    assert errors[0] > errors[1] > errors[2] > 0.98 * errors[3]
    assert errors[2] < 1.1 * errors[3]


def test_it_goes_with_masks_from_elsewhere_attacks_and_fisher() -> None:
    model, loader = network()
    masks = prune_layerwise(model, loader, density=0.4, solver="magnitude").masks
    attack = PGD(ThreatModel("linf", 0.1), steps=2, seed=0)
    for options in (
        {"masks": masks, "solver": "refit"},
        {"density": 0.4, "attack": attack, "sweeps": 2},
        {"density": 0.4, "outputs": "fisher", "allocate": "global"},
        {"density": 0.5, "pattern": "2:4", "solver": "sparsegpt"},
    ):
        ticket = prune_layerwise(model, loader, quantise=4, **options)
        for name in ticket.masks:
            rows = ticket.model.get_parameter(name).flatten(1)
            assert max(len(row.unique()) for row in rows) <= 16


@pytest.mark.parametrize("bits", [1, 9, 4.0, True])
def test_other_numbers_of_bits_are_told(bits: object) -> None:
    model, loader = network()
    with pytest.raises(ValueError, match="from 2 to 8"):
        prune_layerwise(model, loader, density=0.5, quantise=bits)
