"""Accuracy on clean and on attacked examples, for each example. Every figure is an upper bound."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks import (
    PGD,
    Attack,
    EvaluationWarning,
    Finding,
    Model,
    Square,
    ThreatModel,
    Transfer,
    WorstOf,
)
from attacks.inputs import batch_of, check_threat
from attacks.modes import evaluating
from attacks.returned import attacked, check_radii, for_examples, threat_of
from attacks.sanity import flat as zero_rows
from attacks.sanity import input_gradients, warn_of
from attacks.scale import scaled
from robustprune.measure.answers import all_logits
from robustprune.run.progress import progress
from robustprune.run.runtime import is_first, merged, own_batches
from robustprune.sparsity import computed_once
from robustprune.tabular import html_table, share


@dataclass(frozen=True, repr=False)
class Outcome:
    """Which of N examples a network classifies correctly.

    Attributes:
        clean: (N,) bool, correct without a perturbation.
        robust: attack name -> (N,) bool, correct under that attack; False wherever `clean` is.
        answers: (N,) int64, the class of each example without a perturbation.
        flat: (N,) bool, correct under every attack, with a gradient of exactly zero, so that an
            attack that follows the gradient could not move.
        unchecked: the attacks for which no threat model is known.
    """

    clean: Tensor
    robust: dict[str, Tensor]
    answers: Tensor
    flat: Tensor
    unchecked: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {accuracy}" for name, accuracy in self._accuracies())
        return f"Outcome(n={len(self.clean)}, {shares}{self._marks()})"

    def _repr_html_(self) -> str:
        title = f"accuracy on {len(self.clean):,} examples{self._marks()}"
        return html_table(title, (), self._accuracies())

    def _accuracies(self) -> list[tuple[str, str]]:
        right = {"clean": self.clean, **self.robust, "worst": self.worst}
        return [(name, share(one.double().mean().item())) for name, one in right.items()]

    def _marks(self) -> str:
        return "".join(f", {found.name}" for found in self.findings if not found.passed)

    @property
    def constant(self) -> int | None:
        """The one class that every example gets without a perturbation; None if classes differ, or
        if all examples are of that class."""
        first = int(self.answers[0]) if len(self.answers) else None
        alike = first is not None and bool((self.answers == first).all())
        return first if alike and not bool(self.clean.all()) else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What makes the figures less meaningful than they seem; see `attacks.sanity`."""
        flat, standing = int(self.flat.sum()), int(self.worst.sum())
        part = flat / max(standing, 1)
        message = f"{flat} of the {standing} unbroken examples have a gradient of exactly zero"
        if flat:
            message += "; attacks that follow it could not move: try a gradient-free one (Square)"
        names = ", ".join(self.unchecked) or "none"
        return (
            Finding("zero-gradients", flat == 0, part, message),
            Finding(
                "constant-answer",
                self.constant is None,
                float(self.constant is not None),
                "classes differ" if self.constant is None else f"all get class {self.constant}",
            ),
            Finding(
                "ball-unchecked",
                not self.unchecked,
                float(len(self.unchecked)),
                f"attacks without a known threat model: {names}",
            ),
        )

    @property
    def worst(self) -> Tensor:
        """(N,) bool: correct under every one of the attacks."""
        return torch.stack([self.clean, *self.robust.values()]).all(0)


def answers_of(model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Return argmax f(x) in eval mode, (N,) int64 on the CPU, by batches of this size or at once.

    Raises:
        ValueError: a label is not a class, or a logit is NaN or +∞, for which the result of argmax
            would be arbitrary. Some logits may be −∞, which excludes their classes.
    """
    return all_logits(model, x, y, batch_size=batch_size).argmax(1)


def correct(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return whether argmax f(x) = y, (N,) bool on the CPU; it raises what `answers_of` raises."""
    return answers_of(model, x, y) == y.cpu()


@torch.inference_mode(False)  # else masks computed once have no gradient
def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    batch_size: int,
    threat: ThreatModel | None = None,
    title: str = "measuring",
    quiet: bool = True,
) -> Outcome:
    """Run each attack on the examples that are correct without it. The model decides on success.

    The result of an attack is first projected into its threat model, so that the attack need not be
    trusted. Several ranks share the batches; each rank gets the whole outcome. Gradients of exactly
    zero also cause a warning (`attacks.EvaluationWarning`).

    Args:
        x: (N, ...), y: (N,); on the model's device.
        attacks: the attacks by their names in the outcome.
        threat: what every attack may do; None for the `threat` of each attack. An attack without
            one, such as one that searches the nearest example, is listed in `Outcome.unchecked`.

    Raises:
        ValueError: logits or gradients are NaN, or an attack returned invalid inputs.
    """
    x, y = batch_of(x, y)
    if threat is not None:
        check_threat(threat)
        threat.fitting(x)
    for attack in attacks.values():
        check_radii(attack, x)
    clean = torch.zeros(len(y), dtype=torch.bool)
    answers = torch.zeros(len(y), dtype=torch.int64)
    flat = torch.zeros_like(clean)
    robust = {name: torch.zeros_like(clean) for name in attacks}
    followed = any(_follows(attack) for attack in attacks.values())
    with evaluating(model), computed_once(model):
        batches = own_batches(len(y), batch_size)
        for rows in progress(batches, title=title, unit="batch", quiet=quiet):
            xs, ys = x[rows], y[rows]
            answers[rows] = answers_of(model, xs, ys)
            clean[rows] = answers[rows] == ys.cpu()
            alive = clean[rows].nonzero().flatten().to(x.device)
            for name, attack in attacks.items():
                survived = torch.zeros(len(ys), dtype=torch.bool)
                if len(alive):
                    index = alive + rows.start
                    narrow = for_examples(attack, x, index)
                    allowed = None if threat is None else threat.select(index)
                    found = attacked(narrow, model, xs[alive], ys[alive], threat=allowed)
                    survived[alive.cpu()] = correct(model, found, ys[alive])
                robust[name][rows] = survived
            if followed:
                flat[rows] = _flat(model, xs, ys, torch.stack([r[rows] for r in robust.values()]))
    unchecked = (
        ()
        if threat is not None
        else tuple(name for name, attack in attacks.items() if threat_of(attack) is None)
    )
    outcome = Outcome(
        merged(clean),
        {name: merged(part) for name, part in robust.items()},
        merged(answers),
        merged(flat),
        unchecked,
    )
    if is_first():
        warn_of(outcome.findings[:1])
    return outcome


def _follows(attack: Attack) -> bool:
    """Return whether an attack may follow the gradient of the network that is judged."""
    if isinstance(attack, WorstOf):
        return any(_follows(one) for one in attack.attacks)
    return not isinstance(attack, Square | Transfer)


def _flat(model: Model, x: Tensor, y: Tensor, robust: Tensor) -> Tensor:
    """Return (N,) bool, on the CPU: correct under each attack (A, N) and with zero gradient."""
    standing = robust.all(0)
    rows = standing.nonzero().flatten().to(x.device)
    if len(rows):
        standing[standing.clone()] = zero_rows(input_gradients(model, x[rows], y[rows])).cpu()
    return standing


def constant_answer(
    right: Sequence[bool], labels: Sequence[int], *attacked: Sequence[bool]
) -> int | None:
    """Return the class that a network gives to every example, as far as correct answers show.

    It is correct on all examples of that class and on no other, while there are others; None if
    not. Such a network resists every attack and is worth nothing. `Outcome.constant` uses the
    answers themselves.

    Args:
        right: for each example, whether it is classified correctly.
        attacked: the same under attacks; it must be equal, or the result is None.

    Raises:
        ValueError: the lengths differ.
    """
    if any(list(other) != list(right) for other in attacked):
        return None
    hit = {label for label, one in zip(labels, right, strict=True) if one}
    missed = {label for label, one in zip(labels, right, strict=True) if not one}
    return next(iter(hit)) if missed and len(hit) == 1 and not hit & missed else None


#: the ε of the points of the curve, in multiples of the threat model's own
CURVE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)


def accuracy_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: PGD,
    outcome: Outcome,
    *,
    batch_size: int,
    factors: Sequence[float] = CURVE,
    title: str = "accuracy against eps",
    quiet: bool = True,
) -> list[tuple[float, float]]:
    """Return (ε, accuracy) for growing ε, until the accuracy is zero or the factors are used up.

    An example that is broken within a small ball is broken within every larger one. So each ε is
    tried only on the examples that survived the one before, with a single restart. At the threat
    model's own ε the point is the worst case of `outcome`.
    """
    attack = replace(attack, restarts=1)
    n, alive = len(y), outcome.clean
    points = [(0.0, float(alive.float().mean()))]
    for factor in factors:
        if not bool(alive.any()):
            break
        if factor == 1.0:
            alive = alive & outcome.worst
        else:
            index = alive.nonzero().flatten().to(x.device)
            with warnings.catch_warnings():  # `outcome` has already warned of zero gradients
                warnings.simplefilter("ignore", EvaluationWarning)
                found = evaluate(
                    model,
                    x[index],
                    y[index],
                    {"pgd": scaled(attack, factor)},
                    batch_size=batch_size,
                    title=title,
                    quiet=quiet,
                )
            alive = alive.clone()
            alive[index.cpu()] = found.robust["pgd"]
        points.append((float(attack.threat.eps) * factor, int(alive.sum()) / n))
    return points
