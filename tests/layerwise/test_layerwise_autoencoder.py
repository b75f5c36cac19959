"""The sparsely connected auto-encoder: each step against scikit-learn, lstsq, autograd or PCA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from robustprune.layerwise import sparse_autoencoder
from robustprune.layerwise.autoencoder import codes_of, descend, error_of, lasso_of

SPLITS = ["activations", "weights"]


def data(number: int = 60, width: int = 8, rank: int = 3) -> Tensor:
    """Examples near a space of few dimensions, (N, d)."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    x = torch.randn(number, rank, generator=generator, dtype=torch.float64) @ mix
    x = x + 0.1 * torch.randn(number, width, generator=generator, dtype=torch.float64)
    return x - x.mean(0)


def test_a_lasso_step_is_that_of_scikit_learn() -> None:
    x = data().mT
    random = torch.Generator().manual_seed(2)
    codes = torch.randn(3, 8, generator=random, dtype=torch.float64) @ x
    found = lasso_of(x, codes, 0.3, torch.zeros(8, 3, dtype=torch.float64), 5000)
    for row in range(8):
        truth = Lasso(alpha=0.15, fit_intercept=False, tol=1e-12, max_iter=100_000)
        truth.fit(codes.mT.numpy(), x[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), truth.coef_, atol=1e-6)
    assert bool((found == 0).any())
    # a start at the solution stays, and one step from elsewhere is never worse
    assert torch.allclose(lasso_of(x, codes, 0.3, found, 1), found, atol=1e-8)


def test_the_codes_are_the_least_squares_of_both_their_terms() -> None:
    x = data().mT
    random = torch.Generator().manual_seed(0)
    shapes = [(8, 3), (3, 60)]
    decoder, encoded = (torch.randn(*n, generator=random, dtype=torch.float64) for n in shapes)
    stacked = torch.cat([decoder, math.sqrt(0.7) * torch.eye(3, dtype=torch.float64)])
    truth = torch.linalg.lstsq(stacked, torch.cat([x, math.sqrt(0.7) * encoded])).solution
    torch.testing.assert_close(codes_of(x, decoder, encoded, 0.7), truth)


def test_a_gradient_step_follows_autograd() -> None:
    x = data().mT
    gram = x @ x.mT / 60
    random = torch.Generator().manual_seed(1)
    shapes = [(3, 8), (8, 3), (3, 8), (8, 3)]
    w, v, t, s = (torch.randn(*n, generator=random, dtype=torch.float64) for n in shapes)

    def value(encoder: Tensor, decoder: Tensor) -> Tensor:
        fit = (x - decoder @ encoder @ x).square().sum() / 60
        return fit + 0.4 * ((encoder - t).square().sum() + (decoder - s).square().sum())

    torch.testing.assert_close(error_of(gram, w, v), (x - v @ w @ x).square().sum() / 60)
    w.requires_grad_()
    v.requires_grad_()
    slopes = torch.autograd.grad(value(w, v), (w, v))
    w, v = w.detach(), v.detach()
    (new_w, new_v), rate = descend(gram, [w, v], [t, s], 0.4, 1, 1e-4)
    length = rate / 2  # it doubles after a step
    assert length == 1e-4
    torch.testing.assert_close(new_w, w - length * slopes[0])
    torch.testing.assert_close(new_v, v - length * slopes[1])
    assert float(value(new_w, new_v)) < float(value(w, v))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("penalty", [0.0, 0.05, 0.5])
def test_without_a_dual_the_objective_never_rises(split: Any, penalty: float) -> None:
    for coupling in (0.1, 1.0):
        found = sparse_autoencoder(
            data(),
            3,
            penalty=penalty,
            split=split,
            coupling=coupling,
            iterations=25,
            inner=5,
        )
        values = np.array(found.objective)
        assert len(values) == len(found.gap) == 25
        assert bool((np.diff(values) <= 1e-9 * values[:-1]).all())


@pytest.mark.parametrize(
    ("split", "dual"), [("activations", False), ("activations", True), ("weights", False)]
)
def test_without_a_penalty_it_finds_the_principal_components(split: Any, dual: bool) -> None:
    """The least error of rank 3 is the sum of the other eigenvalues (Eckart & Young)."""
    x = data()
    best = float(torch.linalg.eigvalsh(x.mT @ x / 60)[:-3].sum())
    found = sparse_autoencoder(
        x,
        3,
        penalty=0.0,
        split=split,
        dual=dual,
        coupling=0.1,
        iterations=250,
    )
    error = float((x - found(x)).square().sum()) / 60
    assert best <= error + 1e-9
    assert error == pytest.approx(best, rel=0.02)
    assert found.encode(x).shape == (60, 3)


@pytest.mark.parametrize("split", SPLITS)
def test_a_penalty_makes_zeros_and_the_dual_closes_the_gap(split: Any) -> None:
    x = data()
    plain, joined = (
        sparse_autoencoder(x, 3, penalty=0.3, split=split, dual=dual, iterations=80, inner=10)
        for dual in (False, True)
    )
    assert joined.gap[-1] < 0.01 * plain.gap[-1]
    for found in (plain, joined):
        zeros = (found.encoder == 0).sum() + (found.decoder == 0).sum()
        assert found.density == pytest.approx(1 - int(zeros) / 48)
        assert 0.1 < found.density < 0.9
    dense = sparse_autoencoder(x, 3, penalty=0.01, split=split, dual=True, iterations=80, inner=10)
    assert dense.density > joined.density
    nothing = sparse_autoencoder(x, 3, penalty=1e3, split=split, iterations=20)
    assert nothing.density == 0


def test_the_threshold_is_the_minimum_of_its_part() -> None:
    """T minimises η (w − t)² + λ |t|, here on a grid: the threshold is λ / 2η."""
    grid = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    found = sparse_autoencoder(data(), 3, penalty=0.4, split="weights", coupling=0.5, iterations=1)
    x = data()
    first = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = first / math.sqrt(8)
    near = [weight.sign() * (weight.abs() - 0.4).clamp(min=0) for weight in (first, first.mT)]
    (w, v), _ = descend(x.mT @ x / 60, [first, first.mT.clone()], near, 0.5, 50, 1.0)
    for weight, sparse in ((w, found.encoder), (v, found.decoder)):
        for one, kept in zip(weight.flatten(), sparse.flatten(), strict=True):
            best = grid[(0.5 * (one - grid).square() + 0.4 * grid.abs()).argmin()]
            assert float(kept) == pytest.approx(float(best), abs=2e-4)


def test_the_seed_alone_decides_and_half_precision_is_computed_in_float32() -> None:
    x = data()
    a, b, c = (sparse_autoencoder(x, 3, penalty=0.1, iterations=3, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.encoder, b.encoder)
    assert not torch.equal(a.encoder, c.encoder)
    assert sparse_autoencoder(x.bfloat16(), 3, penalty=0.1, iterations=3).encoder.dtype == (
        torch.float32
    )


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(4), {}, r"must be a floating-point matrix \(N, d\), got torch.float32 of \(4"),
        (torch.zeros(4, 2, dtype=torch.int64), {}, r"got torch.int64 of \(4, 2\)"),
        (torch.full((4, 2), torch.nan), {}, "hold NaN or infinity"),
        (torch.ones(4, 2), {"hidden": 0}, "hidden must be at least 1, got 0"),
        (torch.ones(4, 2), {"inner": 0}, "inner must be at least 1, got 0"),
        (torch.ones(4, 2), {"penalty": -1.0}, "penalty must be a number from 0 on, got -1.0"),
        (torch.ones(4, 2), {"coupling": 0.0}, "coupling must be positive and finite, got 0.0"),
        (torch.ones(4, 2), {"split": "both"}, "unknown split 'both'; choose activations or weig"),
    ],
)
def test_what_makes_no_sense_is_refused(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse_autoencoder(x, **{"hidden": 2, "penalty": 0.1, **options})
