import math

import pytest
import torch
from torch import nn

from attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FMN,
    PGD,
    Bisection,
    DeepFool,
    Square,
    ThreatModel,
    minimal_perturbation,
)
from attacks.geometry import lengths
from attacks.hyperplane import step_to_hyperplane
from attacks.minimal import MinimalPerturbation

NORMS = ("linf", "l2", "l1")


def nearest_attacks(norm, bounds=None):
    attacks = [FMN(norm, steps=200, bounds=bounds), DeepFool(norm, bounds=bounds)]
    attacks.append(FAB(norm, steps=30, targets=None, bounds=bounds))
    attacks.append(FAB(norm, steps=30, targets=3, bounds=bounds))
    attack = APGD(ThreatModel(norm, 8.0, bounds), steps=30, seed=0)
    attacks.append(Bisection(attack, rounds=11))
    if norm == "l2":
        attacks += [DDN(steps=200, bounds=bounds)]
        attacks += [CW(steps=100, searches=6, learning_rate=0.05, initial_c=1.0, bounds=bounds)]
    return attacks


@pytest.mark.parametrize(("shape", "examples"), [((5,), 8), ((3, 7), 3), ((2, 3, 3), 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_within_one_percent_of_the_closed_form_on_linear_models(linear, norm, shape, examples):
    # with more classes most attacks walk to the likeliest of them, which need not be the nearest
    model, x, y = linear(shape, classes=2, examples=examples, seed=5)
    exact = model.nearest(x, y, norm)
    for attack in nearest_attacks(norm):
        r = lengths(attack(model, x, y) - x, norm)
        assert (model(attack(model, x, y)).argmax(1) != y).all(), attack
        assert (r >= exact * (1 - 1e-9)).all(), attack
        assert (r <= exact * 1.01 + 1e-9).all(), (attack, r / exact)
    model, x, y = linear(shape, classes=4, examples=examples, seed=5)
    exact = model.nearest(x, y, norm)
    for attack in (FAB(norm, steps=30, targets=None), DeepFool(norm)):
        assert (lengths(attack(model, x, y) - x, norm) <= exact * 1.01).all(), attack
    result = minimal_perturbation(model, x, y, norm=norm)
    assert (result.r >= exact * (1 - 1e-9)).all()
    assert (result.r <= exact * 1.01).all()


def brute_force_plane(x, w, gap, norm, lo, hi):
    """The same problem by bisection on the multiplier of every closed-form d(t)."""
    sign = math.copysign(1, gap)
    room = torch.where(w * sign > 0, hi - x, x - lo)
    best = None
    for t in torch.linspace(0, 10, 20001, dtype=x.dtype):
        size = {"linf": (w != 0) * t, "l2": w.abs() * t}[norm]
        d = torch.minimum(size, room) * (w * sign).sign()
        if (w * d).sum() * sign >= abs(gap):
            best = d
            break
    return best


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("gap", [0.5, -0.7, 0.0])
def test_step_to_hyperplane_in_a_box(norm, gap):
    x = torch.tensor([[0.9, 0.1, 0.5, 0.3]]).double()
    w = torch.tensor([[2.0, -1.0, 0.0, 0.5]]).double()
    d = step_to_hyperplane(x, w, torch.tensor([gap]).double(), norm, (0.0, 1.0))
    assert (w * d).sum().item() == pytest.approx(gap)
    assert (x + d).min() >= 0
    assert (x + d).max() <= 1
    expected = brute_force_plane(x[0], w[0], gap, norm, 0.0, 1.0)
    assert torch.allclose(d[0], expected, atol=1e-3)


def test_step_to_hyperplane_in_l1_by_hand():
    x = torch.tensor([[0.9, 0.1, 0.5]]).double()
    w = torch.tensor([[2.0, 1.5, 0.5]]).double()
    # the heaviest entry has 0.1 of room, worth 0.2; the next one brings the remaining 0.6
    d = step_to_hyperplane(x, w, torch.tensor([0.8]).double(), "l1", (0.0, 1.0))
    assert torch.allclose(d, torch.tensor([[0.1, 0.4, 0.0]]).double())
    d = step_to_hyperplane(x, w, torch.tensor([0.8]).double(), "l1", None)
    assert torch.allclose(d, torch.tensor([[0.4, 0.0, 0.0]]).double())
    # out of reach: everything as far as it goes
    d = step_to_hyperplane(x, w, torch.tensor([9.0]).double(), "l1", (0.0, 1.0))
    assert torch.allclose(d, torch.tensor([[0.1, 0.9, 0.5]]).double())


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_hold_and_every_point_is_adversarial(trained, norm):
    model, x, y = trained
    bounds = (x.min().item(), x.max().item())
    right = model(x).argmax(1) == y
    for attack in nearest_attacks(norm, bounds):
        x_adv = attack(model, x, y)
        assert x_adv.min().item() >= bounds[0], attack
        assert x_adv.max().item() <= bounds[1], attack
        moved = (x_adv != x).flatten(1).any(1)
        assert (model(x_adv).argmax(1) != y)[moved].all(), attack
        assert not moved[~right].any(), attack
        assert moved[right].float().mean() > 0.9, attack


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_perturbation_agrees_with_a_grid(trained, norm):
    """Brute force: the nearest misclassified point of a fine grid of the plane."""
    model, x, y = trained
    x, y = x[:60], y[:60]
    axis = torch.linspace(-4, 4, 321)
    grid = torch.cartesian_prod(axis, axis)
    wrong = model(grid).argmax(1)[None] != y[:, None]
    apart = (grid[None] - x[:, None]).abs()
    distance = {
        "linf": apart.amax(2),
        "l2": apart.square().sum(2).sqrt(),
        "l1": apart.sum(2),
    }[norm]
    exact = distance.masked_fill(~wrong, torch.inf).amin(1)
    result = minimal_perturbation(model, x, y, norm=norm)
    assert result.success_rate > 0.95
    assert (result.r <= exact + 0.03).float().mean() > 0.9
    # what is nearer than the grid can see lies within a cell of it
    assert (result.r >= exact - 0.05).all()
    assert (result.r[model(x).argmax(1) != y] == 0).all()


def test_zero_for_misclassified_infinity_where_nothing_is_found():
    class Stubborn(nn.Module):  # class 0 wherever the first entry is not negative
        def forward(self, x):
            return torch.stack((x[:, 0] * 0 + 1, -10 * x[:, 0]), 1)

    x = torch.tensor([[0.5, 0.2], [0.5, 0.2]])
    result = minimal_perturbation(Stubborn(), x, torch.tensor([0, 1]), bounds=(0.0, 1.0))
    assert torch.equal(result.r, torch.tensor([torch.inf, 0.0]))
    assert torch.equal(result.x_adv, x)
    assert result.success_rate == 0.5
    assert result.mean == 0
    assert result.median == 0
    assert result.quantile(0.6) == math.inf


def test_a_point_on_the_boundary_does_not_count():
    """The attack returns a point where both logits tie up to rounding."""

    def model(x):
        return torch.stack((x[:, 0], torch.zeros(len(x))), 1)

    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])

    def hair(model, x, y):
        return torch.tensor([[-1e-9, 0.0]])

    assert minimal_perturbation(model, x, y, attacks=[hair], lead=0.0).success_rate == 1

    def spread(x):  # the same, but a lead of 1e-9 is nothing against logits of 100
        return torch.cat((model(x), torch.full((len(x), 1), -100.0)), 1)

    # the point is pushed out along its ray until the lead is 1e-5 of the spread
    pushed = minimal_perturbation(spread, x, y, attacks=[hair])
    assert 1.001 <= pushed.r.item() <= 1.0011
    assert minimal_perturbation(spread, x, y, attacks=[hair], lead=0.1).success_rate == 0


def test_all_misclassified(trained):
    model, x, _ = trained
    result = minimal_perturbation(model, x, (model(x).argmax(1) + 1) % 3)
    assert (result.r == 0).all()
    assert result.summary()["median"] == 0


def test_statistics_by_hand():
    r = torch.tensor([0.0, 1.0, 2.0, 4.0, math.inf])
    result = MinimalPerturbation(r, torch.zeros(5, 1), "l2")
    assert result.success_rate == pytest.approx(0.8)
    assert result.mean == pytest.approx(7 / 4)
    assert result.median == 2
    assert result.quantile(0.8) == 4
    assert result.accuracy_at(1.0) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"q=2"):
        result.quantile(2)


@pytest.mark.parametrize("norm", NORMS)
def test_units_do_not_matter(trained, norm):
    """The same problem in inputs 1000 times as large has distances 1000 times as large."""
    model, x, y = trained
    x, y = x[:40].double(), y[:40]
    model = nn.Sequential(*(layer for layer in model)).double()
    for attack in (FMN(norm, steps=40), DDN(steps=40), FAB(norm, steps=10), DeepFool(norm)):
        small = lengths(attack(model, x, y) - x, norm)
        large = lengths(attack(lambda z: model(z / 1000), 1000 * x, y) - 1000 * x, norm)
        assert torch.allclose(large, 1000 * small, rtol=1e-4), attack
    model.float()


def test_bisection_follows_each_example(trained):
    model, x, y = trained
    pgd = PGD(ThreatModel("linf", 3.0), steps=20, seed=0)
    rounds = [
        Bisection(pgd, rounds=10),
        Bisection(pgd, rounds=2),
        Bisection(pgd, rounds=2, halvings=0),
    ]
    near, middle, far = (lengths(attack(model, x, y) - x, "linf") for attack in rounds)
    assert (near <= far + 1e-6).float().mean() > 0.95
    assert near.mean() < 0.95 * middle.mean()
    assert middle.mean() < 0.8 * far.mean()  # the line search is worth more rounds
    blind = Bisection(Square(ThreatModel("linf", 3.0), queries=50, seed=0))(model, x, y)
    moved = (blind != x).any(1)
    assert moved.float().mean() > 0.7
    assert (model(blind).argmax(1) != y)[moved].all()
    with pytest.raises(ValueError, match=r"step_size=0\.1 does not follow"):
        Bisection(PGD(ThreatModel("linf", 1.0), step_size=0.1))


@pytest.mark.parametrize("norm", NORMS)
def test_edge_cases(linear, norm):
    for classes in (2, 3):
        model, x, y = linear((4,), classes=classes, examples=1)
        for attack in nearest_attacks(norm):
            assert attack(model, x[:0], y[:0]).shape == (0, 4)
            assert (model(attack(model, x, y)).argmax(1) != y).all()
    assert minimal_perturbation(model, x[:0], y[:0]).r.shape == (0,)


@pytest.mark.parametrize("attack", [DDN(steps=3), FMN("l2", steps=3), CW(steps=3, searches=1)])
def test_zero_gradients_are_survived(attack):
    x = torch.rand(2, 3)

    def flat(batch):
        return torch.tensor([[1.0, 0.0]]) + 0 * batch[:, :2]

    assert torch.equal(attack(flat, x, torch.tensor([0, 0])), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMN("l3"), "norm='l3'"),
        (lambda: DDN(gamma=1.0), r"gamma=1\.0"),
        (lambda: FMN(gamma=0.0), r"gamma=0\.0"),
        (lambda: DDN(steps=0), "steps=0"),
        (lambda: FAB(restarts=2), "restarts=2 needs eps"),
        (lambda: FAB(targets=0), "targets=0"),
        (lambda: DeepFool(overshoot=-1.0), r"overshoot=-1\.0"),
        (lambda: CW(initial_c=0.0), r"initial_c=0\.0"),
        (lambda: DDN(bounds=(1.0, 0.0)), "lo < hi"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refused_inputs(linear):
    model, x, y = linear((3,))
    with pytest.raises(ValueError, match="outside bounds"):
        minimal_perturbation(model, x, y, bounds=(0.0, 0.1))
    with pytest.raises(ValueError, match="attacks is empty"):
        minimal_perturbation(model, x, y, attacks=[])
    with pytest.raises(ValueError, match="NaN logits"):
        minimal_perturbation(lambda z: model(z) * float("nan"), x, y)


def two_first(x):
    """Where x may change: its first two entries."""
    return (torch.arange(x.shape[1]) < 2).expand_as(x)


@pytest.mark.parametrize("norm", NORMS)
def test_outside_the_support_every_bit_stays(norm):
    """Token ids are such entries: one that is 0.0001 less is another word."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 30522, (40, 6), generator=generator).float()
    x[:, :2] = torch.randn(40, 2, generator=generator)

    def model(z):
        return torch.stack((z[:, 0] + 0.1 * z[:, 1] ** 2, z[:, 1]), 1)

    y = model(x).argmax(1)
    attacks = [
        FAB(norm, steps=20, support=two_first),
        FAB(norm, steps=20, eps=0.01, restarts=2, support=two_first),
        FMN(norm, steps=20, support=two_first),
    ]
    if norm == "l2":
        attacks.append(DDN(steps=20, support=two_first))
    for attack in attacks:
        x_adv = attack(model, x, y)
        assert torch.equal(x_adv[:, 2:], x[:, 2:]), attack
        assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("slope", [0.0, 1e-45, 1e-38, 1e-36, 1e-30, 1e-20, 1e-15])
def test_a_next_to_flat_network_is_left_alone(norm, slope):
    """Its linearised boundary is nowhere that floating point could go: no inf, no NaN on the way,
    and what must not change does not."""
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5).long()
    x[:, 2] = 30521

    def model(z):
        assert bool((z[:, 2] == 30521).all())
        assert bool((z[:, :2].square().sum(1) < 1e38).all())
        margin = 3 + slope * z[:, :2].clamp(-1e3, 1e3).sum(1)
        return torch.stack((-margin, margin), 1)

    attacks = [FAB(norm, steps=30, support=two_first), FMN(norm, support=two_first)]
    for attack in [*attacks, DDN(support=two_first)] if norm == "l2" else attacks:
        assert torch.equal(attack(model, x, y), x), attack
