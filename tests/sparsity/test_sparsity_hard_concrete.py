"""Hard-concrete gates: their distribution, and what is drawn from their scores."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustprune.sparsity import GateGroup, count_kept, draw_masks, gate_groups
from robustprune.sparsity.gates import Span
from robustprune.sparsity.hard_concrete import (
    Gated,
    Gates,
    expected,
    probability_kept,
    sampled,
    score_of,
)


@pytest.mark.parametrize("score", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_the_closed_form_is_the_sampled_frequency(score: float) -> None:
    n = 200_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(0))
    frequency = float((sampled(torch.tensor(score), u) != 0).float().mean())
    p = float(probability_kept(torch.tensor(score)))
    assert abs(frequency - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_gate_opens_exactly_where_the_closed_form_says() -> None:
    """m ≠ 0 ⇔ u > 1 − P: no sampling error at all."""
    for score in (-3.0, 0.0, 2.0):
        p = float(probability_kept(torch.tensor(score, dtype=torch.float64)))
        u = torch.tensor([1 - p - 1e-9, 1 - p + 1e-9], dtype=torch.float64)
        gates = sampled(torch.tensor(score, dtype=torch.float64), u)
        assert gates[0] == 0
        assert gates[1] > 0


@given(st.floats(0.001, 0.999))
def test_the_score_of_a_probability(p: float) -> None:
    assert float(probability_kept(torch.tensor(score_of(p), dtype=torch.float64))) == pytest.approx(
        p
    )


def test_gates_are_differentiable_in_the_score() -> None:
    score = torch.tensor([-0.5, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: sampled(s, u), score)
    assert torch.autograd.gradcheck(expected, score)
    assert torch.autograd.gradcheck(probability_kept, score)


def test_one_sample_a_draw_and_none_in_eval_mode() -> None:
    gates = Gates(torch.zeros(1000), seed=3)
    first = gates()
    assert torch.equal(gates(), first)
    gates.draw = 1
    assert not torch.equal(gates(), first)
    gates.draw = 0
    assert torch.equal(gates(), first)
    gates.eval()
    assert torch.equal(gates(), expected(gates.score))
    assert not torch.equal(Gates(torch.zeros(1000), seed=4)(), first)


def test_scores_stay_float32_under_bfloat16() -> None:
    layer = nn.Linear(4, 3, bias=False).bfloat16().requires_grad_(False)
    gates = Gates(torch.full((3, 4), 2.0), seed=0)
    gated = Gated(gates, Span((3, 4)), owner=True)
    out = gated(layer.weight)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert gates.score.dtype == torch.float32
    # a step of 1e-4 on a score of 2 would vanish in bfloat16
    before = gates.score.detach().clone()
    torch.optim.SGD(gated.parameters(), lr=1.0).step()
    with torch.no_grad():
        gates.score.add_(1e-4)
    assert bool((gates.score != before).all())


def test_one_owner_holds_the_score() -> None:
    gates = Gates(torch.full((2,), 2.0), seed=0)
    owner = Gated(gates, Span((4, 3), 0, 2), owner=True)
    other = Gated(gates, Span((3, 4), 1, 2), owner=False)
    assert [name for name, _ in owner.named_parameters()] == ["own.score"]
    assert list(other.parameters()) == []
    gates.eval()
    with torch.no_grad():
        gates.score.copy_(torch.tensor([9.0, -9.0]))
    assert owner(torch.ones(4, 3)).tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2
    assert other(torch.ones(3, 4)).tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3


def test_the_draw_is_global_and_exact() -> None:
    groups = {
        "a": GateGroup((2, 2), {"a": Span((2, 2))}),
        "b": GateGroup((3,), {"b": Span((3, 2), 0)}),
    }
    scores = {"a": torch.tensor([[4.0, 1.0], [3.0, 9.0]]), "b": torch.tensor([2.0, 5.0, 0.0])}
    masks = draw_masks(scores, groups, 4 / 7)
    assert masks["a"].tolist() == [[True, False], [True, True]]
    assert masks["b"].tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert draw_masks(scores, groups, 1.0).density == 1.0


@given(st.floats(0.01, 1.0), st.integers(0, 5))
def test_the_density_of_weights_is_exact(density: float, seed: int) -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    groups = gate_groups(model, "weight")
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.randn(g.shape, generator=generator) for n, g in groups.items()}
    assert draw_masks(scores, groups, density).kept == count_kept(density, 50)


def test_refusals() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="unknown granularity 'heads'; choose one of weight, head"):
        gate_groups(model, "heads")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        score_of(1.0)
    with pytest.raises(ValueError, match="density must be in"):
        draw_masks({}, {}, 0.0)
