"""Robust accuracy of a quantised network, of which no example counts because a gradient is hidden.

Rounding protects little, but it hides gradients, so that an attack that follows them finds less
than there is (Bernhard et al. 2019, arXiv 1909.12741; Gupta & Ajanthan 2020, arXiv 2003.13511).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from attacks import PGD, Attack, Model, Square, ThreatModel, Transfer, WorstOf, worst_of
from attacks.inputs import check_at_least
from attacks.sanity import flat as zero_rows
from attacks.sanity import input_gradients, warn_of
from robustprune.measure.accuracy import Outcome, evaluate
from robustprune.tabular import share


class QuantisedOutcome(Outcome):
    """Which of N examples a quantised network classifies correctly; see `Outcome`.

    `robust` has the entries "transferred", "straight-through" and "square". An example is robust
    (`worst`) only where all three failed, and the share of these is an upper bound. `flat` are
    robust examples at which both networks whose gradients were followed have one of exactly zero,
    so that Square alone could move.
    """

    def __repr__(self) -> str:
        broken = ", ".join(f"{name} {count}" for name, count in self.broken.items())
        return (
            f"QuantisedOutcome(n={len(self.clean)}, clean {share(self._mean(self.clean))}, robust "
            f"at most {share(self._mean(self.worst))}; broken by {broken}{self._marks()})"
        )

    @staticmethod
    def _mean(right: Tensor) -> float:
        return right.double().mean().item()

    @property
    def broken(self) -> dict[str, int]:
        """How many of the correct examples each attack broke."""
        return {name: int((self.clean & ~right).sum()) for name, right in self.robust.items()}

    @property
    def broken_alone(self) -> dict[str, int]:
        """How many each attack broke that the others did not: what leaving it out would hide."""
        found = {}
        for name, right in self.robust.items():
            others = [other for key, other in self.robust.items() if key != name]
            found[name] = int((torch.stack([self.clean, *others]).all(0) & ~right).sum())
        return found


def robust_accuracy_quantised(
    model: nn.Module,
    quantised: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    straight_through: nn.Module,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 5,
    queries: int = 1000,
    seed: int = 0,
    batch_size: int = 500,
) -> QuantisedOutcome:
    """Attack a quantised network in three ways, and let its own logits decide each time.

    - transferred: PGD on the float network;
    - straight-through: PGD on a copy whose gradient skips the rounding;
    - square: the Square attack on the logits of the quantised network, without any gradient.

    Both PGD run all their steps in each restart, and after each restart the quantised network is
    asked. So they do not stop at a point that fools only the network they follow. Where both of
    these have a gradient of exactly zero at a robust example, `attacks.EvaluationWarning` says so.

    Args:
        model: the float network that was quantised, differentiable.
        quantised: inputs (N, ...) to logits (N, C): `deploy.onnx_network(path)` for an int8 file,
            or a network from `deploy.round_weights`, or any other.
        x: (N, ...), y: (N,); on the device of `model`.
        straight_through: the copy whose gradient is followed: `deploy.straight_through(model,
            calibration)` for an int8 file; where weights alone are rounded, which hides no
            gradient, `quantised` itself.
        steps, step_size, restarts: of PGD; the step size in input units, None for 2.5 ε / `steps`.
        queries: the largest number of queries of Square for an example.

    Raises:
        ValueError: an option is out of range, logits or gradients are NaN, or the batch is invalid.
    """

    check_at_least(1, restarts=restarts)

    def followed(network: nn.Module) -> WorstOf:
        runs = (
            PGD(threat, steps=steps, step_size=step_size, seed=seed + run)
            for run in range(restarts)
        )
        return worst_of([Transfer(run, network) for run in runs])

    attacks: dict[str, Attack] = {
        "transferred": followed(model),
        "straight-through": followed(straight_through),
        "square": Square(threat, queries=queries, seed=seed),
    }
    judged = quantised if isinstance(quantised, nn.Module) else _Called(quantised)
    outcome = evaluate(judged, x, y, attacks, batch_size=batch_size, threat=threat)
    flat = outcome.worst.clone()
    for rows in torch.split(flat.nonzero().flatten(), batch_size):
        where = rows.to(x.device)
        for network in (model, straight_through):
            flat[rows] &= zero_rows(input_gradients(network, x[where], y[where])).cpu()
    held: dict[str, Any] = {one.name: getattr(outcome, one.name) for one in fields(outcome)}
    found = QuantisedOutcome(**{**held, "flat": flat})
    warn_of(found.findings[:1])
    return found


class _Called(nn.Module):
    """A function from inputs to logits as a module; its logits come to the device of the inputs."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.function(x)
        return logits.to(x.device)
