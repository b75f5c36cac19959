"""Check proofs by computing the bounds again, and by fresh attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from attacks import PGD, ThreatModel, attacking
from attacks.inputs import predict as logits_of
from attacks.nearest import clears, farthest
from robustprune.bounds import BoundMethod, certified
from robustprune.bounds.root import BEYOND
from robustprune.certify.claims import Claims
from robustprune.certify.findings import CheckResult, about_examples
from robustprune.certify.radii import proven_radii, rows_at_a_time
from robustprune.certify.sandwich import SandwichViolation, check_sandwich
from robustprune.run.progress import progress

#: the relative difference from which on a recomputed radius counts as different
TOLERANCE = 1e-3
#: the steps and restarts of the attacks
STEPS, RESTARTS = 40, 5
#: an answer counts as wrong only above this lead, relative to the spread of the logits, because
#: libraries may compute more coarsely (Winograd, TF32) than proofs cover, and decide a tie
LEAD = 1e-5


def proven_again(claims: Claims) -> CheckResult:
    """Bound the margins at each stated radius, which is the claim itself."""
    some = claims.balls
    return claims.finding(
        "margins are positive at the stated radius",
        some[~_proven(claims, some, claims.radius, f"{claims.method} again")],
        f"proven again for all {len(some)} radii above 0",
        "not certified at the radius that is claimed",
    )


def _proven(claims: Claims, rows: Tensor, radius: Tensor, title: str) -> Tensor:
    """Return which of these examples the bounds prove at this radius of each example."""
    method = cast(BoundMethod, claims.method)
    found = [rows.new_zeros(0, dtype=torch.bool)]
    parts = torch.split(rows, rows_at_a_time(claims.model, method, claims.batch_size))
    for part in progress(parts, title=title, unit="batch", quiet=claims.quiet):
        found.append(
            certified(
                claims.model,
                claims.x[part],
                claims.y[part],
                ThreatModel(claims.norm, radius[part], claims.bounds),
                method=method,
                steps=int(claims.setting("steps")),
            )
        )
    return torch.cat(found)


def same_radius(claims: Claims) -> CheckResult:
    """Search the radius again with the stated settings. It must be neither smaller nor larger.

    Files without the setting `tolerance` are older: their search was another one, and the bounds
    were looser. Their radii must only not be proven to be larger by BEYOND.
    """
    if "tolerance" not in claims.certificates[0].settings:
        return _none_larger(claims)
    again = _searched(claims, torch.arange(len(claims.x), device=claims.x.device))
    allowed = TOLERANCE * torch.maximum(again, claims.radius)
    return claims.finding(
        "the same radius comes out",
        ((again - claims.radius).abs() > allowed).nonzero().flatten(),
        f"{len(again)} radii, to {TOLERANCE:g} of their size",
        f"another radius comes out (by more than {TOLERANCE:g} of its size)",
    )


def _none_larger(claims: Claims) -> CheckResult:
    limit = farthest(claims.x.double(), claims.bounds, claims.norm)
    limit = limit.clamp(max=float(claims.setting("eps_max")))
    larger = torch.minimum((1 + BEYOND) * claims.radius, limit)
    tried = (larger > claims.radius).nonzero().flatten()
    found = tried[_proven(claims, tried, larger, "larger radii")]
    zero = (claims.radius == 0).nonzero().flatten()
    return claims.finding(
        "no much larger radius is proven",
        torch.cat((found, zero[_searched(claims, zero) > 0])).sort().values,
        f"{len(claims.x)} radii, none of which the bounds prove to be larger by {BEYOND:.0%}",
        f"a radius is proven that is larger by {BEYOND:.0%}, or by any amount than 0",
    )


def _searched(claims: Claims, rows: Tensor) -> Tensor:
    """Return the radii that the search with the stated settings finds."""
    return proven_radii(
        claims.model,
        claims.x[rows],
        claims.y[rows],
        norm=claims.norm,
        bounds=claims.bounds,
        method=cast(BoundMethod, claims.method),
        eps_max=float(claims.setting("eps_max")),
        rounds=int(claims.setting("rounds")),
        steps=int(claims.setting("steps")),
        batch_size=claims.batch_size,
        title=f"radii by {claims.method} again",
        quiet=claims.quiet,
    )


def below_attacks(claims: Claims) -> CheckResult:
    """Check that the stated radius does not exceed the stated distance of an adversarial
    example."""
    reached = [
        torch.inf if c.attack_radius is None else c.attack_radius for c in claims.certificates
    ]
    upper, name = torch.tensor(reached, dtype=torch.float64), f"{claims.method}: radius and attack"
    try:
        check_sandwich(claims.radius, upper)
    except SandwichViolation as violation:
        rows = (claims.radius.cpu() > upper).nonzero().flatten().tolist()
        wrong = [claims.certificates[i].index for i in rows]
        return about_examples(name, wrong, "", str(violation).partition(":")[0])
    return CheckResult(name, True, f"certified ≤ attacked for all {len(upper)} examples")


def attacked_inside(claims: Claims) -> CheckResult:
    """Attack inside every certified ball with fresh PGD, on cross-entropy and on the margin."""
    model, broken = claims.model, torch.zeros(len(claims.x), dtype=torch.bool)
    parts = torch.split(claims.balls, claims.batch_size)
    for part in progress(parts, title="attacks inside", unit="batch", quiet=claims.quiet):
        x, y = claims.x[part], claims.y[part]
        threat = ThreatModel(claims.norm, claims.radius[part], claims.bounds)
        for loss in ("ce", "margin"):
            attack = PGD(threat, steps=STEPS, restarts=RESTARTS, loss=loss, seed=claims.seed)
            x_adv = attack(model, x, y)
            with attacking(model):
                broken[part.cpu()] |= clears(logits_of(model, x_adv, y), y, LEAD).cpu()
    return claims.finding(
        "a fresh attack finds nothing inside",
        broken.nonzero().flatten(),
        f"PGD, {STEPS} steps, {RESTARTS} restarts, 2 losses, seed {claims.seed}, in "
        f"{len(claims.balls)} balls",
        f"an adversarial example lies inside the certified ball (seed {claims.seed})",
    )


Check = Callable[[Claims], CheckResult]
PROOF_CHECKS: tuple[Check, ...] = (proven_again, same_radius, below_attacks, attacked_inside)
