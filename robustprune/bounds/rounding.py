"""How bounds stay valid in floating point arithmetic.

Certification computes in float64, and this module is about its own errors.  Those of the network,
in its own precision, are bounded in ``precision`` and added to the same sums.  With unit roundoff
u = 2⁻⁵³, a sum of n products in any order, with or without fused operations, obeys (Higham 2002,
*Accuracy and Stability of Numerical Algorithms*, §3.1)

    |fl(Σ aᵢbᵢ) − Σ aᵢbᵢ| ≤ γₙ Σ |aᵢ||bᵢ|,   γₙ = n u / (1 − n u).

Two consequences are applied, layer by layer, with γ = (n + 16)·2u in the place of γₙ; the factor 2
and the 16 cover the second-order terms, the rounding of these corrections themselves, and the few
operations that fold a batch norm or compute a line.

*Forward* (intervals): the image of c ± r under z ↦ Wz + b lies in fl(Wc + b) ± ρ with

    ρ = |W|(r + γ(|c| + r)) + γ|b|,

the same two products that exact arithmetic needs.

*Backward* (linear bounds): if the claim so far is ``result ≥ A z_k + d`` for the float matrix A,
and z_k = W z + b, then replacing A by Â = fl(AW) costs at most γ|A||W||z| and the product A b at
most γ|A||b|.  With m ≥ |z| from the intervals,

    result ≥ Â z + fl(d + A b) − γ |A| (|W| m + |b|).

The vector in parentheses depends only on the layer (its *size*), so each layer costs one inner
product.  Steps through a nonlinearity obey the same inequality, with the size of its lines.  The
largest n of a layer is the number of its inputs plus that of its outputs; every later addition to d
is one more term, so the number of layers is added to n.

Products that underflow, or are flushed to zero, have an error of TINY each: this is counted for
every term of the layer's sums, times the size of their factors.  A bound that overflows is −∞.

Two assumptions remain: matrix products and convolutions are computed as sums of products (no
Winograd or FFT algorithm; cuDNN is switched off meanwhile), and the error of tanh, sigmoid, exp
and erf is at most 8 units in the last place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps  # 2u
#: the absolute error of one operation whose result a processor may flush to zero
TINY = torch.finfo(torch.float64).smallest_normal
#: the absolute and relative error assumed for elementwise functions of size ≤ 1
FUNCTION_ERROR = 8 * EPS


def gamma(terms: int) -> float:
    """Return γ for sums of ``terms`` products in float64, as defined above."""
    return (terms + 16) * EPS


def outward(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Move both ends outward by one float, for results of a single rounded operation."""
    inf = torch.full((), torch.inf, dtype=lo.dtype, device=lo.device)
    return torch.nextafter(lo, -inf), torch.nextafter(hi, inf)


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Switch off gradients, inference tensors, and convolutions that are no sums of products."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=False),
    ):
        yield
