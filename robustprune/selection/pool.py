"""The candidates, and the interface of a method that scores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

Examples = tuple[Tensor, Tensor]  # x (M, ...) and y (M,)


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates to train on: N adversarial examples.

    Attributes:
        x_adv: (N, ...) in input units.
        y: (N,) int64 class indices.
        x: (N, ...) the clean examples that they were made from, where `BoundaryDistance` starts; or
            None.

    Raises:
        ValueError: there are no candidates, lengths differ, or x and x_adv have different shapes.
    """

    x_adv: Tensor
    y: Tensor
    x: Tensor | None = None

    def __post_init__(self) -> None:
        check_examples(self.x_adv, self.y, "the pool")
        if self.x is not None and self.x.shape != self.x_adv.shape:
            raise ValueError(
                f"the pool's x has shape {tuple(self.x.shape)} and x_adv "
                f"{tuple(self.x_adv.shape)}; give the clean example of each candidate"
            )

    def __len__(self) -> int:
        return len(self.y)


class Method(Protocol):
    """It scores every candidate. Its fields are its options.

    Attributes:
        signed: whether a score below zero means that the candidate does harm.
    """

    signed: ClassVar[bool]

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        """Return scores (N,). The higher a score, the more useful is training on the candidate."""
        ...


def batches(batch_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the tensors side by side, `batch_size` rows at a time."""
    for start in range(0, len(tensors[0]), batch_size):
        yield tuple(tensor[start : start + batch_size] for tensor in tensors)


def check_examples(x: Tensor, y: Tensor, what: str) -> None:
    """Raise a ValueError unless x and y have the same length, at least one."""
    if y.dim() != 1 or len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"{what} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; give "
            "(N, ...) and (N,) with N at least 1"
        )


def needed(validation: Examples | None, method: Method) -> Examples:
    """Return the validation examples, or raise a ValueError if there are none."""
    if validation is None:
        raise ValueError(
            f"{type(method).__name__} values candidates by validation examples; give "
            "validation=(x, y)"
        )
    check_examples(*validation, "validation")
    return validation
