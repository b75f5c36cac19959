"""Find the smallest ε at which an attack with a fixed ε succeeds."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from attacks.apgd import APGD
from attacks.geometry import brief, per_example
from attacks.gradient import FGSM, PGD
from attacks.inputs import Configured, batch_of, check_at_least, misclassified, predict
from attacks.modes import attacking, check_mode
from attacks.nearest import between
from attacks.network import Model
from attacks.query import Square
from attacks.threat import ThreatModel


@dataclass(frozen=True)
class Bisection(Configured):
    """Find for every example the smallest ε at which an attack succeeds, by bisection.

    All examples are bisected in parallel, each in [0, the attack's own ε]. The misclassified point
    at the smallest ε is returned, or x itself where the attack fails at its own ε. Each round runs
    the attack with one radius per example. A point that it finds is moved towards x along the
    segment between them, and the next radius starts from there.

    Args:
        attack: the attack; the eps of its threat model is the largest radius, and its step size
            must be None.
        rounds: number of runs after the first one; each at least halves the interval.
        halvings: number of forward passes of the line search after each run.
        mode: mode of the module for the passes that judge the points: "eval", "train" or "keep";
            the attack has its own mode.

    Raises:
        ValueError: the attack has a fixed step size, which would not follow the radius, or an
            option is out of range.
    """

    attack: FGSM | PGD | APGD | Square
    _: KW_ONLY
    rounds: int = 10
    halvings: int = 7
    mode: str = "eval"

    def __post_init__(self) -> None:
        if not isinstance(self.attack, FGSM | PGD | APGD | Square):
            raise ValueError(
                f"attack={brief(self.attack)} must be one of FGSM, PGD, APGD and Square, whose "
                "radius can be one for each example"
            )
        check_at_least(1, rounds=self.rounds)
        check_mode(self.mode)
        check_at_least(0, halvings=self.halvings)
        step_size = getattr(self.attack, "step_size", None)
        if step_size is not None:
            raise ValueError(
                f"step_size={step_size} does not follow the radius that "
                "is bisected; leave it None and set relative_step"
            )

    @property
    def threat(self) -> ThreatModel:
        """Return the threat model of the attack."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        threat = self.attack.threat
        x, y = batch_of(x, y, threat=threat)
        if len(x) == 0:
            return x.clone()
        with attacking(model, self.mode):
            best = x.clone()
            high = torch.as_tensor(threat.eps, dtype=torch.float64).expand(len(x)).clone()
            low = torch.zeros_like(high)
            active = (~misclassified(predict(model, best, y), y)).nonzero().squeeze(1)
            for k in range(self.rounds + 1):
                if len(active) == 0:
                    break
                eps = high[active] if k == 0 else (low[active] + high[active]) / 2
                attack = replace(self.attack, threat=replace(threat, eps=eps))
                x_adv = attack(model, x[active], y[active])
                broken = misclassified(predict(model, x_adv, y[active]), y[active])
                hit = active[broken]
                x_adv[broken] = between(
                    model, x[hit], x_adv[broken], y[hit],
                    halvings=self.halvings,
                )  # fmt: skip
                rows = per_example(broken, x_adv).bool()
                best[active] = torch.where(rows, x_adv, best[active])
                # a point may be much nearer than the radius at which it was found
                reached = threat.distance(x[active], best[active]).double()
                low[active] = torch.where(broken, low[active], eps)
                high[active] = torch.where(broken, torch.minimum(eps, reached), high[active])
                if k == 0:
                    active = active[broken]
        return best
