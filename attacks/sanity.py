"""Checks of an evaluation: signs that a model hides its gradients or that an attack is weak.

They follow Carlini et al. 2019 (arXiv 1902.06705), §3 to §5, and the flags of AutoAttack (Croce &
Hein 2020). Every check is a ``Finding`` with the figure on which it is based.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.apgd import APGD
from attacks.combine import Transfer, robust_accuracy
from attacks.gradient import FGSM, PGD
from attacks.inputs import (
    batch_of,
    check_at_least,
    check_seed,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import margin, spread
from attacks.modes import attacking
from attacks.network import Model
from attacks.query import Square
from attacks.threat import ThreatModel


@dataclass(frozen=True)
class Finding:
    """The result of one check: its name, whether it passed, its figure, and a message."""

    name: str
    passed: bool
    figure: float
    message: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'WARN'} {self.name}: {self.message}"


class EvaluationWarning(UserWarning):
    """A measured robustness may be too high, because a check of the evaluation failed."""


def warn_of(findings: Sequence[Finding], *, stacklevel: int = 3) -> None:
    """Give one warning for each finding that did not pass."""
    for finding in failed(findings):
        text = f"{finding.name}: {finding.message}"
        warnings.warn(text, EvaluationWarning, stacklevel=stacklevel)


def randomised_forward(
    model: Model, x: Tensor, y: Tensor, *, repeats: int = 5, mode: str = "eval"
) -> Finding:
    """Check that repeated forward passes agree; else gradients must be averaged over the noise."""
    with attacking(model, mode):
        first = predict(model, x, y)
        scale = spread(first).clamp_min(torch.finfo(first.dtype).tiny)
        gap = 0.0
        for _ in range(repeats - 1):
            again = predict(model, x, y)
            change = torch.where(again == first, 0.0, (again - first).abs())  # −∞ is −∞
            gap = max(gap, (change.amax(1) / scale).max().item())
    message = f"the logits of one batch differ by {gap:.2g} of their spread over {repeats} passes"
    if gap > 1e-4:
        message += "; attack the mean of many passes (expectation over transformation)"
    return Finding("randomised-forward", gap <= 1e-4, gap, message)


def probabilities(model: Model, x: Tensor, y: Tensor, *, mode: str = "eval") -> Finding:
    """Check for probabilities: outputs in [0, 1] that sum to one, whose gradients saturate."""
    with attacking(model, mode):
        logits = predict(model, x, y)
    inside = ((logits >= -1e-5) & (logits <= 1 + 1e-5)).all(1)
    share = (inside & ((logits.sum(1) - 1).abs() <= 1e-4)).double().mean().item()
    return Finding(
        "probabilities", share < 1, share, f"{share:.0%} of the outputs are probability vectors"
    )


def input_gradients(model: Model, x: Tensor, y: Tensor, *, mode: str = "eval") -> Tensor:
    """Return the margin's gradients at x, (N, …), unchecked; 0 where there is no gradient graph."""
    with attacking(model, mode):
        try:
            return loss_and_gradient(model, x, y, margin, look=False)[2]
        except ValueError:
            predict(model, x, y)  # raises errors that do not concern gradients
            return torch.zeros_like(x)


def flat(grad: Tensor) -> Tensor:
    """Return where a gradient (N, …) is exactly zero in every entry, (N,) bool."""
    return (grad.flatten(1) == 0).all(1)


def zero_gradients(model: Model, x: Tensor, y: Tensor, *, mode: str = "eval") -> Finding:
    """Check for examples whose margin has a gradient of exactly zero at x."""
    still = flat(input_gradients(model, x, y, mode=mode))
    share = still.double().mean().item()
    message = f"{share:.1%} of the input gradients are exactly zero ({int(still.sum())})"
    return Finding("zero-gradients", share == 0, share, message)


def nan_gradients(model: Model, x: Tensor, y: Tensor, *, mode: str = "eval") -> Finding:
    """Check for examples whose margin has a NaN or infinite gradient at x."""
    bad = ~input_gradients(model, x, y, mode=mode).isfinite().flatten(1).all(1)
    share = bad.double().mean().item()
    message = f"{share:.1%} of the input gradients are NaN or infinite ({int(bad.sum())})"
    if share:
        message += "; no attack can follow them: return logits before the softmax"
    return Finding("nan-gradients", share == 0, share, message)


def labels_fit(model: Model, x: Tensor, y: Tensor) -> Finding:
    """Check for a clean accuracy far below chance, which indicates labels in another order."""
    with attacking(model, "eval"):
        logits = predict(model, x, y)
    right = (~misclassified(logits, y)).double().mean().item()
    chance = 1 / logits.shape[1]
    return Finding(
        "labels-fit", right >= chance / 2, right, f"clean accuracy {right:.1%}, chance {chance:.1%}"
    )


def answers_differ(model: Model, x: Tensor, y: Tensor) -> Finding:
    """Check that a model does not give one class to all examples, which no attack can change."""
    answers = _answers(model, x, y)
    share = (answers == answers.mode().values).double().mean().item()
    message = f"{share:.1%} of the examples get one class, {answers.mode().values.item()}"
    constant = share == 1 and not _alike(y)
    if constant:
        message += f", a constant answer, right on {(answers == y).double().mean().item():.1%}"
    return Finding("constant-answer", not constant, share, message)


def _answers(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the model's classes, (N,)."""
    with attacking(model, "eval"):
        return predict(model, x, y).argmax(1)


def _alike(classes: Tensor) -> bool:
    return bool((classes == classes[0]).all())


def unbounded_attack(model: Model, x: Tensor, y: Tensor, threat: ThreatModel) -> Finding:
    """Check that the robust accuracy falls to zero as ε grows (within the bounds, if any).

    This does not hold for a model that gives one class to all inputs; `answers_differ` reports
    that. The balls are nested: an example that is broken at one ε is broken at every larger ε, so
    each ε is tried only on the other examples, which stop at their first misclassified point. The
    last point in a huge ball shows little: its steps are proportional to ε and jump over whole
    regions.
    """
    clean = answers = _answers(model, x, y)
    left, eps = torch.arange(len(x), device=x.device), threat.eps
    for doubling in range(8):
        eps = threat.eps * 2**doubling
        attack = PGD(replace(threat, eps=eps), steps=20, early_stop=True, seed=0)
        answers = _answers(model, attack(model, x[left], y[left]), y[left])
        left = left[answers == y[left]]
        if len(left) == 0:
            break
    accuracy = len(left) / max(len(x), 1)
    message = f"robust accuracy is {accuracy:.1%} at eps = {float(eps):.3g} under PGD-20"
    constant = _alike(torch.cat([clean, answers])) and not _alike(y)
    if constant:
        message += f", where every example still gets class {clean[0].item()}"
    return Finding("accuracy-reaches-zero", accuracy == 0 or constant, accuracy, message)


def stronger(
    name: str, strong: float, weak: float, what: str, *, tolerance: float = 0.002
) -> Finding:
    """Check that the first robust accuracy exceeds the second by at most the tolerance."""
    gap = strong - weak
    message = f"{what}: {strong:.1%} against {weak:.1%}"
    return Finding(name, gap <= tolerance, gap, message)


def check_attacks(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    surrogate: Model | None = None,
    steps: int = 20,
    queries: int = 500,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Run every check on one batch and return the findings.

    Args:
        surrogate: a model trained in the same way, for the transfer check; None omits this check.
        steps: number of steps of the iterative attacks; queries: number of queries of Square.
    """
    x, y = batch_of(x, y, threat=threat)
    check_at_least(1, steps=steps, queries=queries)
    check_seed(seed)
    if isinstance(threat.eps, Tensor):
        raise ValueError("the sanity checks need one eps for all examples; give a float")

    def accuracy(attack: Callable[[Model, Tensor, Tensor], Tensor]) -> float:
        return robust_accuracy(model, attack(model, x, y), y)

    checks = (labels_fit, answers_differ, randomised_forward, probabilities)
    findings = [check(model, x, y) for check in (*checks, zero_gradients, nan_gradients)]
    if findings[-2].figure == 1 or findings[-1].figure > 0:  # the rest would only repeat this
        white = single = longer = accuracy(lambda _, x, y: x)
    else:
        findings.append(unbounded_attack(model, x, y, threat))
        single = accuracy(FGSM(threat))
        white = accuracy(APGD(threat, steps=steps, seed=seed))
        longer = accuracy(APGD(threat, steps=4 * steps, seed=seed))
    black = accuracy(Square(threat, queries=queries, seed=seed))
    findings += [
        stronger("iterative-beats-single-step", white, single, f"APGD-{steps} against FGSM"),
        stronger("white-box-beats-black-box", white, black, f"APGD-{steps} against Square"),
        stronger(
            "converged-in-steps",
            white,
            longer,
            f"APGD-{steps} against {4 * steps} steps",
            tolerance=0.01,
        ),
    ]
    if surrogate is not None:
        moved = accuracy(Transfer(APGD(threat, steps=steps, seed=seed), surrogate))
        what = f"APGD-{steps} against transfer from the surrogate"
        findings.append(stronger("white-box-beats-transfer", white, moved, what))
    return tuple(findings)


def failed(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings that did not pass."""
    return tuple(finding for finding in findings if not finding.passed)
