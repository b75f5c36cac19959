"""Whole numbers in proportion to shares, with costs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustprune.sparsity import apportion


def test_costs_by_hand() -> None:
    shares, limits = {"a": 4.0, "b": 2.0}, {"a": 4, "b": 4}
    # in proportion 2 : 1 at a cost of 2 + 3 for each unit: 10 buys 4 and 2
    assert apportion(shares, limits, 10, costs={"a": 1, "b": 3}) == {"a": 4, "b": 2}
    # 3.2 and 1.6 for 8: b is rounded up
    assert apportion(shares, limits, 8, costs={"a": 1, "b": 3}) == {"a": 3, "b": 2}
    # 3.6 and 1.8 for 9.4 at 2.1 and 1: both are rounded up, a is enough
    assert apportion(shares, limits, 9.4, costs={"a": 2.1, "b": 1}) == {"a": 4, "b": 1}
    # no layer is left without any, whatever it costs
    assert apportion(shares, limits, 1, costs={"a": 1, "b": 100}) == {"a": 1, "b": 1}
    assert apportion(shares, limits, 1000, costs={"a": 1, "b": 2}) == {"a": 4, "b": 4}


LAYERS = st.lists(
    st.tuples(st.floats(0, 50), st.integers(1, 40), st.integers(1, 1000)), min_size=1, max_size=6
)


@given(LAYERS, st.integers(0, 100))
def test_the_total_is_reached_and_no_more_than_one_is_too_much(
    layers: list[tuple[float, int, int]], percent: int
) -> None:
    shares = {str(i): share for i, (share, _, _) in enumerate(layers)}
    limits = {str(i): limit for i, (_, limit, _) in enumerate(layers)}
    costs = {str(i): cost for i, (_, _, cost) in enumerate(layers)}
    total = percent * sum(costs[n] * limits[n] for n in limits) // 100
    counts = apportion(shares, limits, total, costs=costs)
    spent = sum(costs[n] * counts[n] for n in counts)
    assert all(1 <= counts[n] <= limits[n] for n in limits)
    assert spent >= total
    assert spent - max(costs.values()) < max(total, sum(costs.values()))


@given(LAYERS, st.integers(0, 250), st.sampled_from([0.25, 1.0, 8.0]))
def test_equal_costs_only_change_the_unit(
    layers: list[tuple[float, int, int]], total: int, cost: float
) -> None:
    shares = {str(i): share for i, (share, _, _) in enumerate(layers)}
    limits = {str(i): limit for i, (_, limit, _) in enumerate(layers)}
    costs = dict.fromkeys(shares, cost)
    assert apportion(shares, limits, total * cost, costs=costs) == apportion(shares, limits, total)
