"""Share whole numbers out: equally, in proportion to shares, and by ideal gas quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def apportion(
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    total: float,
    *,
    costs: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Return whole numbers in proportion to `shares`, from 1 to each limit, that add up to `total`.

    What a full layer cannot take goes to the others in the same proportion. Fractions are rounded
    by the largest remainder; of equal ones the first is rounded up. `total` is clamped to the
    feasible range. With `costs`, positive and one for each name, it is the sum of cost · number
    that reaches `total`, and no number that was rounded up could be one less.
    """
    costs = dict.fromkeys(shares, 1) if costs is None else costs
    least, most = sum(costs.values()), sum(costs[name] * limits[name] for name in shares)
    total = min(max(total, least), most)
    exact: dict[str, float] = {}
    open_ones, left = list(shares), float(total)
    while open_ones:
        weight = sum(costs[name] * shares[name] for name in open_ones)
        each = sum(costs[name] for name in open_ones)
        part = {
            name: left * (shares[name] / weight if weight > 0 else 1 / each) for name in open_ones
        }
        over = [name for name in open_ones if part[name] >= limits[name]]
        under = [name for name in open_ones if part[name] <= 1] if not over else []
        for name in over or under:
            exact[name] = float(limits[name] if over else 1)
            left -= costs[name] * exact[name]
        if not over and not under:
            exact.update(part)
            break
        open_ones = [name for name in open_ones if name not in exact]
    counts = {name: min(max(int(exact[name]), 1), limits[name]) for name in shares}
    by_remainder = sorted(shares, key=lambda name: int(exact[name]) - exact[name])
    _round_to(counts, by_remainder, limits, costs, total)
    return counts


def _round_to(
    counts: dict[str, int],
    order: Sequence[str],
    limits: Mapping[str, int],
    costs: Mapping[str, float],
    total: float,
) -> None:
    """Add ones in this order until the costs reach `total`, and take back those of them that it
    does not need. Where the layers' least numbers made the costs too high before, take off in the
    opposite order."""
    spent = sum(costs[name] * counts[name] for name in counts)
    while many := [n for n in reversed(order) if counts[n] > 1 and spent - costs[n] >= total]:
        for name in many:
            if spent - costs[name] >= total:
                counts[name] -= 1
                spent -= costs[name]
    added = []
    while spent < total and (room := [name for name in order if counts[name] < limits[name]]):
        for name in room:
            if spent < total:
                counts[name] += 1
                spent += costs[name]
                added.append(name)
    for name in added:
        if spent - costs[name] >= total:
            counts[name] -= 1
            spent -= costs[name]


def ideal_gas_quotas(numbers: Mapping[str, int], density: float) -> dict[str, float]:
    """Return how many of its n groups each layer keeps: n/(1 + F n), with one F ≥ 0 for all layers.

    F is found by bisection, so that these numbers add up to density · Σ n.
    """
    total = density * sum(numbers.values())
    low, high = 0.0, len(numbers) / total  # n/(1 + F n) < 1/F
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(n / (1 + middle * n) for n in numbers.values())
        low, high = (middle, high) if kept > total else (low, middle)
    return {name: n / (1 + low * n) for name, n in numbers.items()}


def share_equally(total: int, limits: Sequence[int]) -> list[int]:
    """Return numbers up to their limits that add up to `total` (or to all limits, if that is less)
    and differ by 1 at most where no limit holds; the first are the larger ones."""
    counts = [0] * len(limits)
    while (missing := min(total, sum(limits)) - sum(counts)) > 0:
        room = [index for index, limit in enumerate(limits) if counts[index] < limit]
        each, more = divmod(missing, len(room))
        for place, index in enumerate(room):
            counts[index] = min(limits[index], counts[index] + each + (place < more))
    return counts
