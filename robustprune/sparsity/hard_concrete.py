"""Hard-concrete gates: random masks in [0, 1], often exactly 0 or 1, with a gradient.

With l = −0.1, r = 1.1, β = 2/3 and a score s (log α) for each gate,

    m = clamp(σ((log u − log(1 − u) + s) / β)(r − l) + l, 0, 1),    u ~ U(0, 1)
    P(m ≠ 0) = σ(s − β log(−l / r))

(Louizos, Welling & Kingma 2018, arXiv 1712.01312, Eq. 10 to 12). The mean of P(m ≠ 0) is the
expected L0 norm as a fraction, exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustprune.sparsity.apply import MaskParametrization
from robustprune.sparsity.gates import Spread

LOW, HIGH, BETA = -0.1, 1.1, 2.0 / 3.0
#: P(m ≠ 0) = σ(s − _SHIFT)
_SHIFT = BETA * math.log(-LOW / HIGH)


def probability_kept(score: Tensor) -> Tensor:
    """Return P(m ≠ 0) of each gate, in closed form."""
    return torch.sigmoid(score - _SHIFT)


def score_of(probability: float) -> float:
    """Return the score s for which P(m ≠ 0) is `probability`.

    Raises:
        ValueError: `probability` is outside (0, 1).
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability {probability!r} must lie strictly between 0 and 1")
    return math.log(probability / (1 - probability)) + _SHIFT


def sampled(score: Tensor, u: Tensor) -> Tensor:
    """Return gates in [0, 1] for uniform u; they are differentiable in the score."""
    noise = torch.log(u).sub_(torch.log1p(-u))
    return _stretched((noise + score) / BETA)


def expected(score: Tensor) -> Tensor:
    """Return clamp(σ(s)(r − l) + l, 0, 1), the gate at u = 1/2 without the temperature. In eval
    mode it replaces the random gate (ibid., Eq. 13)."""
    return _stretched(score)


def _stretched(z: Tensor) -> Tensor:
    return (torch.sigmoid(z) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


class Gates(nn.Module):
    """The scores of some groups, which are learned, and the gates that follow from them.

    In train mode gates are sampled. The sample stays the same until `draw` changes, for all calls
    and all weights, so that all steps of an inner attack and the training step see one network. The
    noise is drawn from (seed, draw) again each time and takes no memory. In eval mode gates are the
    `expected` ones.

    Scores are float32 whatever the precision of the weights, because bfloat16 would lose the small
    steps of an optimizer.
    """

    def __init__(self, score: Tensor, *, seed: int) -> None:
        super().__init__()
        self.score = nn.Parameter(score.detach().float().clone())
        self.seed, self.draw = seed, 0

    def forward(self) -> Tensor:
        if not self.training:
            return expected(self.score)
        device = self.score.device
        # both numbers in one seed, distinct for every pair below 2³³ seeds and 2³¹ draws
        number = ((self.seed << 31) + self.draw) % (1 << 64)
        generator = torch.Generator(device).manual_seed(number)
        return sampled(self.score, torch.rand(self.score.shape, generator=generator, device=device))


class Gated(MaskParametrization):
    """The parametrization W ↦ m ⊙ W, with the gates spread over W.

    Args:
        gates: the gates, which may serve several weights.
        span: how the gates spread over this weight: a `Span`, or the `Groups` of a pattern.
        owner: whether this weight owns the gates. Exactly one weight does, so that the score
            appears once in the state of a model.
    """

    def __init__(self, gates: Gates, span: Spread, *, owner: bool) -> None:
        super().__init__()
        self.span = span
        if owner:
            self.own = gates
        self._shared = (gates,)  # in a tuple, so that it is no submodule

    def forward(self, weight: Tensor) -> Tensor:
        gate = self._shared[0]().to(weight.dtype)
        return weight * self.span.expand(gate)
