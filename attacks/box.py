"""The bounds of valid inputs: checks of the bounds, and of inputs within them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.geometry import brief
from attacks.rounding import precise

Bound = float | Tensor
Bounds = tuple[Bound, Bound] | None


#: how far beyond a bound an input may lie, in units of the last place of the bounds: two float32
#: computations of (pixel − mean) / std differ by as much
_ULPS = 4


def as_bounds(bounds: Bounds) -> Bounds:
    """Return None, or (lo, hi) as floats or tensors, from numbers, tensors or NumPy arrays.

    Raises:
        ValueError: `bounds` is neither None nor (lo, hi) with lo < hi everywhere.
    """
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds={brief(bounds)} must be None or (lo, hi), as in (0.0, 1.0)")
    try:
        lo, hi = (as_tensor(bound) for bound in bounds)
        ordered = bool(torch.all(lo < hi))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"bounds={brief(bounds)} must be (lo, hi): two floats, or a tensor or array each, with "
            "one value a channel or of the shape of one example"
        ) from None
    if not ordered:
        raise ValueError(f"bounds={brief(bounds)} must be (lo, hi) with lo < hi everywhere")
    return _plain(lo), _plain(hi)


def as_tensor(value: object) -> Tensor:
    """Return a number, tensor or array as a tensor of the same precision."""
    return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def _plain(tensor: Tensor) -> Bound:
    if tensor.dim() == 0:
        return float(tensor)
    return tensor.clone() if tensor.is_inference() else tensor


def check_bounds(bounds: Bounds) -> None:
    """Raise ValueError unless bounds is None or (lo, hi) with lo < hi everywhere."""
    as_bounds(bounds)


def bounds_like(bounds: Bounds, x: Tensor) -> tuple[Bound, Bound] | None:
    """Return bounds that broadcast against ``x``.

    A 1-D tensor has one value per channel (dimension 1 of x); any other tensor must broadcast
    against one example.

    Raises:
        ValueError: a tensor fits in neither way.
    """
    if bounds is None:
        return None
    if not all(type(bound) is float or isinstance(bound, Tensor) for bound in bounds):
        bounds = as_bounds(bounds)
        assert bounds is not None

    largest = torch.finfo(x.dtype).max

    def fit(bound: Bound) -> Bound:
        if not isinstance(bound, Tensor) or bound.dim() == 0:
            value = float(bound)  # the largest float16 is 65504
            return math.copysign(math.inf, value) if abs(value) > largest else value
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


def tensors_of(bounds: tuple[Bound, Bound], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return fitted bounds as tensors of x's dtype, rounded once."""
    lo, hi = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in bounds)
    return lo, hi


def within(x: Tensor, bounds: Bounds) -> bool:
    """Return whether every value of x lies within the bounds, up to a rounding error of either.

    Pixels that are normalised in float32 and bounds that are normalised in float64 differ in the
    last digit, and both are valid. A value that is beyond a bound by so little may stay there, or
    move inwards: see ``bounds_around``.
    """
    fitted = bounds_like(bounds, x)
    if fitted is None:
        return True
    lo, hi = (torch.as_tensor(bound, dtype=precise(x), device=x.device) for bound in fitted)
    size = torch.maximum(*(bound.abs().nan_to_num(posinf=0.0) for bound in (lo, hi)))
    slack = _ULPS * max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps) * size
    return bool(((x >= lo - slack) & (x <= hi + slack)).all())


def bounds_around(bounds: Bounds, x: Tensor) -> tuple[Bound, Bound] | None:
    """Return ``bounds_like``, widened where x lies beyond the bounds by a rounding error."""
    fitted = bounds_like(bounds, x)
    if fitted is None or (x.device.type == "cpu" and torch.equal(clip(x, fitted), x)):
        return fitted
    lo, hi = tensors_of(fitted, x)
    return torch.minimum(lo, x), torch.maximum(hi, x)


def clip(x: Tensor, bounds: tuple[Bound, Bound] | None) -> Tensor:
    """Clamp x to bounds that ``bounds_like`` has fitted to it."""
    if bounds is None:
        return x
    lo, hi = bounds
    if isinstance(lo, Tensor) or isinstance(hi, Tensor):
        return x.clamp(*tensors_of(bounds, x))
    return x.clamp(lo, hi)


def unblocked(
    grad: Tensor, x_adv: Tensor, bounds: tuple[Bound, Bound] | None, allowed: Tensor | None
) -> Tensor:
    """Return the gradient, with 0 where a step along it is not allowed or would leave the bounds.

    Otherwise a normalised L2 or L1 step would spend its length on entries that are clamped
    afterwards, and first-order distances would count directions that are closed.
    """
    if allowed is not None:
        grad = torch.where(allowed, grad, 0.0)
    if bounds is None:
        return grad
    lo, hi = bounds
    blocked = ((x_adv <= lo) & (grad < 0)) | ((x_adv >= hi) & (grad > 0))
    return grad * ~blocked  # several times as fast as torch.where on a CPU
