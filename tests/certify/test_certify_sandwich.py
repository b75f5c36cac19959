"""Certified radius ≤ r* ≤ attacked distance, and accuracy as an interval."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustprune.certify import SandwichViolation, check_sandwich, robust_accuracy_interval

LOWER = torch.tensor([0.0, 0.1, 0.2, 0.3])
UPPER = torch.tensor([0.0, 0.3, 0.2, math.inf])


def test_bounds_in_order_pass():
    check_sandwich(LOWER, UPPER)
    check_sandwich(torch.zeros(0), torch.zeros(0))


def test_a_violation_names_the_examples_worst_first():
    lower = torch.tensor([0.1, 0.5, 0.2, 0.4])
    with pytest.raises(
        SandwichViolation, match=r"3 of 4 .* examples 1 \(certified 0\.5, attacked "
    ):
        check_sandwich(lower, torch.tensor([0.0, 0.3, 0.2, 0.3]))
    with pytest.raises(SandwichViolation, match=r"1 \(.*\), 0 \(.*\), 3 \("):
        check_sandwich(lower, torch.tensor([0.0, 0.3, 0.2, 0.35]))
    with pytest.raises(SandwichViolation, match="and 15 more"):
        check_sandwich(torch.ones(25), torch.zeros(25))


def test_only_rounding_is_let_through():
    one = torch.ones(1, dtype=torch.float64)
    check_sandwich(one, one * (1 - 1e-7))
    with pytest.raises(SandwichViolation):
        check_sandwich(one, one * (1 - 1e-5))
    with pytest.raises(SandwichViolation):
        check_sandwich(one * 1e-300, one * 0)


def test_accuracy_as_an_interval():
    at = robust_accuracy_interval(LOWER, UPPER, 0.15)
    assert (at.certified, at.attacked, at.n) == (0.5, 0.75, 4)
    clean = robust_accuracy_interval(LOWER, UPPER, 0.0)
    assert clean.attacked == 0.75


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=20),
    st.floats(0, 3),
)
def test_the_true_accuracy_lies_inside(triples, eps):
    ranked = [sorted(triple) for triple in triples]
    lower, true, upper = torch.tensor(ranked, dtype=torch.float64).T
    at = robust_accuracy_interval(lower, upper, eps)
    assert at.certified <= (true > eps).double().mean() <= at.attacked


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.1], [0.1, 0.2], r"lower of shape \(1,\) and upper of shape \(2,\)"),
        ([math.inf], [math.inf], "every lower bound must be finite"),
        ([math.nan], [1.0], "every lower bound must be finite"),
        ([-0.1], [1.0], "every lower bound must be finite and at least 0"),
        ([0.1], [math.nan], "every upper bound must be at least 0"),
    ],
)
def test_refusals(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        check_sandwich(torch.tensor(lower), torch.tensor(upper))


def test_an_interval_needs_examples_and_a_radius():
    with pytest.raises(ValueError, match="at least one example, got none"):
        robust_accuracy_interval(torch.zeros(0), torch.zeros(0), 0.1)
    with pytest.raises(ValueError, match=r"eps=-0\.1 must be finite and at least 0"):
        robust_accuracy_interval(LOWER, UPPER, -0.1)
