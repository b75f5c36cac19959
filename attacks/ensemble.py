"""The AutoAttack-standard protocol."""

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
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.query import Square
from attacks.sanity import Finding, probabilities, randomised_forward, warn_of, zero_gradients
from attacks.threat import ThreatModel


@dataclass(frozen=True)
class Evaluation:
    """What a protocol found, example by example and attack by attack.

    Attributes:
        x_adv: (N, …), the adversarial example where there is one, else the input.
        robust: (N,) bool, still right after everything (or certified).
        clean: accuracy without attack.
        after: attack name → robust accuracy after it, in the order in which they ran.
        skipped: number of examples left out because they are certified.
        findings: the protocol's checks of the model itself, on the first batch that is attacked:
            does it answer twice alike, are its outputs logits, has it gradients?
    """

    x_adv: Tensor = field(repr=False)
    robust: Tensor = field(repr=False)
    clean: float
    after: dict[str, float]
    skipped: int
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def robust_accuracy(self) -> float:
        """Share of examples that no attack broke."""
        return self.robust.to(torch.float64).mean().item()


@dataclass(frozen=True)
class AutoAttack(Configured):
    """APGD-CE, targeted APGD, targeted FAB, Square, each on what the ones before left standing.

    Croce & Hein 2020 (arXiv 2003.01690), §5: 100 steps, one restart, the 9 likeliest targets,
    5000 queries; in L1 the protocol of Croce & Hein 2021 (arXiv 2103.01208), 5 restarts of
    APGD-CE and 5 targets.  With fewer classes there are as many targets as other classes, and the
    losses are those that ``attacks.losses`` gives for three and two classes, so the protocol
    stays whole.  A broken example costs nothing more, between the attacks and inside each.  As in
    the authors' code, a model whose answers are random, are probabilities, or have a gradient of
    zero gets a warning: what was measured says too much, see ``Evaluation.findings``.

    Args:
        threat: norm, radius, bounds.
        steps, targets, queries: None and the defaults are the published protocol.
        seed: every attack draws from a fresh generator with it; None from the global one.
        batch_size: examples attacked at once; None for all of them.
        mode: "eval" (restored afterwards), "train" or "keep" for a module's mode meanwhile.

    Raises:
        ValueError: see ``attacks.inputs``; NaN logits; options out of range.
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
        """The attacks by name, in order."""
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
        """Run the protocol and keep the account of it.

        Args:
            certified: (N,) bool, examples proven robust at ε: counted robust, not attacked.
        """
        x, y = batch_of(x, y, threat=self.threat)
        if certified is None:
            certified = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if certified.shape != y.shape or certified.dtype != torch.bool:
            raise ValueError(
                f"certified has dtype {certified.dtype} and shape {tuple(certified.shape)}; "
                f"pass one bool an example, shape {tuple(y.shape)}"
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
            for name, attack in self.attacks().items():
                active = (robust & ~certified).nonzero().squeeze(1)
                for rows in self._batches(active):
                    found = self._valid(x[rows], attack(model, x[rows], y[rows]))
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
        """FAB returns points of any distance: those beyond ε count as nothing."""
        near = self.threat.distance(x, found) <= self.threat.eps
        rows = near.reshape(-1, *(1,) * (x.dim() - 1))
        return self.threat.project(x, torch.where(rows, found, x))
