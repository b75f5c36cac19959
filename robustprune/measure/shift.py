"""Accuracy on corrupted inputs: each common corruption at five severities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure.answers import all_logits
from robustprune.measure.corruptions import SERIES
from robustprune.measure.image_corruptions import IMAGES
from robustprune.measure.statistics import Proportion, proportion

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, repr=False)
class Shifted:
    """Which of N examples a network classifies correctly when they are corrupted.

    Attributes:
        clean: (N,) bool, as they are.
        corrupted: name of the corruption -> (5, N) bool, one row for each severity.
    """

    clean: Tensor
    corrupted: dict[str, Tensor]

    def accuracy(self, name: str, severity: int) -> Proportion:
        """Return the accuracy under a corruption at a severity from 1 to 5."""
        right = self.corrupted[name][severity - 1]
        return proportion(int(right.sum()), len(right))

    @property
    def mean(self) -> float:
        """The mean accuracy over all corruptions and severities."""
        return float(torch.stack(list(self.corrupted.values())).double().mean())

    def __repr__(self) -> str:
        worst = min(self.corrupted, key=lambda name: float(self.corrupted[name].double().mean()))
        lowest = float(self.corrupted[worst].double().mean())
        return (
            f"Shifted(n={len(self.clean)}, clean={float(self.clean.double().mean()):.4g}, "
            f"mean of {len(self.corrupted)} corruptions={self.mean:.4g}, "
            f"worst {worst}={lowest:.4g})"
        )


def corruption_names(x: Tensor) -> tuple[str, ...]:
    """Return the corruptions for inputs of this shape: of images (N, C, H, W), of series (N, C, L),
    and none for others."""
    return tuple({4: IMAGES, 3: SERIES}.get(x.dim(), {}))


def corrupt(x: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupt images (N, C, H, W) in [0, 1] or series (N, C, L); see `image_corruptions.IMAGES` and
    `corruptions.SERIES` for the names and the constants.

    Args:
        severity: from 1 to 5.
        seed: the seed of what is drawn; the same gives the same result.

    Raises:
        ValueError: there is no such corruption for this shape or no such severity, or images are
            not within [0, 1].
    """
    names = corruption_names(x)
    if name not in names:
        raise ValueError(
            f"there is no corruption {name!r} for inputs of shape {tuple(x.shape)}; choose "
            f"{', '.join(names) or 'images (N, C, H, W) or series (N, C, L)'}"
        )
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity} must be a whole number from 1 to 5")
    if x.dim() == 4 and len(x) and not 0 <= float(x.min()) <= float(x.max()) <= 1:
        raise ValueError("images must lie within [0, 1] to be corrupted")
    change, sizes = (IMAGES if x.dim() == 4 else SERIES)[name]
    generator = torch.Generator(x.device).manual_seed(seed)
    return change(x, sizes[severity - 1], generator)


def shifted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Shifted:
    """Measure accuracy under each common corruption at the severities 1 to 5.

    The protocol of Hendrycks & Dietterich 2019, arXiv 1903.12261: nothing is trained on the
    corruptions, and figures are means over severities.

    Args:
        x: images (N, C, H, W) in [0, 1] or series (N, C, L); y: (N,); on the model's device.
        names: the corruptions; None for all that fit the shape.
        seed: the seed of what is drawn, so that two networks see the same inputs.

    Raises:
        ValueError: as in `corrupt`, or nothing fits the shape, a label is no class, a logit is NaN.
    """
    chosen = corruption_names(x) if names is None else tuple(names)
    if not chosen:
        raise ValueError(
            f"there are no corruptions for inputs of shape {tuple(x.shape)}, only for images "
            "(N, C, H, W) and series (N, C, L)"
        )

    def right(inputs: Tensor) -> Tensor:
        return all_logits(model, inputs, y, batch_size=batch_size).argmax(1) == y.cpu()

    return Shifted(
        right(x),
        {
            name: torch.stack([right(corrupt(x, name, s, seed=seed)) for s in SEVERITIES])
            for name in chosen
        },
    )
