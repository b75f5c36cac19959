"""AUROC against scikit-learn and brute force, outside examples, and membership inference."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from robustprune.measure import (
    auroc,
    detection,
    likelihood_ratio,
    likelihood_ratio_scores,
    membership,
    paired_auroc,
    surrogates,
)
from robustprune.measure.membership import chance_at_low, membership_of


@pytest.mark.parametrize("digits", [1, 8])
def test_auroc_is_scikit_learns_with_and_without_ties(digits: int) -> None:
    rng = np.random.default_rng(digits)
    up, down = rng.normal(0.5, 1, 40).round(digits), rng.normal(0, 1, 70).round(digits)
    labels = np.r_[np.ones(40), np.zeros(70)]
    assert auroc(up, down) == pytest.approx(roc_auc_score(labels, np.r_[up, down]))
    assert auroc([1, 1], [1]) == 0.5
    assert (auroc([2], [1]), auroc([0], [1])) == (1.0, 0.0)


def test_delongs_variance_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(0.5, 1, 15), rng.normal(0, 1, 12)
    second = first[0] + rng.normal(0.3, 0.5, 15), first[1] + rng.normal(0, 0.5, 12)

    def wins(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.array([[(p > q) + 0.5 * (p == q) for q in pair[1]] for p in pair[0]])

    apart = wins(second) - wins(first)
    variance = apart.mean(1).var(ddof=1) / 15 + apart.mean(0).var(ddof=1) / 12
    found = paired_auroc(first, second)
    assert found.difference == pytest.approx(apart.mean())
    assert found.se == pytest.approx(variance**0.5)
    assert found.interval[1] - found.difference == pytest.approx(1.959964 * variance**0.5)
    same = paired_auroc(first, first)
    assert (same.difference, same.p, same.se) == (0.0, 1.0, 0.0)


def test_the_paired_test_is_false_as_often_as_it_says() -> None:
    """Two scores that are equally good: about 5% of p-values below 0.05."""
    rng = np.random.default_rng(1)
    low = 0
    for _ in range(400):
        base, rest = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
        pairs = [(base + rng.normal(0, 1, 60), rest + rng.normal(0, 1, 60)) for _ in range(2)]
        low += paired_auroc(*pairs).p < 0.05
    assert 8 <= low <= 36


def test_scores_are_scikit_learns_and_far_inputs_are_found_by_energy() -> None:
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
        model.bias.zero_()
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(50, 2, generator=generator)
    outside = torch.randn(60, 2, generator=generator)
    found = detection(model, x, outside, batch_size=7)
    logits = torch.cat([model(x), model(outside)]).detach().double()
    labels = [1] * 50 + [0] * 60
    assert found.softmax == pytest.approx(roc_auc_score(labels, logits.softmax(1).amax(1)))
    assert found.energy == pytest.approx(roc_auc_score(labels, logits.exp().sum(1).log()))
    assert found.energy > 0.8
    assert repr(found).startswith("Detection(n=50, outside=60, softmax=0.")


@pytest.mark.parametrize("shape", [(5, 2, 30), (5, 1, 31), (5, 3, 8, 12), (5, 1, 9, 7)])
def test_surrogates_keep_the_spectrum_and_lose_the_shape(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = surrogates(x, seed=1)
    axes = tuple(range(2, x.dim()))
    spectra = [torch.fft.fftn(one, dim=axes).abs() for one in (x, made)]
    torch.testing.assert_close(*spectra)
    torch.testing.assert_close(made.mean(axes), x.mean(axes))
    torch.testing.assert_close(made.var(axes), x.var(axes))
    assert (made - x).abs().mean() > 0.1
    assert torch.equal(made, surrogates(x, seed=1))
    assert surrogates(4 * x, bounds=(0.0, 1.0)).max() == 1.0


def test_surrogates_of_features_keep_each_column() -> None:
    x = torch.randn(30, 4)
    made = surrogates(x)
    assert torch.equal(made.sort(0).values, x.sort(0).values)
    assert not torch.equal(made, x)
    with pytest.raises(ValueError, match="give images, series or features"):
        surrogates(torch.zeros(2, 1, 1, 1, 1))


class Interpolator(nn.Module):
    """Ridge regression on 400 random features of a narrow kernel: with little ridge it knows its
    examples by heart, and nothing about others."""

    def __init__(self, x: Tensor, y: Tensor, seed: int, ridge: float = 1e-3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("first", torch.randn(x.shape[1], 400, generator=generator))
        self.register_buffer("phase", 6.3 * torch.rand(400, generator=generator))
        features, targets = self.features(x), nn.functional.one_hot(y, 2).float() * 8 - 4
        gram = features @ features.T + ridge * torch.eye(len(x))
        self.register_buffer("last", features.T @ torch.linalg.solve(gram, targets))

    def features(self, x: Tensor) -> Tensor:
        return torch.cos(x @ self.first + self.phase)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.last


def random_labels(n: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 10, generator=generator), torch.randint(2, (n,), generator=generator)
    return x, y, torch.arange(n) % 2 == 0


def test_the_loss_finds_the_members_of_a_memoriser_and_of_no_other_network() -> None:
    x, y, member = random_labels()
    pools = (x[member], y[member]), (x[~member], y[~member])
    known = membership(Interpolator(*pools[0], 0, ridge=300.0), *pools)
    assert known.auroc > 0.9
    assert known.advantage > 0.7
    assert known.tpr > 0.3
    torch.manual_seed(0)
    fresh = membership(nn.Linear(10, 2), *pools, batch_size=30)
    assert abs(fresh.auroc - 0.5) < 0.12  # three standard deviations: √((N+M+1)/(12NM)) = 0.041
    assert fresh.tpr < 0.1
    assert repr(fresh).startswith("Membership(members=100, others=100, auroc=0.")


def test_the_likelihood_ratio_is_stronger_and_at_chance_on_a_fresh_network() -> None:
    """Harder: heavy regularisation, so that losses of members and others overlap."""
    x, y, member = random_labels()

    def fit(xs: Tensor, ys: Tensor, seed: int) -> nn.Module:
        return Interpolator(xs, ys, seed, ridge=2000.0)

    target = fit(x[member], y[member], 99)
    plain = membership(target, (x[member], y[member]), (x[~member], y[~member]))
    ratio = likelihood_ratio(target, fit, x, y, member, shadows=16)
    assert ratio.auroc > plain.auroc + 0.02
    assert ratio.auroc > 0.8
    torch.manual_seed(0)
    fresh = likelihood_ratio(nn.Linear(10, 2), fit, x, y, member, shadows=8)
    assert abs(fresh.auroc - 0.5) < 0.12


def test_rates_by_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    up, down = rng.normal(1, 1, 150).round(1), rng.normal(0, 1, 250).round(1)
    fpr, tpr, _ = roc_curve([1] * 150 + [0] * 250, np.r_[up, down], drop_intermediate=False)
    found = membership_of(torch.from_numpy(up), torch.from_numpy(down))
    assert found.advantage == pytest.approx((tpr - fpr).max())
    assert found.tpr == pytest.approx(tpr[fpr <= 0.01].max())


@pytest.mark.parametrize("others", [9, 99, 100, 250])
def test_what_an_attack_that_knows_nothing_finds_at_a_low_rate(others: int) -> None:
    rng = np.random.default_rng(others)
    found = [
        membership_of(*map(torch.from_numpy, (rng.random(40), rng.random(others)))).tpr
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(
        chance_at_low(others), abs=4 * np.std(found) / math.sqrt(400)
    )


def test_the_likelihood_ratio_by_scipys_densities() -> None:
    """Algorithm 1 with one variance for all examples, written out example by example."""
    torch.manual_seed(0)
    x, y, made = torch.randn(11, 3), torch.arange(11) % 3, []

    def fit(xs: Tensor, ys: Tensor, seed: int) -> nn.Module:
        made.append((xs, nn.Linear(3, 3)))
        return made[-1][1]

    def phi(model: nn.Module) -> list[float]:
        p = model(x).double().softmax(1)[torch.arange(11), y]
        return (p / (1 - p)).log().tolist()

    target = nn.Linear(3, 3)
    found = likelihood_ratio_scores(target, fit, x, y, shadows=6)
    sides = [
        [
            [phi(model)[k] for xs, model in made if bool((xs == x[k]).all(1).any()) is inside]
            for k in range(11)
        ]
        for inside in (True, False)
    ]
    logs = []
    for values in sides:
        square = sum(((np.array(one) - np.mean(one)) ** 2).sum() for one in values)
        sigma = math.sqrt(square / sum(len(one) - 1 for one in values))
        means = [np.mean(one) for one in values]
        logs.append(norm.logpdf(phi(target), means, sigma))
    assert found.numpy() == pytest.approx(logs[0] - logs[1])


def test_refusals() -> None:
    x, y, member = random_labels(8)
    never = nn.Linear(10, 2)
    with torch.no_grad():
        never.bias[0] = -torch.inf
    with pytest.raises(ValueError, match="by logits of −∞"):
        likelihood_ratio(nn.Linear(10, 2), lambda *_: never, x, y, member, shadows=4)
    for count in (2, 5):
        with pytest.raises(ValueError, match="even number from 4"):
            likelihood_ratio(nn.Linear(10, 2), Interpolator, x, y, member, shadows=count)
    with pytest.raises(ValueError, match="both members and other examples"):
        likelihood_ratio(nn.Linear(10, 2), Interpolator, x, y, member | True)
    with pytest.raises(ValueError, match="at least one score on each side"):
        auroc([], [1.0])
    with pytest.raises(ValueError, match="none may be NaN"):
        auroc([float("nan")], [1.0])
    with pytest.raises(ValueError, match="same positive and negative"):
        paired_auroc(([1, 2], [1, 2]), ([1, 2, 3], [1, 2]))


def test_delongs_interval_stays_between_minus_one_and_one() -> None:
    found = paired_auroc(([2.0, 3.0], [0.0, 1.0]), ([2.0, 0.0], [1.0, 3.0]))
    assert -1.0 <= found.interval[0] < found.difference < found.interval[1] <= 1.0
