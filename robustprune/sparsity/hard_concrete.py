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
from robustprune.sparsity.gates import Span

LOW, HIGH, BETA = -0.1, 1.1, 2.0 / 3.0
#: P(m ≠ 0) = σ(s − _SHIFT)
_SHIFT = BETA * math.log(-LOW / HIGH)


def probability_kept(score: Tensor) -> Tensor:
    """P(m ≠ 0) of each gate, in closed form."""
    return torch.sigmoid(score - _SHIFT)


def score_of(probability: float) -> float:
    """The score with that P(m ≠ 0).

    Raises:
        ValueError: a probability outside (0, 1).
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability {probability!r} must lie strictly between 0 and 1")
    return math.log(probability / (1 - probability)) + _SHIFT


def sampled(score: Tensor, u: Tensor) -> Tensor:
    """Gates in [0, 1] for uniform u; differentiable in the score."""
    noise = torch.log(u).sub_(torch.log1p(-u))
    return _stretched((noise + score) / BETA)


def expected(score: Tensor) -> Tensor:
    """The gate at u = 1/2 without the temperature, clamp(σ(s)(r − l) + l, 0, 1): what stands for
    the random one in eval mode (ibid., Eq. 13)."""
    return _stretched(score)


def _stretched(z: Tensor) -> Tensor:
    return (torch.sigmoid(z) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


class Gates(nn.Module):
    """Scores of some groups, learned from those given, and the gates that follow from them.

    In train mode gates are sampled: the same sample until `draw` changes, however often and for
    however many weights it is asked for, so that the K steps of an inner attack and the outer step
    see one network. The noise is drawn from (seed, draw) again each time and takes no memory. In
    eval mode gates are the `expected` ones.

    Scores are float32 whatever the precision of the weights: steps of an optimizer are lost in
    bfloat16.
    """

    def __init__(self, score: Tensor, *, seed: int) -> None:
        super().__init__()
        self.score = nn.Parameter(score.detach().float().clone())
        self.seed, self.draw = seed, 0

    def forward(self) -> Tensor:
        if not self.training:
            return expected(self.score)
        device = self.score.device
        # two numbers in one seed: distinct for every pair below 2³¹ draws
        generator = torch.Generator(device).manual_seed((self.seed << 31) + self.draw)
        return sampled(self.score, torch.rand(self.score.shape, generator=generator, device=device))


class Gated(MaskParametrization):
    """Parametrization W ↦ m ⊙ W with the gates spread over W.

    Args:
        gates: may serve several weights; exactly one of them is the owner, so that the score
            appears once in the state of a model.
    """

    def __init__(self, gates: Gates, span: Span, *, owner: bool) -> None:
        super().__init__()
        self.span = span
        if owner:
            self.own = gates
        self._shared = (gates,)  # in a tuple, so that it is no submodule

    def forward(self, weight: Tensor) -> Tensor:
        gate = self._shared[0]().to(weight.dtype)
        return weight * self.span.expand(gate)
