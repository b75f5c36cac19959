"""Compute the dense gradient of masked weights, and change masks during training."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from robustprune.sparsity import MaskSet
from robustprune.sparsity.apply import Masked


class DenseGradients:
    """Collect the gradients with respect to the masked weights m ⊙ θ.

    They are those of an unmasked network with the same weights. (The gradient of θ itself is zero
    where a weight is pruned.) Use this context inside `computed_once`, where the masked weights of
    a step are computed once. An inner attack, which differentiates by its inputs, is not counted.
    If an objective makes several backward passes through the weights (FreeLB), their mean is
    returned.

    Args:
        asked: whether to collect gradients at all; if False, no hooks are set.
    """

    def __init__(self, model: nn.Module, *, asked: bool = True) -> None:
        self._sums: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._weights = {
            name: getattr(layer, name.rpartition(".")[2])
            for name, (layer, _) in (masked_weights(model).items() if asked else ())
        }
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> DenseGradients:
        for name, weight in self._weights.items():
            if weight.requires_grad:
                self._hooks.append(weight.register_hook(lambda g, n=name: self._take(n, g)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _take(self, name: str, gradient: Tensor) -> None:
        gradient = gradient.detach()
        self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient.clone()
        self._calls[name] = self._calls.get(name, 0) + 1

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by parameter name, after the backward pass; unreached ones are
        zero."""
        return {
            name: self._sums[name] / self._calls[name]
            if name in self._sums
            else torch.zeros_like(weight)
            for name, weight in self._weights.items()
        }


def masked_weights(model: nn.Module) -> dict[str, tuple[nn.Module, Masked]]:
    """Return the layers that `apply_masks` masked and their parametrizations, by parameter name."""
    found: dict[str, tuple[nn.Module, Masked]] = {}
    for path, layer in model.named_modules():
        if parametrize.is_parametrized(layer):
            for leaf, parametrizations in layer.parametrizations.items():
                masked = parametrizations[-1]
                if isinstance(masked, Masked):
                    found[f"{path}.{leaf}" if path else leaf] = (layer, masked)
    return found


def masks_of(model: nn.Module) -> MaskSet:
    """Return the masks that a model has now. After a training with validation they are those of
    the epoch that was chosen.

    Raises:
        ValueError: the model has no masks.
    """
    return MaskSet({name: masked.mask for name, (_, masked) in masked_weights(model).items()})


@torch.no_grad()
def set_masks(model: nn.Module, masks: MaskSet, optimizer: torch.optim.Optimizer) -> None:
    """Replace the masks of a model in place. A weight that was pruned and is kept again starts at
    zero, and the optimizer forgets its momentum.

    Raises:
        ValueError: a mask is for a weight that is not masked.
    """
    there = masked_weights(model)
    for name, mask in masks.items():
        if name not in there:
            raise ValueError(
                f"{name!r} is not masked; masked are {', '.join(there) or 'none'}: call "
                "apply_masks first"
            )
        layer, masked = there[name]
        leaf = name.rpartition(".")[2]
        original = layer.parametrizations[leaf].original  # type: ignore[union-attr, index]
        new = mask.to(masked.mask.device)
        forget(optimizer, original, new & ~masked.mask)
        masked.mask.copy_(new)


@torch.no_grad()
def forget(optimizer: torch.optim.Optimizer, weight: nn.Parameter, where: Tensor) -> None:
    """Set a parameter and all that an optimizer stores for it, such as momentum, to zero.

    Args:
        where: a boolean tensor with the shape of the parameter; only the True entries are set.
    """
    weight.masked_fill_(where, 0.0)
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(where, 0.0)
