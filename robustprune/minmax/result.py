"""What an objective is, and what one evaluation of it yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

#: the label of a token that does not count
IGNORED = -100


@dataclass(frozen=True)
class StepResult:
    """What one evaluation of an objective yields.

    Attributes:
        loss: scalar, the mean over what counts, differentiable in whatever is trained.
        right: scalar, how many of the outputs that were trained on were right; see `tally`.
        counted: of how many: the examples of a classifier, the tokens of a language model.
        adversarial: whether the inputs were attacked.
    """

    loss: Tensor
    right: Tensor
    counted: Tensor | int
    adversarial: bool = False


#: (model, x, y, epoch) -> StepResult; epoch counts fractions, for what changes as training goes on.
#: An objective may have these attributes:
#: `moves_inputs` (False): it attacks x or adds noise to it, so that x must be floating point, with
#: one label an example;
#: `class_labels` (True): y are indices of classes or tokens, which the loop then checks;
#: `points(model, x, y, epoch)`: the inputs that its loss looks at, for criteria that need logits.
Objective = Callable[[nn.Module, Tensor, Tensor, float], StepResult]


def tally(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor | int]:
    """(right, counted): how many of the largest logits are those of the labels, of how many.

    Args:
        logits: (N, C), or (N, T, C) for T tokens of each example.
        y: (N,) or (N, T), class or token indices; a token with the label −100 does not count.
    """
    right = (logits.argmax(-1) == y).sum()
    return right, len(y) if y.ndim == 1 else (y != IGNORED).sum()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy over what counts (see `tally`); 0 where no token does."""
    if y.ndim == 1:
        return F.cross_entropy(logits, y)
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="sum")
    return total / (y != IGNORED).sum().clamp_min(1)


def points_of(objective: Objective, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
    """The inputs that an objective's loss looks at.

    Raises:
        ValueError: it does not say.
    """
    if not hasattr(objective, "points"):
        raise ValueError(
            f"the logits of {getattr(objective, '__name__', type(objective).__name__)} are asked "
            "for, and it does not say at which inputs; give it a method points(model, x, y, epoch) "
            "that returns them, or take Natural() or Adversarial(attack)"
        )
    points: Tensor = objective.points(model, x, y, epoch)
    return points
