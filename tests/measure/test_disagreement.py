"""Churn, flips and fairness on tables that are made by hand, and exact intervals by enumeration."""

import itertools

import pytest
import torch
from scipy.stats import multinomial
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.measure import disagreement, exact_difference, fairness, fairness_of
from robustprune.measure.disagreement import disagreement_of
from robustprune.measure.fairness import cells, odds_of, parity_of, worst_of


def says(answers: list[int], classes: int = 2) -> Tensor:
    """Logits with these answers."""
    return F.one_hot(torch.tensor(answers), classes).double()


def test_churn_and_flips_by_hand() -> None:
    #              class 0        class 1
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    first = says([0, 0, 0, 1, 1, 1, 1, 1, 1, 0], 3)
    second = says([0, 1, 2, 2, 1, 1, 1, 1, 1, 1], 3)
    found = disagreement_of(first, second, y, names=["cat", "dog", "fish"])
    assert found.churn.value == 0.4  # the fourth is wrong both times, with another answer
    assert (found.lost, found.won) == (2, 1)
    assert [(f.name, f.n, f.lost, f.won) for f in found.classes] == [
        ("cat", 4, 2, 0),
        ("dog", 6, 0, 1),
    ]
    assert found.worst_class.change == -0.5
    assert found.worst_class.p == 1.0  # p = 0.5 and p = 1, times 2
    assert repr(found) == (
        "Disagreement(n=10, churn=0.4, lost=2, won=1, worst class cat: -0.5 [-0.953, 0.619])"
    )


def test_groups_lose_differently_and_holm_corrects_for_their_number() -> None:
    y = torch.zeros(60, dtype=torch.int64)
    second = says([0] * 40 + [1] * 10 + [0] * 10)
    groups = ["b"] * 20 + ["c"] * 20 + ["a"] * 20
    found = disagreement_of(says([0] * 60), second, y, groups=groups)
    worst = found.groups[0]
    assert (worst.name, worst.n, worst.lost, worst.won) == ("a", 20, 10, 0)
    assert worst.p == pytest.approx(3 * 2 * 0.5**10)
    assert worst.ci95[1] < 0
    assert [one.p for one in found.groups[1:]] == [1.0, 1.0]


def test_a_network_agrees_with_itself() -> None:
    model, x, y = nn.Linear(3, 4), torch.randn(20, 3), torch.arange(20) % 4
    found = disagreement(model, model, x, y, batch_size=6)
    assert found.churn.value == found.lost == found.won == 0
    assert all(one.p == 1.0 and one.ci95[0] < 0 < one.ci95[1] for one in found.classes)
    wider = disagreement(model, model, x, y % 2, names=["a", "b"])  # than its two classes
    assert {one.name for one in wider.classes} == {"a", "b"}


@pytest.mark.parametrize(("b", "c"), [(0.0, 0.0), (0.3, 0.0), (0.2, 0.2), (0.05, 0.45), (0.9, 0.1)])
def test_the_exact_interval_covers_in_every_case(b: float, c: float) -> None:
    """The probability of all tables of 12 examples whose interval holds the true difference."""
    n, law = 12, multinomial(12, [b, c, max(1 - b - c, 0.0)])
    covered = sum(
        float(law.pmf([k, m, n - k - m]))
        for k, m in itertools.product(range(n + 1), repeat=2)
        if k + m <= n and exact_difference(k, m, n)[0] <= b - c <= exact_difference(k, m, n)[1]
    )
    assert covered >= 0.95


def test_parity_and_odds_on_a_constructed_table() -> None:
    """Group a: 6 of 10 get class 1, group b: 2 of 10. True positive rates 4/5 and 1/2, false
    positive rates 2/5 and 0/6."""
    rows = [
        *[("a", 1, 1)] * 4,
        *[("a", 1, 0)] * 1,
        *[("a", 0, 1)] * 2,
        *[("a", 0, 0)] * 3,
        *[("b", 1, 1)] * 2,
        *[("b", 1, 0)] * 2,
        *[("b", 0, 0)] * 6,
    ]
    groups, labels, answers = zip(*rows, strict=True)
    y, logits = torch.tensor(labels), says(list(answers))
    found = fairness_of(logits, y, groups)
    assert found.parity == pytest.approx(0.4)
    assert found.odds == pytest.approx(0.4)
    assert found.worst_group == "a"
    assert found.worst_accuracy == 0.7
    assert found.accuracy["b"].value == 0.8
    assert "worst group 'a': 0.7, n=10" in repr(found)
    table = cells(logits, y, groups).sum(0).view(1, 2, 2, 2)
    assert (parity_of(table), odds_of(table), worst_of(table)) == (
        pytest.approx(0.4),
        pytest.approx(0.4),
        pytest.approx(0.7),
    )


def test_equal_rates_are_fair_and_opposite_answers_are_not() -> None:
    y, groups = torch.tensor([0, 1] * 10), [k // 10 for k in range(20)]
    fair = fairness_of(says([0, 1] * 10), y, groups)
    assert (fair.parity, fair.odds, fair.worst_accuracy) == (0.0, 0.0, 1.0)
    unfair = fairness_of(says([0] * 10 + [1] * 10), y, groups)
    assert (unfair.parity, unfair.odds) == (1.0, 1.0)
    # the second group has no example of label 1, so that label 0 alone is compared
    alone = fairness_of(says([0, 1, 0, 0]), torch.tensor([0, 1, 0, 0]), [0, 0, 1, 1])
    assert alone.odds == 0.0
    assert alone.parity == 0.5


def test_refusals() -> None:
    model, x, y = nn.Linear(2, 2), torch.zeros(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="at least two groups, got a"):
        fairness(model, x, y, ["a", "a", "a"])
    with pytest.raises(ValueError, match="there are 2 groups for 3 examples"):
        fairness(model, x, y, ["a", "b"])
    with pytest.raises(ValueError, match=r"gives logits \(3, 2\) and the compressed one \(3, 4\)"):
        disagreement(model, nn.Linear(2, 4), x, y)
    with pytest.raises(ValueError, match="there are 1 names for labels up to 1"):
        disagreement(model, model, x, y, names=["a"])
    with pytest.raises(ValueError, match="must be counts of n=3"):
        exact_difference(2, 2, 3)
