"""Use attacks of other libraries as an ``Attack``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.box import Bounds
from attacks.inputs import batch_of
from attacks.modes import attacking
from attacks.network import Model, NotFinite, logits_of


class _AsModule(nn.Module):
    """A module without parameters around a model, because torchattacks requires a module."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = (model,)  # in a tuple, so that it isn't registered as a submodule

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model[0], x)


@dataclass(frozen=True)
class TorchAttack:
    """A torchattacks class with its options; every call builds a new instance."""

    cls: type
    options: tuple[tuple[str, Any], ...]

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y, bounds=(0.0, 1.0))
        if x.dim() != 4:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; torchattacks takes images (N, C, H, W) only"
            )
        if len(x) == 0:
            return x.clone()
        module = model if isinstance(model, nn.Module) else _AsModule(model)
        with attacking(module, "eval"), torch.enable_grad():
            attack = self.cls(module, **dict(self.options))
            x_adv: Tensor = attack(x, y)
        bad = ~x_adv.isfinite().flatten(1).all(1)
        if bool(bad.any()):
            raise NotFinite(
                f"torchattacks' {self.cls.__name__} returned NaN or infinity for {int(bad.sum())} "
                f"of {len(x)} examples: the model's gradient is NaN there; return logits before "
                "the softmax, or use a gradient-free attack such as Square"
            )
        return x_adv.detach()


def from_torchattacks(
    cls: type | str, *, bounds: Bounds = (0.0, 1.0), **options: Any
) -> TorchAttack:
    """Return an ``Attack`` that runs a torchattacks class, given as class or name.

    ``from_torchattacks("PGD", eps=0.1, alpha=0.01, steps=10)(model, x, y)``.

    Args:
        bounds: the bounds of the inputs; only (0, 1) is accepted, because torchattacks clamps all
            inputs to [0, 1] without a warning.
        options: arguments of the class after the model.

    Raises:
        ValueError: `bounds` are not (0, 1); at the call, inputs are outside [0, 1] or not (N, C, H,
            W).
        ImportError: torchattacks is not installed.
    """
    if bounds is None or tuple(bounds) != (0.0, 1.0):
        raise ValueError(
            f"bounds={bounds!r}: torchattacks clamps to [0, 1] and returns points far outside "
            "eps for anything else; use the attacks of this package"
        )
    return TorchAttack(_named(cls) if isinstance(cls, str) else cls, tuple(options.items()))


def _named(name: str) -> type:
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError("torchattacks is missing: python -m pip install torchattacks") from error
    if not hasattr(torchattacks, name):
        raise ValueError(f"torchattacks has no attack {name!r}; see torchattacks.__all__")
    cls: type = getattr(torchattacks, name)
    return cls
