"""The input of a verification: certificates of one method, and the objects that they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.threat import Bounds
from robustprune.certify.certificate import Certificate, Norm
from robustprune.certify.findings import CheckResult, about_examples
from robustprune.certify.sentences import ClassifiedTexts
from robustprune.certify.synonyms import WordSets

#: the default for the largest number of fresh samples of one claim
LIMIT = 1_000_000


@dataclass(frozen=True)
class Claims:
    """Certificates with the same method and settings, and the objects that they are about.

    Attributes:
        certificates: the N certificates; x: (N, ...) and y: (N,), their examples, on the model's
            device.
        bounds: the bounds of valid inputs; proofs hold within them, smoothing everywhere.
        support: where an input may change, as in `ThreatModel`; None for everywhere.
        sentences: the whole test split of a text task, or None.
        seed: the seed of fresh noise and attacks.
        batch_size: the number of inputs in one pass.
        statements: the number of smoothed claims in the whole file, over which error probabilities
            are spread.
        limit: the largest number of fresh samples of one claim.
    """

    certificates: tuple[Certificate, ...]
    model: nn.Module
    x: Tensor
    y: Tensor
    bounds: Bounds
    seed: int
    batch_size: int
    quiet: bool
    support: Callable[[Tensor], Tensor] | None = None
    sentences: ClassifiedTexts | None = None
    statements: int = 1
    limit: int = LIMIT

    @property
    def method(self) -> str:
        return self.certificates[0].method

    @property
    def norm(self) -> Norm:
        return cast(Norm, self.certificates[0].norm)

    @property
    def words(self) -> ClassifiedTexts:
        """Return the sentences.

        Raises:
            ValueError: the task has no sentences.
        """
        if self.sentences is None:
            raise ValueError("the task has no text")
        return self.sentences

    @property
    def texts(self) -> list[str]:
        """The N examples as they are written."""
        return [self.words.texts[c.index] for c in self.certificates]

    @property
    def groups(self) -> WordSets:
        return self.words.groups(int(self.setting("most")))

    @property
    def radius(self) -> Tensor:
        """The radii, (N,) float64."""
        radii = [c.radius for c in self.certificates]
        return torch.tensor(radii, dtype=torch.float64, device=self.x.device)

    @property
    def balls(self) -> Tensor:
        """The rows whose radius is above 0."""
        return (self.radius > 0).nonzero().flatten()

    def setting(self, name: str) -> Any:
        return self.certificates[0].settings[name]

    def finding(self, name: str, rows: Tensor, fine: str, complaint: str) -> CheckResult:
        """Return a finding that names the examples of the bad `rows`."""
        wrong = [self.certificates[i].index for i in rows.tolist()]
        return about_examples(f"{self.method}: {name}", wrong, fine, complaint)
