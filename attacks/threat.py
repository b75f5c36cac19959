"""The threat model: a norm, a radius, and the bounds of valid inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import geometry
from attacks.box import (
    Bound,
    Bounds,
    as_bounds,
    as_tensor,
    bounds_around,
    bounds_like,
    check_bounds,
    clip,
    tensors_of,
    unblocked,
    within,
)
from attacks.geometry import brief, lengths, per_example
from attacks.rounding import add_toward, beyond, into_ball, precise, rounded_down

__all__ = [
    "Bound",
    "Bounds",
    "ThreatModel",
    "bounds_around",
    "bounds_like",
    "check_bounds",
    "clip",
    "unblocked",
    "within",
]


@dataclass(frozen=True)
class ThreatModel:
    """The set of allowed inputs {x' : ‖x' − x‖_p ≤ ε, lo ≤ x' ≤ hi} around every example.

    Args:
        norm: "linf", "l2" (over the whole example: Frobenius for images and sequences) or "l1".
        eps: radius ε ≥ 0 in input units; a tensor of shape (N,) has one radius per example.
        bounds: None, or (lo, hi): floats, tensors or arrays of shape (C,), one value per channel
            (dimension 1), or tensors that broadcast against one example.
        support: None, or a function of the clean batch that returns where the batch may be changed,
            as a bool tensor that broadcasts against it.

    Raises:
        ValueError: the norm is unknown, eps is negative or not finite, or lo ≥ hi.
    """

    norm: str
    eps: float | Tensor
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        geometry.check_norm(self.norm)
        if self.support is not None and not callable(self.support):
            raise ValueError(
                f"support={brief(self.support)} must be None or a function of the clean batch"
            )
        object.__setattr__(self, "eps", _radius(self.eps))
        object.__setattr__(self, "bounds", as_bounds(self.bounds))

    def fitting(self, x: Tensor) -> float | Tensor:
        """Return eps, after a check that it is one radius, or one per example of x.

        Raises:
            ValueError: the number of radii differs from the number of examples.
        """
        if isinstance(self.eps, Tensor) and len(self.eps) != len(x):
            raise ValueError(
                f"eps holds {len(self.eps)} values for {len(x)} examples; pass a float, or one "
                "value an example"
            )
        return self.eps

    def select(self, index: Tensor) -> ThreatModel:
        """Return the threat model of the examples ``index``, which selects an eps of shape (N,)."""
        return replace(self, eps=self.eps[index]) if isinstance(self.eps, Tensor) else self

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the smallest and largest allowed value of every entry, in the shape of x.

        None where what an entry may be depends on the others: in L2 and L1, and in a threat model
        that has a projection of its own.
        """
        if self.norm != "linf" or type(self).projector is not ThreatModel.projector:
            return None
        bounds = bounds_around(self.bounds, x)
        radius = rounded_down(self.fitting(x), x)
        lo = clip(add_toward(x, -radius), bounds)
        hi = clip(add_toward(x, radius), bounds)
        if self.support is not None:
            allowed = self.support(x)
            lo, hi = torch.where(allowed, lo, x), torch.where(allowed, hi, x)
        return lo, hi

    def projector(self, x: Tensor, *, exact: bool = True) -> Callable[[Tensor], Tensor]:
        """Return x_adv ↦ ``project(x, x_adv)``; everything that depends on x is computed once.

        Args:
            exact: False allows a rounding error beyond an L2 or L1 ball, which is enough between
                two steps of an attack.
        """
        if (interval := self.interval(x)) is not None:
            lo, hi = interval
            return lambda x_adv: x_adv.clamp(lo, hi)

        bounds = bounds_around(self.bounds, x)
        radius = rounded_down(self.fitting(x), x)
        allowed = None if self.support is None else self.support(x)

        def project(x_adv: Tensor) -> Tensor:
            if allowed is not None:
                x_adv = torch.where(allowed, x_adv, x)
            if self.norm == "l1" and bounds is not None:
                lo, hi = tensors_of(bounds, x)
                delta = x_adv - x
                near = geometry.project_l1_box(delta, radius, lo - x, hi - x)
                outside = beyond(x, x_adv, "l1", radius) | (clip(x_adv, bounds) != x_adv)
                rows = per_example(outside.flatten(1).any(1), x).bool()
                x_adv = torch.where(rows & (near != delta), x + near, x_adv)
            x_adv = into_ball(x, x_adv, self.norm, radius, exact=exact)
            if bounds is None:
                return x_adv
            return clip(x_adv, bounds)  # moves every entry towards x, and so stays in the ball

        return project

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Project x_adv on the ball around x and on the bounds, exactly as floats compare.

        For L∞ and L1 this is the Euclidean projection on the intersection. For L2 it projects on
        the ball, then on the bounds, which stays in the ball because x is within the bounds. An
        entry of x that is beyond a bound may stay, and move inwards. Distances are those of the
        numbers themselves, not of rounded differences. x, x_adv and the result have the same shape.
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
            project: ``projector(x)``, if the caller has it already.
        """
        delta = geometry.uniform_in_ball(x, self.norm, rounded_down(self.fitting(x), x), generator)
        return (project or self.projector(x))(x + delta)

    def uphill(self, x: Tensor, x_adv: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient at x_adv, with 0 where a step is not allowed (see ``unblocked``).

        For L∞ only ``support`` counts, because every entry there has its own step length.
        """
        if self.norm == "linf" and self.support is None:
            return grad
        bounds = None if self.norm == "linf" else bounds_like(self.bounds, x)
        return unblocked(grad, x_adv, bounds, None if self.support is None else self.support(x))

    def step(self, grad: Tensor, step_size: float | Tensor) -> Tensor:
        """Return the steepest-ascent step: argmax_{‖v‖_p ≤ step_size} ⟨v, g⟩.

        step_size is a float or one value per example. For L1 see ``geometry.steepest``.
        """
        return geometry.steepest(grad, self.norm) * per_example(step_size, grad)

    def ascent(
        self, x: Tensor, step_size: float | Tensor, project: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a step of projected gradient ascent, (x_adv, g) ↦ Π(x_adv + ``step`` of g).

        Args:
            step_size: α, as for ``step``.
            project: Π, the ``projector`` of x.
        """

        def ascend(x_adv: Tensor, grad: Tensor) -> Tensor:
            uphill = self.uphill(x, x_adv, grad)
            if self.norm == "linf" and not isinstance(step_size, Tensor):
                # `step` without temporary tensors, which are slow for large images; the gradient
                # itself may be a tensor of the network, and is not changed
                moved = uphill.sign()
                return project(torch.add(x_adv, moved, alpha=step_size, out=moved))
            return project(x_adv + self.step(uphill, step_size))

        return ascend

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return ‖x_adv_i − x_i‖_p for every example, shape (N,), which is rounded only once."""
        return lengths(x_adv.to(precise(x)) - x, self.norm).to(x.dtype)


def _radius(eps: object) -> float | Tensor:
    """Return ε as a float, or a tensor or array as a tensor of shape (N,).

    Raises:
        ValueError: ε has another shape, is negative, not finite, or no number.
    """
    try:
        radius = as_tensor(eps)
        whole = not (radius.is_floating_point() or radius.is_complex())
        valid = radius.dim() < 2 and radius.dtype != torch.bool and bool((radius >= 0).all())
        valid = valid and bool(radius.isfinite().all())
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        raise ValueError(
            f"eps={brief(eps)} must be finite and at least 0, in input units: a number, or a "
            "tensor with one value an example"
        )
    if radius.dim() == 0:
        return float(radius)
    radius = radius.detach()
    if whole:
        return radius.double()
    return radius.clone() if radius.is_inference() else radius
