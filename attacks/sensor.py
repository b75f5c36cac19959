"""Perturbations of sensor signals that are limited to a band of frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks import geometry
from attacks.geometry import lengths, per_example
from attacks.inputs import check_at_least
from attacks.rounding import add_toward, into_ball, rounded_down
from attacks.threat import ThreatModel


def in_band(signal: Tensor, low: int, high: int) -> Tensor:
    """Project on the signals with frequencies low..high only.

    The other bins of the discrete Fourier transform over the last dimension are set to zero. Bin k
    of L samples at a rate r is the frequency k r / L; bin 0 is the mean, bin L // 2 the highest
    frequency.

    Raises:
        ValueError: the band is not within 0..L // 2.
    """
    steps = signal.shape[-1]
    if not 0 <= low <= high <= steps // 2:
        raise ValueError(
            f"band {low}..{high} does not fit {steps} steps; give 0 ≤ low ≤ high ≤ {steps // 2}"
        )
    precise = signal.to(torch.promote_types(signal.dtype, torch.float32))  # bfloat16 has no FFT
    spectrum = torch.fft.rfft(precise)
    kept = torch.zeros_like(spectrum)
    kept[..., low : high + 1] = spectrum[..., low : high + 1]
    filtered: Tensor = torch.fft.irfft(kept, n=steps)
    return filtered.to(signal.dtype)


def band_dimension(steps: int, low: int, high: int) -> int:
    """Return the dimension of the signals of ``steps`` samples with frequencies low..high only."""
    twice = 2 * (high - low + 1)  # a sine and a cosine each, except the mean and L / 2
    return twice - (low == 0) - (2 * high == steps)


@dataclass(frozen=True)
class BandLimited(ThreatModel):
    """{x' : ‖x' − x‖_p ≤ ε, and x' − x has frequencies low..high only} around every example.

    For sensors: interference in a known band, or whatever passes the filter in front of them. The
    perturbation of each channel is in the band up to the rounding of x', and exactly inside the
    ball, as in ``ThreatModel``. Time is the last dimension of x.

    Both sets are convex and contain δ = 0. For L2, projecting on the band and then on the ball is
    the Euclidean projection on the intersection. For L∞, ``rounds`` of Dykstra's algorithm (Boyle &
    Dykstra 1986) between band and ball approximate it, and the result is scaled into the ball,
    which does not leave the band.

    Args:
        low, high: first and last bin of the band, see ``in_band``.
        rounds: number of rounds of Dykstra's algorithm, for L∞; 0 only scales.

    Raises:
        ValueError: as for ``ThreatModel``; the norm is "l1", bounds or a support are given
            (clipping would leave the band), or low > high.
    """

    _: KW_ONLY
    low: int
    high: int
    rounds: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError("norm='l1' has no band-limited threat; choose linf or l2")
        if self.bounds is not None or self.support is not None:
            raise ValueError(
                "a band-limited threat takes neither bounds nor support: clipping leaves the "
                "band; leave them out"
            )
        check_at_least(0, low=self.low, high=self.high, rounds=self.rounds)
        if self.low > self.high:
            raise ValueError(f"band {self.low}..{self.high} must be 0 ≤ low ≤ high, in bins")

    def projector(self, x: Tensor, *, exact: bool = True) -> Callable[[Tensor], Tensor]:
        """Return the projection, see ``ThreatModel.projector``."""
        radius = rounded_down(self.fitting(x), x)

        def project(x_adv: Tensor) -> Tensor:
            delta = self._band(x_adv - x)
            if self.norm == "l2":
                return into_ball(x, x + delta, "l2", radius, exact=exact)
            delta = self._near_cube(delta, radius)
            tiny = torch.finfo(x.dtype).tiny
            length = per_example(lengths(delta, "linf").clamp_min(tiny), x)
            delta = (delta * (radius / length).clamp_max(1.0)).clamp(-radius, radius)
            return add_toward(x, delta)

        return project

    def _band(self, delta: Tensor) -> Tensor:
        return in_band(delta, self.low, self.high)

    def _near_cube(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Run Dykstra's algorithm; the band is a subspace and needs no correction."""
        correction = torch.zeros_like(delta)
        for _ in range(self.rounds):
            shifted = delta + correction
            inside = shifted.clamp(-radius, radius)
            correction = shifted - inside
            delta = self._band(inside)
        return delta

    def random_start(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Draw a direction in the band uniformly, and its length as in a uniform ball.

        For L2, the point is uniform in the intersection.
        """
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        depth = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        channels = math.prod(x.shape[1:-1])
        dimension = channels * band_dimension(x.shape[-1], self.low, self.high)
        direction = geometry.unit(self._band(noise), self.norm)
        radius = rounded_down(self.fitting(x), x) * per_example(depth ** (1 / max(1, dimension)), x)
        return (project or self.projector(x))(x + direction * radius)

    def uphill(self, x: Tensor, x_adv: Tensor, grad: Tensor) -> Tensor:
        """Return the part of the gradient in the band."""
        return self._band(grad)
