"""Fast adaptive boundary (FAB) attack: it finds the nearest adversarial example in L∞, L2 or L1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.apgd import ranked_targets
from attacks.box import Bound, Bounds, bounds_around, clip
from attacks.geometry import DUAL, lengths, per_example, uniform_in_ball, unit
from attacks.hyperplane import step_to_hyperplane
from attacks.inputs import (
    check_at_least,
    check_finite,
    check_gradient,
    check_graph,
    check_logits,
    check_number,
    check_seed,
    generator_for,
    given,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import targeted_margin
from attacks.nearest import MinimalNorm, Nearest, nothing_found, reach
from attacks.network import Model, logits_of


def logit_gradients(
    model: Model, x_adv: Tensor, y: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (N, C), gaps z_c − z_y (N, K) and their gradients (N, K, …) for K classes.

    This takes one forward pass and K backward passes.
    """
    x_adv = x_adv.detach().requires_grad_()
    logits = logits_of(model, x_adv)
    check_logits(logits, y)
    gaps = logits.gather(1, classes) - logits.gather(1, y.unsqueeze(1))
    check_graph(gaps)
    count = classes.shape[1]
    grads = [
        torch.autograd.grad(
            gaps[:, k].sum(),
            x_adv,
            retain_graph=k + 1 < count,
            allow_unused=True,
            materialize_grads=True,
        )[0]
        for k in range(count)
    ]
    check_finite(logits)
    normals = torch.stack(grads, dim=1)
    check_gradient(normals)
    return logits.detach(), gaps.detach(), normals


def nearest_plane(gaps: Tensor, grads: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return the gap (N,) and gradient (N, …) of the class with the nearest linearised boundary."""
    count = gaps.shape[1]
    dual = lengths(grads.flatten(0, 1), DUAL[norm]).reshape(-1, count)
    chosen = (gaps.abs() / dual.clamp_min(torch.finfo(dual.dtype).tiny)).argmin(1)
    rows = torch.arange(len(gaps), device=gaps.device)
    return gaps[rows, chosen], grads[rows, chosen]


def reachable(gap: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return gap and gradient, with 0 where the class has a logit of −∞ and cannot be reached."""
    never = gap.isinf()
    return gap.masked_fill(never, 0.0), normal.masked_fill(per_example(never, normal).bool(), 0.0)


def _twice(bounds: tuple[Bound, Bound], x: Tensor) -> tuple[Bound, Bound]:
    """Return the fitted bounds of x for torch.cat((x, x))."""
    lo, hi = (
        torch.cat((bound, bound)) if isinstance(bound, Tensor) and bound.shape == x.shape else bound
        for bound in bounds
    )
    return lo, hi


@dataclass(frozen=True)
class FAB(MinimalNorm):
    """Step to the linearised boundary, biased towards the clean input.

    x ← (1 − a)(x + η d₁) + a (x₀ + η d₂), where d₁ and d₂ lead from x and x₀ to the boundary
    linearised at x and a = min(‖d₁‖ / (‖d₁‖ + ‖d₂‖), α_max); a misclassified x is recorded and
    moved back to x₀ + β (x − x₀): Croce & Hein 2020 (arXiv 1907.02044), alg. 1, without the final
    search. Returns the nearest misclassified point, or x₀ itself where none was found.

    Args:
        norm: norm of the distance: "linf", "l2" or "l1".
        steps: number of iterations per run.
        restarts: number of runs; the first starts at x₀, the others at most ``eps`` / 2 away.
        targets: number of other classes, those with the highest logits, with one run for each
            (FAB-T); None for the nearest boundary of all classes, with one backward pass per class.
        eps: radius within which a misclassified point is near enough to stop; None never does.
        alpha_max, eta, beta: α_max, η and β of the paper.
        bounds: valid inputs, None or (lo, hi); support: where x may change; see ``ThreatModel``.
        seed: seed of the random starts in every call; None uses torch's global generator.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    norm: str = "linf"
    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    targets: int | None = 9
    eps: float | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None
    seed: int | None = 0
    mode: str = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, steps=self.steps, restarts=self.restarts)
        check_at_least(1, **given(targets=self.targets))
        check_number("at least 0", **given(eps=self.eps))
        check_number("in [0, 1]", alpha_max=self.alpha_max)
        check_number("at least 1", eta=self.eta)
        check_number("strictly between 0 and 1", beta=self.beta)
        check_seed(self.seed)
        if self.restarts > 1 and self.eps is None:
            raise ValueError(f"restarts={self.restarts} needs eps, the radius of random starts")

    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        generator = generator_for(self.seed, x)
        logits = predict(model, x, y)
        others = logits.shape[1] - 1
        ranked = ranked_targets(logits, y, others)
        if self.targets is None:
            runs = [ranked] * self.restarts
        else:
            runs = [ranked[:, k : k + 1] for k in range(min(self.targets, others))]
            runs = [classes for classes in runs for _ in range(self.restarts)]
        nearest = nothing_found(x)
        nearest = nearest.update(x, torch.zeros_like(nearest.r), misclassified(logits, y))
        for k, classes in enumerate(runs):
            active = self._active(nearest)
            if len(active) == 0:
                break
            random = k % self.restarts > 0
            run = self._run(
                model, x[active], y[active], classes[active], generator if random else None,
                random,
            )  # fmt: skip
            nearer = run.r < nearest.r[active]
            nearest.x_adv[active[nearer]] = run.x_adv[nearer]
            nearest.r[active[nearer]] = run.r[nearer]
        return nearest.x_adv

    def _active(self, nearest: Nearest) -> Tensor:
        enough = 0.0 if self.eps is None else self.eps
        return (nearest.r > enough).nonzero().squeeze(1)

    def _run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        classes: Tensor,
        generator: torch.Generator | None,
        random: bool,
    ) -> Nearest:
        bounds = bounds_around(self.bounds, x)
        out, x_adv = nothing_found(x), x
        if random and self.eps is not None:
            draw = uniform_in_ball(x, self.norm, 1.0, generator)
            if self.support is not None:
                draw = torch.where(self.support(x), draw, 0.0)
            draw = unit(draw, self.norm)
            x_adv = clip(x + draw * self.eps / 2, bounds)
        live = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            x_adv = self._iterate(model, x, x_adv, y, classes, bounds)
            broken = misclassified(predict(model, x_adv, y), y)
            r = lengths(x_adv - x, self.norm)
            nearer = broken & (r < out.r[live])
            out.x_adv[live[nearer]], out.r[live[nearer]] = x_adv[nearer], r[nearer]
            rows = per_example(broken, x).bool()
            x_adv = torch.where(rows, x + self.beta * (x_adv - x), x_adv)
            if self.eps is not None:
                going = out.r[live] > self.eps
                if not bool(going.all()):
                    live, x_adv, x = live[going], x_adv[going], x[going]
                    y, classes = y[going], classes[going]
                    bounds = bounds_around(self.bounds, x)
                    if len(live) == 0:
                        break
        return out

    def _iterate(
        self,
        model: Model,
        x: Tensor,
        x_adv: Tensor,
        y: Tensor,
        classes: Tensor,
        bounds: tuple[Bound, Bound] | None,
    ) -> Tensor:
        if classes.shape[1] == 1:
            target = classes[:, 0]
            _, gap, normal = loss_and_gradient(
                model, x_adv, y, lambda logits, labels: targeted_margin(logits, labels, target)
            )
        else:
            _, gaps, normals = logit_gradients(model, x_adv, y, classes)
            gap, normal = nearest_plane(gaps, normals, self.norm)
        gap, normal = reachable(gap, normal)
        if self.support is not None:
            normal = torch.where(self.support(x), normal, 0.0)
        # the plane gap + ⟨w, · − x_adv⟩ = 0, as seen from x_adv and from x
        offset = ((x - x_adv) * normal).flatten(1).sum(1)
        both = step_to_hyperplane(
            torch.cat((x_adv, x)),
            torch.cat((normal, normal)),
            torch.cat((-gap, -gap - offset)),
            self.norm,
            None if bounds is None else _twice(bounds, x),
        )
        here, there = both[: len(x)], both[len(x) :]
        length = lengths(both, self.norm).clamp_min(1e-8)
        share = length[: len(x)] / (length[: len(x)] + length[len(x) :])
        a = per_example(share.clamp_max(self.alpha_max), x)
        moved = clip((1 - a) * (x_adv + self.eta * here) + a * (x + self.eta * there), bounds)
        if self.support is not None:  # in floating point, (1 - a) v + a v differs from v
            moved = torch.where(self.support(x), moved, x)
        near = per_example(lengths(moved - x, "linf") <= reach(x), x).bool()
        return torch.where(near, moved, x_adv)
