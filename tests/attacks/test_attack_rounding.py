"""The ball and the bounds in exact arithmetic, in half precision, and an ulp beyond a bound."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FGSM,
    FMN,
    PGD,
    AdvDrop,
    AutoAttack,
    BandLimited,
    DeepFool,
    Square,
    ThreatModel,
    minimal_perturbation,
)
from attacks.threat import bounds_around, within

NORMS = ("linf", "l2", "l1")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def true_length(x, x_adv, norm):
    """‖x_adv − x‖ of the numbers themselves, in NumPy's longest floats."""
    delta = (x_adv.double().numpy() - x.double().numpy()).reshape(len(x), -1)
    delta = np.abs(delta.astype(np.longdouble))
    if norm == "linf":
        return delta.max(1)
    return delta.sum(1) if norm == "l1" else np.sqrt((delta**2).sum(1))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(3, 1), (2, 7), (2, 3, 8, 8), (1, 2000)]),
    norm=st.sampled_from(NORMS),
    eps=st.floats(1e-4, 20) | st.sampled_from([0.1, 0.3, 8 / 255, 0.5, 12.0]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 100.0]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    dtype=st.sampled_from(DTYPES),
    bounded=st.booleans(),
)
def test_the_true_distance_is_at_most_eps(seed, shape, norm, eps, scale, offset, dtype, bounded):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator).to(dtype) + offset
    far = x + scale * torch.randn(shape, generator=generator).to(dtype)
    threat = ThreatModel(norm, eps, (offset, offset + 1.0) if bounded else None)
    out = threat.project(x, far)
    assert out.dtype == dtype
    rounding = 1e-14 if dtype == torch.float64 else 0  # no wider floats to compute the distance in
    assert true_length(x, out, norm).max() <= eps * (1 + rounding)
    assert torch.equal(threat.project(x, out), out)
    assert threat.distance(x, out).max().item() <= eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_half_precision_uses_the_radius_that_it_has(dtype, norm):
    """Every number is a step of 2⁻⁹ or more from the next: rounding all towards x would lose a
    fifth of the radius, and no attack would be as strong as in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 32, 32, generator=generator).to(dtype)
    far = x + torch.randn(x.shape, generator=generator).to(dtype)
    eps = 0.5 if norm == "l2" else 12.0
    assert true_length(x, ThreatModel(norm, eps).project(x, far), norm).min() >= 0.99 * eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("norm", NORMS)
def test_attacks_stay_in_the_true_ball(dtype, norm):
    torch.manual_seed(0)
    x = torch.rand(6, 2, 5, 5).to(dtype)
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 3)).to(dtype)
    y = model(x).argmax(1)
    eps = {"linf": 0.1, "l2": 0.7, "l1": 3.0}[norm]
    threat = ThreatModel(norm, eps, (0.0, 1.0))
    attacks = [FGSM(threat), PGD(threat, steps=4, seed=0), APGD(threat, steps=6, seed=0)]
    attacks += [PGD(threat, steps=4, restarts=2, seed=0), Square(threat, queries=20, seed=0)]
    attacks += [PGD(threat, steps=4, early_stop=True, seed=0)]
    if norm != "l1":
        attacks.append(PGD(BandLimited(norm, eps, low=0, high=2), steps=3, seed=0))
    for attack in attacks:
        out = attack(model, x, y)
        assert out.dtype == dtype
        assert true_length(x, out, norm).max() <= eps, attack


def normalised():
    """Pixels normalised in float32, and the bounds of the same numbers in float64."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 1, 6, 6), generator=generator).float() / 255
    pixels[:, :, 0, :3], pixels[:, :, 0, 3:] = 0.0, 1.0
    x = (pixels - 0.1307) / 0.3081
    return x, ((0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081)


@pytest.mark.parametrize("norm", NORMS)
def test_a_rounding_error_beyond_a_bound_is_no_fault_of_the_input(norm):
    x, bounds = normalised()
    # the case at hand: x ends beyond both bounds, by a last place
    assert x.min().item() < bounds[0]
    assert x.max().item() > bounds[1]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    y = model(x).argmax(1)
    threat = ThreatModel(norm, 0.4, bounds)
    attacks = [FGSM(threat), PGD(threat, steps=3), APGD(threat, steps=5), Square(threat, queries=9)]
    attacks += [FMN(norm, steps=5, bounds=bounds), FAB(norm, steps=3, bounds=bounds)]
    attacks += [DeepFool(norm, steps=3, bounds=bounds), AdvDrop(0.5, steps=3, bounds=bounds)]
    attacks += [CW(steps=5, searches=2, bounds=bounds), DDN(steps=5, bounds=bounds)]
    attacks += [AutoAttack(threat, steps=5, queries=9)]
    lo, hi = (torch.tensor(bound, dtype=torch.float32) for bound in bounds)
    for attack in attacks:
        out = attack(model, x, y)
        assert bool(((out >= torch.minimum(lo, x)) & (out <= torch.maximum(hi, x))).all()), attack
    assert minimal_perturbation(model, x, y, norm=norm, bounds=bounds).success_rate > 0


def test_an_entry_on_the_bound_can_still_be_attacked():
    """Of an image most pixels lie at the bound: frozen there, they would pass for robust."""
    x, bounds = normalised()
    background = x == x.min()
    out = ThreatModel("linf", 0.1, bounds).project(x, x + 1)
    assert torch.allclose(out[background], x[background] + 0.1)
    down = ThreatModel("linf", 0.1, bounds).project(x, x - 1)
    assert torch.equal(down[background], x[background])


def test_what_may_not_change_stays_even_beyond_the_bound():
    x, bounds = normalised()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    y = model(x).argmax(1)

    def lower_half(batch):
        return (torch.arange(6) > 2)[:, None].expand_as(batch)

    for attack in (
        FMN(steps=4, bounds=bounds, support=lower_half),
        DDN(steps=4, bounds=bounds, support=lower_half),
        FAB(steps=3, bounds=bounds, support=lower_half),
    ):
        assert torch.equal(attack(model, x, y)[:, :, :3], x[:, :, :3]), attack


def test_within_and_around_by_hand():
    one = torch.ones(1, 1)
    last = torch.tensor([[1.0000001]])
    assert within(last, (0.0, 1.0))
    assert not within(torch.tensor([[1.00001]]), (0.0, 1.0))
    assert not within(torch.tensor([[-1e-5]]), (0.0, 1.0))
    assert not within(torch.tensor([[torch.nan]]), (0.0, 1.0))
    assert within(torch.tensor([[-1e30]]), None)
    assert not within(torch.tensor([[-0.1]]), (0.0, float("inf")))
    assert within(last.double(), (0.0, 1.0))  # computed in float32, and cast
    assert bounds_around((0.0, 1.0), one) == (0.0, 1.0)
    low, high = bounds_around((0.0, 1.0), last)
    assert (low.item(), high.item()) == (0.0, last.item())


@pytest.mark.parametrize("eps", [torch.tensor(0.1), np.float32(0.1), np.array(0.1), 1, np.int64(1)])
def test_eps_as_people_write_it(eps):
    threat = ThreatModel("linf", eps)
    assert type(threat.eps) is float
    assert threat.eps == float(eps)


def test_eps_of_one_value_an_example():
    x, y = torch.rand(5, 3, 4), torch.zeros(5).long()
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    threat = ThreatModel("linf", np.linspace(0.1, 0.5, 5))
    out = PGD(threat, steps=2)(model, x, y)
    assert (true_length(x, out, "linf") <= np.linspace(0.1, 0.5, 5)).all()
    for wrong in (4, 1):
        threat = ThreatModel("linf", torch.full((wrong,), 0.1))
        for attack in (FGSM(threat), PGD(threat, restarts=2), APGD(threat), Square(threat)):
            with pytest.raises(ValueError, match=f"eps holds {wrong} values for 5 examples"):
                attack(model, x, y)


@pytest.mark.parametrize("eps", ["0.1", None, True, torch.zeros(2, 2), [0.1, -0.1], float("inf")])
def test_eps_that_is_none_is_refused_in_one_line(eps):
    with pytest.raises(ValueError, match="must be finite and at least 0") as caught:
        ThreatModel("linf", eps)
    assert "\n" not in str(caught.value)


def test_bounds_as_people_write_them():
    x = torch.rand(2, 3, 4)
    for bounds in ((np.zeros(3), np.ones(3)), ([0, 0, 0], [1, 1, 1]), (np.float32(0), 1)):
        out = ThreatModel("linf", 0.4, bounds).project(x, x + 1)
        assert torch.equal(out, (x + 0.4).clamp(0, 1).minimum(out))
        assert out.max().item() == 1
    for bounds in (("a", "b"), 0.0, (1.0, 0.0), (float("nan"), 1.0), (np.ones(3), np.zeros(3))):
        with pytest.raises(ValueError, match="bounds=") as caught:
            ThreatModel("linf", 0.4, bounds)
        assert "\n" not in str(caught.value)


def test_bounds_in_double_are_not_rounded_to_single():
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    bounds = (0.5 - 1e-9, 0.5 + 1e-9)
    for norm in NORMS:
        moved = ThreatModel(norm, 1.0, bounds).project(x, x + 1)
        assert torch.equal(moved, torch.full_like(x, bounds[1])), norm


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_shorter_than_the_numbers_are_apart_add_up(dtype, norm, random_start, early_stop):
    """In [0.5, 1) the numbers of bfloat16 are 1/256 apart; many short steps reach what few do."""
    generator = torch.Generator().manual_seed(0)
    x = (0.6 + 0.3 * torch.rand(4, 16, generator=generator)).to(dtype)
    network = nn.Linear(16, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        network.weight.copy_(torch.ones(16) * torch.tensor([[1.0], [-1.0]]))
    eps = {"linf": 8 / 255, "l2": 0.2, "l1": 0.7}[norm]
    attack = PGD(
        ThreatModel(norm, eps, (0.0, 1.0)),
        steps=200,
        random_start=random_start,
        early_stop=early_stop,
        seed=0,
    )
    x_adv = attack(network, x, torch.zeros(4).long())
    moved = (x.double() - x_adv.double()).sum(1)  # the best point lowers the sum of all entries
    best = {"linf": 16 * eps, "l2": 4 * eps, "l1": eps}[norm]
    assert moved.min() > 0.8 * best
    assert true_length(x, x_adv, norm).max() <= eps * (1 + 1e-14)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_examples_may_all_be_broken_at_the_same_step(dtype, norm):
    network = nn.Linear(4, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))
    x, y = torch.full((3, 4), 0.25, dtype=dtype), torch.zeros(3).long()
    attack = PGD(ThreatModel(norm, 4.0), steps=8, random_start=False, early_stop=True)
    assert (network(attack(network, x, y)).argmax(1) == 1).all()
