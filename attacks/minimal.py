"""Minimal-perturbation robustness: the distance r* to the nearest adversarial example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, check_bounds, clip
from attacks.ddn import DDN
from attacks.fab import FAB
from attacks.fmn import FMN
from attacks.geometry import check_norm, lengths, per_example
from attacks.gradient import Attack
from attacks.inputs import batch_of, check_at_least, check_number, misclassified, predict
from attacks.modes import attacking, check_mode
from attacks.nearest import Nearest, clears, nothing_found
from attacks.network import Model
from attacks.returned import attacked, check_radii, for_examples
from attacks.rounding import widened


@dataclass(frozen=True)
class MinimalPerturbation:
    """Upper bounds on r* = min ‖δ‖_p s.t. f(x + δ) ≠ y, one per example.

    Attributes:
        r: (N,), float32 or wider; 0 where x itself is misclassified, ∞ where no adversarial
            example was found.
        x_adv: (N, …), the points at these distances; x where r is 0 or ∞.
        norm: the norm of the distances.
    """

    r: Tensor
    x_adv: Tensor = field(repr=False)
    norm: str

    @property
    def success_rate(self) -> float:
        """Return the share of examples with a finite r."""
        return self.r.isfinite().double().mean().item()

    @property
    def mean(self) -> float:
        """Return the mean of the finite r; it is meaningful only together with ``success_rate``."""
        return self.r[self.r.isfinite()].double().mean().item()

    @property
    def median(self) -> float:
        """Return the median r over all examples; ∞ where more than half of them have r = ∞."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """Return the smallest r such that at least a share q of all examples has no larger r."""
        if not 0 <= q <= 1:
            raise ValueError(f"q={q} must lie in [0, 1]")
        if len(self.r) == 0:
            return math.nan
        ranked = self.r.double().sort().values
        return ranked[max(math.ceil(q * len(ranked)) - 1, 0)].item()

    def accuracy_at(self, eps: float) -> float:
        """Return the share of examples with r > eps, an upper bound on the robust accuracy."""
        return (self.r > eps).double().mean().item()

    def summary(self) -> dict[str, float]:
        """Return n, success rate, mean, median and quartiles, which should be reported together."""
        return {
            "n": float(len(self.r)),
            "success_rate": self.success_rate,
            "mean": self.mean,
            "median": self.median,
            "q25": self.quantile(0.25),
            "q75": self.quantile(0.75),
        }


def default_attacks(
    norm: str,
    bounds: Bounds = None,
    support: Callable[[Tensor], Tensor] | None = None,
    mode: str = "eval",
) -> tuple[Attack, ...]:
    """Return DDN (only L2), FMN, and FAB towards the 3 highest other logits; 100 steps each."""
    fmn = FMN(norm, bounds=bounds, support=support, mode=mode)
    fab = FAB(norm, targets=3, bounds=bounds, support=support, mode=mode)
    if norm != "l2":
        return fmn, fab
    return DDN(bounds=bounds, support=support, mode=mode), fmn, fab


def minimal_perturbation(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    bounds: Bounds = None,
    support: Callable[[Tensor], Tensor] | None = None,
    attacks: Sequence[Attack] | None = None,
    lead: float = 1e-5,
    halvings: int = 10,
    mode: str = "eval",
) -> MinimalPerturbation:
    """Find the nearest adversarial example of every x with several attacks, and verify it.

    Each attack's point is moved along the ray from x to the nearest point where another class leads
    y by more than ``lead`` times the spread of the logits. It counts only if it still does so in
    one forward pass over all examples, because a point exactly on the boundary changes its class
    with the batch size.

    Args:
        x: (N, …); y: (N,).
        norm: norm of the distance: "linf", "l2" or "l1".
        bounds: valid inputs, None or (lo, hi), as in ``ThreatModel``.
        support: where x may change, as in ``ThreatModel``; None for everywhere.
        attacks: attacks that are run in turn; None for ``default_attacks``. The points that given
            attacks return are projected on the bounds and the support.
        lead: smallest lead that counts, at least 0, as a fraction of max z − min z.
        halvings: number of forward passes of the bisection for the points of each attack.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep";
            given ``attacks`` have their own.

    Raises:
        ValueError: ``attacks`` is empty, logits are NaN, or the batch is invalid.
    """
    check_norm(norm)
    check_bounds(bounds)
    check_mode(mode)
    check_at_least(0, halvings=halvings)
    check_number("at least 0", lead=lead)
    x, y = batch_of(x, y, bounds=bounds)
    tried = default_attacks(norm, bounds, support, mode) if attacks is None else tuple(attacks)
    if len(tried) == 0:
        raise ValueError("attacks is empty; pass at least one, or None for the default")
    for attack in tried:
        check_radii(attack, x)
    if len(x) == 0:
        return MinimalPerturbation(x.new_zeros(0), x.clone(), norm)
    with attacking(model, mode):
        wrong = misclassified(predict(model, x, y), y)
        nearest = nothing_found(x).update(x, torch.zeros(len(x)).to(x), wrong)
        for attack in tried:
            active = (nearest.r > 0).nonzero().squeeze(1)
            if len(active) == 0:
                break
            start = x[active]
            candidate = attacked(for_examples(attack, x, active), model, start, y[active])
            candidate = clip(candidate, bounds_around(bounds, start))
            if support is not None:
                candidate = torch.where(support(start), candidate, start)
            found = misclassified(predict(model, candidate, y[active]), y[active])
            rows = active[found]
            near = _nearest_clear(
                model, x[rows], y[rows], candidate[found], norm, bounds, lead, halvings
            )
            nearer = near.r < nearest.r[rows]
            nearest.x_adv[rows[nearer]] = near.x_adv[nearer]
            nearest.r[rows[nearer]] = near.r[nearer]
        # one batch, as the caller will check it
        confirmed = wrong | clears(predict(model, nearest.x_adv, y), y, lead)
    r = torch.where(confirmed, nearest.r, torch.inf)
    rows = per_example(r.isfinite(), x).bool()
    return MinimalPerturbation(r, torch.where(rows, nearest.x_adv, x), norm)


def _nearest_clear(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    norm: str,
    bounds: Bounds,
    lead: float,
    halvings: int,
) -> Nearest:
    """Search the ray from x through a misclassified x_adv for the nearest point with the lead.

    The better an attack, the nearer its points are to the boundary, where there is no lead. Such
    points are first moved outwards, by 5% at most (in half precision 20%).
    """
    nearest = nothing_found(x)
    fitted = bounds_around(bounds, x)
    centre = widened(x)
    inside, outside = torch.zeros(len(x)).to(centre), torch.full((len(x),), torch.inf).to(centre)

    def look(at: Tensor) -> Tensor:
        nonlocal nearest
        along = per_example(at, centre)
        point = clip((centre + along * (x_adv - centre)).to(x), fitted)
        point = torch.where(along == 1, x_adv, point)
        clear = clears(predict(model, point, y), y, lead)
        nearest = nearest.update(point, lengths(point - centre, norm), clear)
        return clear

    further = () if centre is x else (1.2,)  # logits in half precision are coarse
    for factor in (1.0, 1.0005, 1.002, 1.01, 1.05, *further):
        if not bool(outside.isinf().any()):
            break
        clear = look(torch.full_like(outside, factor))
        inside = torch.where(clear | outside.isfinite(), inside, factor)
        outside = torch.where(clear & outside.isinf(), factor, outside)
    if bool(outside.isfinite().any()):
        for _ in range(halvings):
            at = torch.where(outside.isinf(), 1.0, (inside + outside) / 2)
            clear = look(at)
            inside, outside = torch.where(clear, inside, at), torch.where(clear, at, outside)
    return nearest
