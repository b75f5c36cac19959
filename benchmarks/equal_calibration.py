"""How often tests of a difference in ECE claim one where there is none.

Two networks have the same answers and the same true calibration error. In a third of the cases both
are calibrated, in a third both are too sure by 0.1, and in a third one is too sure and the other is
not sure enough by 0.1. Prints, for each, the share of trials in which a test at 5% claims a
difference:

    python -m benchmarks.equal_calibration
"""

from __future__ import annotations

import argparse

import torch
from scipy.stats import norm
from torch import Tensor

from robustprune.measure.calibration import gaps

#: what the confidence of the two networks is above the true probability
CASES = ((0.0, 0.0), (0.1, 0.1), (0.1, -0.1))
LEVEL = 0.05


def ece(means: Tensor) -> Tensor:
    return means.abs().sum(-1)


def p_values(first: Tensor, second: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return p by the normal distribution, the percentiles of the bootstrap, and the swap test."""
    n = len(first)
    drawn = torch.randint(n, (resamples, n), generator=generator)
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones(resamples, n, dtype=torch.float64))
    apart = float(ece(second.mean(0)) - ece(first.mean(0)))
    boot = ece(counts @ second / n) - ece(counts @ first / n)
    swap = torch.randint(2, (resamples, n), generator=generator).double()
    one = first.mean(0) + swap @ (second - first) / n
    other = second.mean(0) - swap @ (second - first) / n
    return torch.tensor(
        [
            2 * norm.sf(abs(apart) / float(boot.std())),
            2 * min(float((boot >= 0).double().mean()), float((boot <= 0).double().mean())),
            float(((ece(other) - ece(one)).abs() >= abs(apart) - 1e-12).double().mean()),
        ]
    )


def trial(n: int, sure: tuple[float, float], resamples: int, generator: torch.Generator) -> Tensor:
    """Return the p-values of one pair of networks on n examples."""
    true = 0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    y = (torch.rand(n, generator=generator, dtype=torch.float64) > true).long()
    found = []
    for more in sure:
        noise = 0.03 * torch.randn(n, generator=generator, dtype=torch.float64)
        p = (true + more + noise).clamp(0.501, 0.999)
        found.append(gaps(torch.stack([p, 1 - p], dim=1).log(), y))
    return p_values(found[0], found[1], resamples, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=300)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    print("too sure by       normal  percentiles  swap")
    for sure in CASES:
        found = torch.stack(
            [
                trial(options.examples, sure, options.resamples, generator)
                for _ in range(options.trials)
            ]
        )
        shares = (found < LEVEL).double().mean(0).tolist()
        print(f"{sure[0]:+.1f} and {sure[1]:+.1f}   " + "  ".join(f"{one:8.3f}" for one in shares))


if __name__ == "__main__":
    main()
