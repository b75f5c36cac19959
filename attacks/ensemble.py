"""AutoAttack, the standard protocol of four attacks."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.apgd import APGD
from attacks.fab import FAB
from attacks.gradient import Attack
from attacks.inputs import (
    Configured,
    batch_of,
    check_at_least,
    check_seed,
    check_threat,
    given,
    misclassified,
    predict,
)
from attacks.layout import in_layout, laid_out, layout_for
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.query import Square
from attacks.sanity import Finding, probabilities, randomised_forward, warn_of, zero_gradients
from attacks.threat import ThreatModel


@dataclass(frozen=True)
class Evaluation:
    """The results of a protocol, for each example and each attack.

    Attributes:
        x_adv: (N, …), the adversarial example, or the input where none was found.
        robust: (N,) bool, whether the example is still correct after all attacks (or certified).
        clean: the accuracy without an attack.
        after: for each attack by name, the robust accuracy after it, in the order of the attacks.
        skipped: number of examples that were not attacked because they are certified.
        findings: the protocol's checks of the model, on the first batch that is attacked: whether
            two passes agree, whether the outputs are logits, and whether gradients are not zero.
    """

    x_adv: Tensor = field(repr=False)
    robust: Tensor = field(repr=False)
    clean: float
    after: dict[str, float]
    skipped: int
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def robust_accuracy(self) -> float:
        """Return the share of examples that no attack broke."""
        return self.robust.to(torch.float64).mean().item()


@dataclass(frozen=True)
class AutoAttack(Configured):
    """Run APGD-CE, targeted APGD, targeted FAB and Square, each on the examples not yet broken.

    Croce & Hein 2020 (arXiv 2003.01690), §5: 100 steps, one restart, the 9 targets with the highest
    logits, 5000 queries; in L1 the protocol of Croce & Hein 2021 (arXiv 2103.01208), 5 restarts of
    APGD-CE and 5 targets. With fewer classes, there are as many targets as other classes, and
    ``attacks.losses`` replaces the losses that two or three classes do not define, so that all four
    attacks run. A broken example is not attacked again. As in the authors' code, a warning is given
    for a model whose outputs are random or probabilities, or whose gradients are zero: its measured
    robustness may be too high, see ``Evaluation.findings``. On a CPU, images are given to the
    network in the layout in which it takes less time (``attacks.layout``); what the attacks find is
    judged in the layout of x.

    Args:
        threat: the norm, radius and bounds; one radius for all examples.
        steps, targets, queries: sizes of the attacks; the defaults are the published protocol.
        seed: seed of the random numbers of each attack; None uses torch's global generator.
        batch_size: number of examples that are attacked together; None for all of them.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    threat: ThreatModel
    _: KW_ONLY
    steps: int = 100
    targets: int | None = None
    queries: int = 5000
    seed: int | None = 0
    batch_size: int | None = 250
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_threat(self.threat)
        check_at_least(1, steps=self.steps, queries=self.queries)
        check_at_least(1, **given(targets=self.targets, batch_size=self.batch_size))
        check_seed(self.seed)
        check_mode(self.mode)
        if isinstance(self.threat.eps, Tensor):
            raise ValueError("AutoAttack needs one eps for all examples; give a float")

    def attacks(self) -> dict[str, Attack]:
        """Return the attacks by name, in the order in which they run."""
        l1 = self.threat.norm == "l1"
        targets = self.targets or (5 if l1 else 9)
        alike: dict[str, Any] = {"seed": self.seed, "mode": self.mode}
        apgd = APGD(self.threat, steps=self.steps, restarts=5 if l1 else 1, **alike)
        targeted = APGD(self.threat, steps=self.steps, loss="targeted", targets=targets, **alike)
        fab = FAB(
            self.threat.norm,
            steps=self.steps,
            targets=self.targets or 9,
            eps=float(self.threat.eps),
            bounds=self.threat.bounds,
            support=self.threat.support,
            **alike,
        )
        square = Square(self.threat, queries=self.queries, **alike)
        return {"apgd-ce": apgd, "apgd-t": targeted, "fab-t": fab, "square": square}

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        return self.evaluate(model, x, y).x_adv

    def evaluate(
        self, model: Model, x: Tensor, y: Tensor, *, certified: Tensor | None = None
    ) -> Evaluation:
        """Run the protocol and return its results.

        Args:
            certified: (N,) bool, examples that are proven robust at ε; they count as robust if they
                are correct, and are not attacked.
        """
        x, y = batch_of(x, y, threat=self.threat)
        if certified is None:
            certified = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if certified.shape != y.shape or certified.dtype != torch.bool:
            raise ValueError(
                f"certified has dtype {certified.dtype} and shape {tuple(certified.shape)}; "
                f"pass one bool per example, shape {tuple(y.shape)}"
            )
        after: dict[str, float] = {}
        with attacking(model, self.mode):
            x_adv = x.clone()
            everything = torch.arange(len(x), device=x.device)
            right = torch.zeros_like(certified)
            for rows in self._batches(everything):
                right[rows] = ~misclassified(predict(model, x_adv[rows], y[rows]), y[rows])
            robust = right.clone()
            first = (robust & ~certified).nonzero().squeeze(1)[: self.batch_size]
            findings = self._checks(model, x[first], y[first])
            layout = layout_for(model, x[first], y[first])
            fast, held = in_layout(model, layout), laid_out(x, layout)
            for name, attack in self.attacks().items():
                active = (robust & ~certified).nonzero().squeeze(1)
                for rows in self._batches(active):
                    found = self._valid(x[rows], attack(fast, held[rows], y[rows]))
                    broken = misclassified(predict(model, found, y[rows]), y[rows])
                    x_adv[rows[broken]] = found[broken]
                    robust[rows[broken]] = False
                after[name] = robust.double().mean().item()
        warn_of(findings)
        skipped = int((certified & right).sum())
        return Evaluation(x_adv, robust, right.double().mean().item(), after, skipped, findings)

    def _checks(self, model: Model, x: Tensor, y: Tensor) -> tuple[Finding, ...]:
        if len(x) == 0:
            return ()
        random = randomised_forward(model, x, y, repeats=2, mode=self.mode)
        others = (probabilities, zero_gradients)
        return random, *(check(model, x, y, mode=self.mode) for check in others)

    def _batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        if len(rows) == 0:
            return ()
        return torch.split(rows, self.batch_size or len(rows))

    def _valid(self, x: Tensor, found: Tensor) -> Tensor:
        """Replace points beyond ε by x, because FAB returns points at any distance."""
        near = self.threat.distance(x, found) <= self.threat.eps
        rows = near.reshape(-1, *(1,) * (x.dim() - 1))
        return self.threat.project(x, torch.where(rows, found, x))
