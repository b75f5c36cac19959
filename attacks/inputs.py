"""Checks of the inputs, and the forward passes that all attacks share."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attacks.box import Bounds, within
from attacks.geometry import brief
from attacks.losses import Loss
from attacks.network import Model, NotFinite, logits_of
from attacks.threat import ThreatModel

if TYPE_CHECKING:
    from typing_extensions import Self

_RANGES: dict[str, Callable[[float], bool]] = {
    "above 0": lambda value: value > 0,
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "strictly between 0 and 1": lambda value: 0 < value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [-1, 1], a cosine": lambda value: -1 <= value <= 1,
}


def given(**values: float | None) -> dict[str, Any]:
    """Return the options that are not None, for checks of optional values."""
    return {name: value for name, value in values.items() if value is not None}


def check_number(allowed: str, **values: Any) -> None:
    """Raise ValueError where an option is not a finite number in the range ``allowed``."""
    for name, value in values.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not (number and isfinite(value) and _RANGES[allowed](value)):
            raise ValueError(f"{name}={brief(value)} must be a number {allowed}")


def check_at_least(least: int, **values: Any) -> None:
    """Raise ValueError where an option is not a whole number of at least ``least``."""
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (whole and value >= least):
            what = f"at least {least}" if whole else f"a whole number from {least} on"
            raise ValueError(f"{name}={brief(value)} must be {what}")


def check_flag(**values: bool) -> None:
    """Raise ValueError where an option is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={brief(value)} must be True or False")


def check_seed(seed: Any) -> None:
    """Raise ValueError unless ``seed`` is None or a whole number of 64 bits."""
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if seed is not None and not (whole and -(2**63) <= seed < 2**64):
        raise ValueError(f"seed={brief(seed)} must be None or a whole number of 64 bits")


def check_threat(threat: ThreatModel) -> None:
    """Raise ValueError unless ``threat`` is a ThreatModel."""
    if not isinstance(threat, ThreatModel):
        raise ValueError(
            f"threat={brief(threat)} must be a ThreatModel, as in ThreatModel('linf', 8 / 255)"
        )


def generator_for(seed: int | None, x: Tensor) -> torch.Generator | None:
    """Return a new generator on x's device, or None for the device's global generator."""
    return None if seed is None else torch.Generator(x.device).manual_seed(int(seed))


class Configured:
    """The base of attacks, which take options when built and the model when called.

    Other libraries write ``PGD(model, eps=8 / 255)``; here that raises an error which explains the
    difference.
    """

    def __new__(cls, *args: object, **options: object) -> Self:
        given = [*args, options.get("model")]
        fields = getattr(cls, "__dataclass_fields__", {})
        habit = "threat" in fields and {"eps", "norm", "bounds"} & options.keys()
        if habit or any(isinstance(one, nn.Module) for one in given):
            first = "ThreatModel('linf', eps=8 / 255)" if "threat" in fields else "steps=100"
            raise ValueError(
                f"{cls.__name__} takes its options first and the model when it is called: "
                f"{cls.__name__}({first})(model, x, y)"
            )
        return super().__new__(cls)


def check_batch(x: Tensor, y: Tensor) -> Tensor:
    """Check dtype and shape of a batch, without reading its values; return y as int64.

    Raises:
        ValueError: x is not a floating point tensor, or y does not have one integer label per
            example.
    """
    for name, part in (("x", x), ("y", y)):
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{name} is a {type(part).__name__}; pass a tensor, from an array "
                f"torch.from_numpy({name})"
            )
    if not x.is_floating_point():
        raise ValueError(
            f"x has dtype {x.dtype}, which has no gradient; pass floating point inputs in the "
            "units of eps: for images x.float() / 255, for token ids their embeddings, with a "
            "model that takes those"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y has dtype {y.dtype}; pass integer class labels, as in y.long()")
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y):
        raise ValueError(
            f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)} do not fit; "
            "pass x of shape (N, …) and y of shape (N,)"
        )
    return y.long()


def batch_of(
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel | None = None,
    bounds: Bounds = None,
    look: bool = True,
) -> tuple[Tensor, Tensor]:
    """Check a batch; return x without its graph, and y as int64.

    A tensor made under ``torch.inference_mode`` is copied, because autograd cannot save it.

    Args:
        threat: its bounds and its number of radii are checked; None checks ``bounds`` instead.
        look: whether values are checked on a GPU, which synchronises it; on a CPU they always are.

    Raises:
        ValueError: a check of ``check_batch``, ``check_values`` or ``ThreatModel.fitting`` fails.
    """
    with torch.inference_mode(False):
        y = check_batch(x, y)
        x, y = (part.clone() if part.is_inference() else part for part in (x.detach(), y))
    if threat is not None:
        threat.fitting(x)
        bounds = threat.bounds
    if look or x.device.type == "cpu":
        check_values(x, bounds)
    return x, y


def check_values(x: Tensor, bounds: Bounds) -> None:
    """Check that x is finite and within the bounds (see ``box.within``); this synchronises a GPU.

    Raises:
        ValueError: the check fails; the message has the smallest and largest value.
    """
    if x.numel() == 0:
        return
    low, high = (value.item() for value in torch.aminmax(x))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"x holds NaN or infinity (min {low}, max {high}); remove it first")
    if not within(x, bounds):
        raise ValueError(
            f"x ranges over [{low:.6g}, {high:.6g}], outside bounds={brief(bounds)}; "
            "pass the bounds of your inputs, or bounds=None"
        )


def check_logits(logits: Tensor, y: Tensor, *, look: bool = True) -> None:
    """Check the shape of the logits and, with ``look``, labels that are on a CPU.

    Raises:
        ValueError: logits are not (N, C) with C ≥ 2, or a label on a CPU is outside [0, C).
    """
    if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.shape)} for {len(y)} examples; attacks need "
            "logits of shape (N, C) with C ≥ 2, for one logit z pass stack((-z/2, z/2), dim=1)"
        )
    if look and y.device.type == "cpu":
        check_labels(logits, y)


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise ValueError where a label is outside [0, C)."""
    if len(y) and not bool(((y >= 0) & (y < logits.shape[1])).all()):
        low, high = (value.item() for value in torch.aminmax(y))
        raise ValueError(
            f"labels range over [{low}, {high}], but the model has {logits.shape[1]} classes: "
            f"they must lie in [0, {logits.shape[1] - 1}]"
        )


def check_finite(logits: Tensor) -> None:
    """Raise NotFinite where a logit is NaN or +∞, or all logits of an example are −∞.

    Some logits of −∞ are allowed: they exclude classes, as by ``masked_fill``, and can be compared.
    """
    bad = ~logits.amax(1).isfinite()  # NaN counts as larger than all numbers
    if bool(bad.any()):
        what = "NaN" if bool(logits.isnan().any()) else "infinite"
        raise NotFinite(
            f"the model returned {what} logits for {int(bad.sum())} of {len(logits)} examples; an "
            "attack would count them as broken or as robust, so mend the model first"
        )


def check_graph(values: Tensor) -> None:
    """Raise ValueError where values computed from the logits have no gradient graph."""
    if not values.requires_grad:
        raise ValueError(
            "the model's logits carry no gradient (it detaches, or runs under no_grad); "
            "use a gradient-free attack such as Square"
        )


def gradient_is_not_finite(bad: Tensor, what: str = "NaN") -> NotFinite:
    """Return the error for examples, (N,) bool, whose gradient is NaN or infinite."""
    return NotFinite(
        f"the gradient of the loss with respect to the input is {what} for {int(bad.sum())} of "
        f"{len(bad)} examples, though the logits are not; return logits before the softmax (and "
        "its logarithm), or use a gradient-free attack such as Square"
    )


def check_gradient(grad: Tensor) -> None:
    """Raise NotFinite where a gradient (N, …) is NaN or infinite, which no attack can follow."""
    if bool(grad.sum(dtype=torch.promote_types(grad.dtype, torch.float32)).isfinite()):
        return  # the sum is finite only if every entry is
    bad = ~grad.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise gradient_is_not_finite(bad, "NaN" if bool(grad.isnan().any()) else "infinite")


@torch.no_grad()
def predict(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Run one forward pass without gradients and with all checks; return logits (N, C)."""
    logits = logits_of(model, x)
    check_logits(logits, y)
    if y.device.type != "cpu":  # `check_logits` has checked labels on a CPU
        check_labels(logits, y)
    check_finite(logits)
    return logits


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Return where the predicted class differs from the label, shape (N,)."""
    return logits.argmax(1) != y


def loss_and_gradient(
    model: Model, x_adv: Tensor, y: Tensor, loss: Loss, *, look: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one forward and one backward pass to the input: logits, losses, ∇_x Σ_i ℓ_i.

    Args:
        look: whether to check that logits and gradients are finite, which synchronises a GPU.

    Raises:
        ValueError: the logits have no gradient graph.
        NotFinite: a check of ``check_finite`` or ``check_gradient`` fails.
    """
    x_adv = x_adv.detach().requires_grad_()
    logits = logits_of(model, x_adv)
    check_logits(logits, y, look=look)
    values = loss(logits, y)
    check_graph(values)
    (grad,) = torch.autograd.grad(values.sum(), x_adv, allow_unused=True, materialize_grads=True)
    if look:
        check_finite(logits)
        check_gradient(grad)
    return logits.detach(), values.detach(), grad
