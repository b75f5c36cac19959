"""Minimal-norm attacks on networks in half precision find what they find on them in float32."""

import copy

import pytest
import torch
from torch import nn

from attacks import CW, DDN, FAB, FMN, PGD, Bisection, DeepFool, ThreatModel, minimal_perturbation
from attacks.geometry import lengths

NORMS = ("linf", "l2", "l1")
DTYPES = (torch.bfloat16, torch.float16)


def halfspaces(dtype):
    """A linear network of two classes whose weights are numbers of ``dtype``, inputs that are tens
    of such numbers away from its boundary, and their r* in closed form by norm."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(64, 2, dtype=dtype)
    with torch.no_grad():
        network.weight.copy_(torch.randn(2, 64, generator=generator))
        network.bias.zero_()
    x = (0.25 + 0.7 * torch.rand(60, 64, generator=generator)).to(dtype)
    normal = (network.weight[0].double() - network.weight[1].double()).detach()
    gap = x.double() @ normal
    far = (gap.abs() > 3) & (gap.abs() < 7)
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}
    exact = {norm: gap[far].abs() / torch.linalg.vector_norm(normal, p) for norm, p in dual.items()}
    return network, x[far][:5], (gap[far][:5] < 0).long(), {n: r[:5] for n, r in exact.items()}


def attacks_of(norm, bounds):
    found = {
        "fmn": FMN(norm, bounds=bounds),
        "fab": FAB(norm, steps=30, bounds=bounds),
        "deepfool": DeepFool(norm, bounds=bounds),
        "bisection": Bisection(PGD(ThreatModel(norm, 2.5, bounds), steps=10, seed=0)),
    }
    if norm == "l2":
        found["ddn"] = DDN(bounds=bounds)
        found["cw"] = CW(searches=4, initial_c=1.0, learning_rate=0.05, bounds=bounds)
    return found


@pytest.mark.parametrize("bounds", [None, (-2.0, 3.0)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_attack_finds_the_r_of_float32_and_of_the_closed_form(dtype, norm, bounds):
    network, x, y, exact = halfspaces(dtype)
    wide = copy.deepcopy(network).float()
    # numbers below 1 are eps/2 apart, and logits have a relative error of that size, too
    allowed = torch.finfo(dtype).eps + (0.01 + 3 * torch.finfo(dtype).eps) * exact[norm]
    for name, attack in attacks_of(norm, bounds).items():
        x_adv = attack(network, x, y)
        assert x_adv.dtype == dtype
        assert (network(x_adv).argmax(1) != y).all(), name
        r = lengths(x_adv.double() - x.double(), norm)
        same = lengths(attack(wide, x.float(), y) - x.float(), norm)
        assert ((r - same).abs() < allowed).all(), (name, r / same)
    tried = [attacks_of(norm, bounds)["fab"]]
    found = minimal_perturbation(network, x, y, norm=norm, bounds=bounds, attacks=tried)
    assert torch.equal(found.r, lengths(found.x_adv.float() - x.float(), norm))
    assert ((found.r - exact[norm]).abs() < allowed).all(), found.r / exact[norm]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_and_support_hold_in_half_precision(dtype):
    network, x, y, _ = halfspaces(dtype)
    bounds = (0.0, 0.999)  # is 1.0 in bfloat16

    def first_half(batch):
        return (torch.arange(64) < 32).expand_as(batch)

    for attack in (
        *(FAB(norm, steps=10, bounds=bounds, support=first_half) for norm in NORMS),
        *(FMN(norm, steps=20, bounds=bounds, support=first_half) for norm in NORMS),
        DDN(steps=20, bounds=bounds, support=first_half),
        CW(
            steps=20,
            searches=2,
            initial_c=10.0,
            learning_rate=0.2,
            bounds=bounds,
            support=first_half,
        ),
        DeepFool(steps=10, bounds=bounds, support=first_half),
    ):
        x_adv = attack(network, x, y)
        assert (x_adv != x).any(), attack
        assert torch.equal(x_adv[:, 32:], x[:, 32:]), attack
        assert (x_adv >= 0).all(), attack
        assert (x_adv <= torch.tensor(0.999).to(dtype)).all(), attack


@pytest.mark.parametrize("slope", [0.0, 1e-3, 1e-7])
@pytest.mark.parametrize("norm", NORMS)
def test_a_boundary_beyond_the_numbers_of_float16_is_not_the_network_s_fault(norm, slope):
    def network(z):
        assert z.isfinite().all()
        margin = 3 + slope * z.sum(1)
        return torch.stack((-margin, margin), 1)

    x, y = torch.rand(4, 3).half(), torch.ones(4).long()
    attacks = [FAB(norm, steps=20), FMN(norm, steps=20), DeepFool(norm, steps=5)]
    for attack in [*attacks, DDN(steps=20), CW(steps=5, searches=9)]:
        assert torch.equal(attack(network, x, y), x), attack
