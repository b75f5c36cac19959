"""What an objective is, and what it returns."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

#: the label of a token that is not counted
IGNORED = -100


@dataclass(frozen=True)
class StepResult:
    """The result of one evaluation of an objective.

    Attributes:
        loss: a scalar, the mean over everything that counts, differentiable in whatever is trained.
        right: a scalar, the number of correct outputs among those that were trained on; see
            `tally`.
        counted: the number of outputs that count: the examples of a classifier, or the tokens of a
            language model.
        adversarial: whether the inputs were attacked.
    """

    loss: Tensor
    right: Tensor
    counted: Tensor | int
    adversarial: bool = False


#: the loss of one step as a function of the network, whose examples are fixed
Loss = Callable[[nn.Module], StepResult]

#: (model, x, y, epoch) -> StepResult, where epoch is fractional, for schedules within an epoch.
#: An objective may have these attributes:
#: `moves_inputs` (False): it attacks x or adds noise to it, so that x must be floating point and
#: have one label for each example;
#: `class_labels` (True): y are indices of classes or tokens, which the loop then checks;
#: `points(model, x, y, epoch)`: the inputs of its loss, for criteria that need logits;
#: `prepared(model, x, y, epoch)`: it makes the attack and returns the loss of what it found, a
#: `Loss`, which can be evaluated several times;
#: `around(model, moving, x, y, epoch, share)`: a context in which the loop evaluates the step, see
#: `Awp.around`.
Objective = Callable[[nn.Module, Tensor, Tensor, float], StepResult]


def check_objective(objective: object) -> None:
    """Refuse what is no objective: the name of one, a loss of torch, or an attack.

    Raises:
        ValueError: it can't be called as `objective(model, x, y, epoch)`.
    """
    kind = type(objective).__qualname__
    if not callable(objective):
        raise ValueError(
            f"objective is {objective!r:.80}; give an object such as Natural(), or "
            "Adversarial(PGD(ThreatModel('linf', eps=8 / 255)))"
        )
    try:
        signature = inspect.signature(
            objective.forward if isinstance(objective, nn.Module) else objective
        )
    except (TypeError, ValueError):  # of a built-in without a signature
        return
    if _takes(signature, 4):
        return
    advice = "as Natural() does, the cross-entropy on clean examples"
    if _takes(signature, 3) and hasattr(objective, "threat"):
        advice = f"but Adversarial({kind}(...)) does"
    raise ValueError(f"objective is {kind}, which does not take (model, x, y, epoch), {advice}")


def _takes(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


def tally(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor | int]:
    """Return (right, counted): how many predictions equal the label, and how many labels count.

    Args:
        logits: (N, C), or (N, T, C) for the T tokens of each example.
        y: (N,) or (N, T), class or token indices; a token with the label −100 does not count.
    """
    right = (logits.argmax(-1) == y).sum()
    return right, len(y) if y.ndim == 1 else (y != IGNORED).sum()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy over the labels that count (see `tally`), or 0 if none does."""
    if y.ndim == 1:
        return F.cross_entropy(logits, y)
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="sum")
    return total / (y != IGNORED).sum().clamp_min(1)


def prepared(objective: Objective, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
    """Return the loss of a batch as a function of the network, with the attack already made if the
    objective has a method `prepared`."""
    own = getattr(objective, "prepared", None)
    if own is None:
        return lambda network: objective(network, x, y, epoch)
    loss: Loss = own(model, x, y, epoch)
    return loss


class Prepared(ABC):
    """An objective in two parts: the attack on the network, and the loss of what it found."""

    @abstractmethod
    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        """Attack the batch, and return the loss of its points as a function of the network."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        return self.prepared(model, x, y, epoch)(model)


def points_of(objective: Objective, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
    """Return the inputs at which an objective computes its loss.

    Raises:
        ValueError: the objective has no method `points`.
    """
    if not hasattr(objective, "points"):
        raise ValueError(
            f"the logits of {getattr(objective, '__name__', type(objective).__name__)} are asked "
            "for, and it does not say at which inputs; give it a method points(model, x, y, epoch) "
            "that returns them, or take Natural() or Adversarial(attack)"
        )
    points: Tensor = objective.points(model, x, y, epoch)
    return points
