"""What the adversary may do: a norm, a radius, the bounds of valid inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import geometry
from attacks.geometry import lengths, per_example

Bound = float | Tensor
Bounds = tuple[Bound, Bound] | None


def check_bounds(bounds: Bounds) -> None:
    """Raise ValueError unless bounds is None or (lo, hi) with lo < hi everywhere."""
    if bounds is None:
        return
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds={bounds!r} must be None or (lo, hi), as in (0.0, 1.0)")
    if not bool(torch.all(torch.as_tensor(bounds[0]) < torch.as_tensor(bounds[1]))):
        raise ValueError(f"bounds={bounds!r} must be (lo, hi) with lo < hi everywhere")


def bounds_like(bounds: Bounds, x: Tensor) -> tuple[Bound, Bound] | None:
    """Return bounds that broadcast against ``x``.

    A 1-D tensor holds one value a channel (dimension 1 of x); any other tensor must broadcast
    against one example.

    Raises:
        ValueError: a tensor fits neither way.
    """
    if bounds is None:
        return None

    def fit(bound: Bound) -> Bound:
        if not isinstance(bound, Tensor) or bound.dim() == 0:
            return float(bound)
        fitted = bound.to(x)
        if fitted.dim() == 1:
            fitted = fitted.reshape(-1, *(1,) * (x.dim() - 2))
        try:
            fitted.expand(x.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"bounds of shape {tuple(bound.shape)} do not fit inputs of shape "
                f"{tuple(x.shape)}; give floats, one value a channel (shape (C,)), or a tensor "
                "that broadcasts against one example"
            ) from None
        return fitted

    return fit(bounds[0]), fit(bounds[1])


def clip(x: Tensor, bounds: tuple[Bound, Bound] | None) -> Tensor:
    """Clamp to bounds already made to fit by ``bounds_like``."""
    if bounds is None:
        return x
    lo, hi = bounds
    if isinstance(lo, Tensor) or isinstance(hi, Tensor):
        return x.clamp(torch.as_tensor(lo).to(x), torch.as_tensor(hi).to(x))
    return x.clamp(lo, hi)


def unblocked(
    grad: Tensor, x_adv: Tensor, bounds: tuple[Bound, Bound] | None, allowed: Tensor | None
) -> Tensor:
    """The gradient with 0 where a step up it would leave the bounds or touch what is not allowed.

    A normalised L2 or L1 step otherwise spends its length on entries that the clamp sets back,
    and first-order distances count a way that is closed.
    """
    if allowed is not None:
        grad = torch.where(allowed, grad, 0.0)
    if bounds is None:
        return grad
    lo, hi = bounds
    blocked = ((x_adv <= lo) & (grad < 0)) | ((x_adv >= hi) & (grad > 0))
    return grad * ~blocked  # on a CPU several times as fast as torch.where


def rounded_down(eps: float | Tensor, x: Tensor) -> Tensor:
    """The largest number of x's dtype that is not above eps (float32 rounds 0.1 up)."""
    exact = torch.as_tensor(eps, dtype=None if isinstance(eps, Tensor) else torch.float64)
    near = exact.to(x.dtype)
    below = torch.nextafter(near, torch.zeros_like(near))
    floor = torch.where(near.to(exact.dtype) > exact, below, near)
    return per_example(floor if isinstance(eps, Tensor) else floor.item(), x)


def add_toward(x: Tensor, delta: Tensor) -> Tensor:
    """x + δ, rounded so that |(x + δ) − x| ≤ |δ| as floats: one step back where it sticks out."""
    out = x + delta
    return torch.where((out - x).abs() > delta.abs(), torch.nextafter(out, x), out)


@dataclass(frozen=True)
class ThreatModel:
    """The set of allowed inputs {x' : ‖x' − x‖_p ≤ ε, lo ≤ x' ≤ hi} around every example.

    Args:
        norm: "linf", "l2" (over the whole example: Frobenius for images and sequences) or "l1".
        eps: radius ε ≥ 0 in input units; a tensor of shape (N,) gives every example its own.
        bounds: None, or (lo, hi): floats, tensors of shape (C,), one value a channel
            (dimension 1), or tensors that broadcast against one example.
        support: None, or a function of the clean batch that returns where it may be changed,
            as a bool tensor that broadcasts against it (see ``attacks.padding``).

    Raises:
        ValueError: unknown norm, eps negative or not finite, lo ≥ hi.
    """

    norm: str
    eps: float | Tensor
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        geometry.check_norm(self.norm)
        if isinstance(self.eps, Tensor):
            valid = self.eps.dim() == 1 and bool((self.eps >= 0).all() & self.eps.isfinite().all())
        else:
            valid = math.isfinite(self.eps) and self.eps >= 0
        if not valid:
            raise ValueError(f"eps={self.eps!r} must be finite and at least 0, in input units")
        check_bounds(self.bounds)

    def select(self, index: Tensor) -> ThreatModel:
        """The same threat for the examples ``index`` alone (matters for eps of shape (N,))."""
        return replace(self, eps=self.eps[index]) if isinstance(self.eps, Tensor) else self

    def projector(self, x: Tensor, *, exact: bool = True) -> Callable[[Tensor], Tensor]:
        """Return x_adv ↦ ``project(x, x_adv)`` with all that depends on x computed once.

        Args:
            exact: False may stick out of an L2 or L1 ball by a rounding error; enough between
                two steps of an attack.
        """
        bounds = bounds_like(self.bounds, x)
        radius = rounded_down(self.eps, x)
        allowed = None if self.support is None else self.support(x)
        if bounds is not None:
            # an entry that starts outside stays: clamping it could carry it beyond the ball
            valid = clip(x, bounds) == x
            allowed = valid if allowed is None else allowed & valid

        if self.norm == "linf":
            lo = clip(add_toward(x, -radius), bounds)
            hi = clip(add_toward(x, radius), bounds)
            if allowed is not None:
                lo, hi = torch.where(allowed, lo, x), torch.where(allowed, hi, x)
            return lambda x_adv: x_adv.clamp(lo, hi)

        def project(x_adv: Tensor) -> Tensor:
            if allowed is not None:
                x_adv = torch.where(allowed, x_adv, x)
            if self.norm == "l1" and bounds is not None:
                lo, hi = (torch.as_tensor(bound).to(x) - x for bound in bounds)
                delta = x_adv - x
                near = geometry.project_l1_box(delta, radius, lo.clamp_max(0), hi.clamp_min(0))
                x_adv = torch.where(near == delta, x_adv, x + near)
            x_adv = into_ball(x, x_adv, self.norm, radius, exact=exact)
            if bounds is None:
                return x_adv
            inside = clip(x_adv, bounds)  # moves every entry towards x, hence stays in the ball
            return inside if allowed is None else torch.where(allowed, inside, x)

        return project

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Bring x_adv into the ball around x and into the bounds, exactly as floats compare.

        L∞ and L1 are the Euclidean projection on the intersection; L2 projects on the ball, then
        on the bounds, which stays in the ball because x is in the bounds.  An entry of x that is
        itself outside the bounds is left as it is.  Shapes: x, x_adv and the result alike.
        """
        return self.projector(x)(x_adv)

    def random_start(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Draw uniformly from the ball around x, then project on the bounds.

        Args:
            project: ``projector(x)`` where the caller has it already.
        """
        delta = geometry.uniform_in_ball(x, self.norm, rounded_down(self.eps, x), generator)
        return (project or self.projector(x))(x + delta)

    def uphill(self, x: Tensor, x_adv: Tensor, grad: Tensor) -> Tensor:
        """The gradient at x_adv with 0 where no step up it is allowed (see ``unblocked``).

        For L∞ only ``support`` counts: there every entry has a step length of its own.
        """
        if self.norm == "linf" and self.support is None:
            return grad
        bounds = None if self.norm == "linf" else bounds_like(self.bounds, x)
        return unblocked(grad, x_adv, bounds, None if self.support is None else self.support(x))

    def step(self, grad: Tensor, step_size: float | Tensor) -> Tensor:
        """Return the steepest-ascent step: argmax_{‖v‖_p ≤ step_size} ⟨v, g⟩.

        step_size is a float or one value an example.  For L1 see ``geometry.steepest``.
        """
        return geometry.steepest(grad, self.norm) * per_example(step_size, grad)

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """‖x_adv_i − x_i‖_p for every example, shape (N,)."""
        return lengths(x_adv - x, self.norm)


def into_ball(x: Tensor, x_adv: Tensor, norm: str, radius: Tensor, *, exact: bool) -> Tensor:
    """Project on an L2 or L1 ball around x; points already inside come back bit for bit."""
    delta = x_adv - x
    outside = per_example(lengths(delta, norm), x) > radius
    out = torch.where(outside, x + geometry.project_ball(delta, norm, radius), x_adv)
    if not exact:
        return out
    # Rounding x + δ can lengthen δ, and so can the sum inside the norm: shrink what sticks out
    # by a few ulp, rounding towards x.  The last pass shrinks a thousand times more.
    ulp = torch.finfo(x.dtype).eps
    for slack in (4 * ulp, 32 * ulp, 4096 * ulp):
        delta = out - x
        length = per_example(lengths(delta, norm), x)
        factor = radius / length.clamp_min(torch.finfo(x.dtype).tiny) * (1 - slack)
        out = torch.where(length > radius, add_toward(x, delta * factor), out)
    return out
