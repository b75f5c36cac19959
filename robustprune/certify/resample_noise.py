"""Check claims about Gaussian smoothing: by fresh noise, and by attacks inside the balls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from attacks import PGD, ThreatModel, attacking
from attacks.network import logits_of
from robustprune.certify.claims import Claims
from robustprune.certify.findings import CheckResult
from robustprune.certify.noise import counting
from robustprune.certify.recheck import STEPS, Check
from robustprune.certify.resample import FALSE_ALARM, Misses, follows_from_hits, supported
from robustprune.certify.sequential import Counts
from robustprune.certify.smoothing import ABSTAIN, count_votes, predict, smoothed_radius
from robustprune.run.progress import Progress

#: the number of noise samples over which the attack on a smoothed classifier averages
ATTACK_DRAWS = 16


def radius_and_hits(claims: Claims) -> CheckResult:
    """Check that σ and the hits give each radius."""
    sigma = float(claims.setting("sigma"))
    return follows_from_hits(claims, lambda _, p_lower: float(smoothed_radius(p_lower, sigma)[0]))


def drawn_again(claims: Claims) -> CheckResult:
    """Check that fresh noise gives the class the share that each radius needs. Misses must be rarer
    than Φ(−r/σ), which follows from Theorem 1."""
    radius = claims.radius[claims.balls].cpu().numpy()
    needed = np.asarray(ndtr(-radius / float(claims.setting("sigma"))), dtype=np.float64)
    with _fresh_noise(claims) as misses_of:
        return supported(claims, needed, misses_of, _replayed)


def smoothed_attacked_inside(claims: Claims) -> CheckResult:
    """Attack with fresh PGD on probabilities averaged over noise; PREDICT gives the answers."""
    model, some, sigma = claims.model, claims.balls, float(claims.setting("sigma"))
    generator = torch.Generator(claims.x.device).manual_seed(claims.seed)
    shape, broken = (ATTACK_DRAWS, *claims.x.shape[1:]), torch.zeros(len(claims.x)).bool()
    noise = torch.randn(shape, generator=generator, device=claims.x.device, dtype=claims.x.dtype)
    noise *= sigma
    support = claims.support

    def averaged(x: Tensor) -> Tensor:
        """Return log Σ_draws softmax(f(x + noise)), the logits of the average up to a constant."""
        allowed = noise if support is None else noise * support(x)[:, None]
        noisy = (x[:, None] + allowed).flatten(0, 1)
        logits = logits_of(model, noisy).reshape(len(x), ATTACK_DRAWS, -1)
        return torch.logsumexp(logits.log_softmax(2), dim=1)

    parts = torch.split(some, max(1, claims.batch_size // ATTACK_DRAWS))
    with Progress(len(some), title="attack on smoothing", unit="ball", quiet=claims.quiet) as told:
        for part in parts:
            threat = ThreatModel("l2", claims.radius[part], support=support)
            attack = PGD(threat, steps=STEPS, seed=claims.seed)
            with attacking(model):
                x_adv = attack(averaged, claims.x[part], claims.y[part])
            answer = predict(
                model,
                x_adv,
                sigma=sigma,
                alpha=FALSE_ALARM / claims.statements,
                support=support,
                seed=claims.seed,
            )
            broken[part.cpu()] = (answer != ABSTAIN) & (answer != claims.y[part].cpu())
            told.update(len(part))
    return claims.finding(
        "a fresh attack finds nothing inside",
        broken.nonzero().flatten(),
        f"PGD on the mean over {ATTACK_DRAWS} noises, {STEPS} steps, seed {claims.seed}, in "
        f"{len(some)} balls; false alarms ≤ {FALSE_ALARM:g}",
        f"another answer inside the certified ball (seed {claims.seed})",
    )


@contextmanager
def _fresh_noise(claims: Claims) -> Iterator[Misses]:
    """Give a function that counts the misses of the classifier under noise of the verifier's
    seed."""
    some, labels = claims.balls.cpu(), claims.y.cpu()
    noise = counting(
        claims.model,
        claims.x,
        sigma=float(claims.setting("sigma")),
        seed=claims.seed,
        batch_size=None,
        most=None,
        title="fresh noise",
        quiet=claims.quiet,
        support=claims.support,
    )
    with noise as count:

        def misses_of(rows: Counts, samples: int) -> Counts:
            where = some[torch.from_numpy(rows)]
            hits = count(where, samples).gather(1, labels[where, None]).squeeze(1)
            return samples - hits.numpy()

        yield misses_of


def _replayed(claims: Claims, rows: list[int]) -> tuple[Counts, Counts]:
    """Return the class and the hits of some rows with the stated seed."""
    n0, n = int(claims.setting("n0")), int(claims.setting("n"))
    noise = counting(
        claims.model,
        claims.x[rows],
        sigma=float(claims.setting("sigma")),
        seed=int(claims.setting("seed")),
        batch_size=None,
        most=n0 + n,
        title="the stated seed",
        quiet=claims.quiet,
        support=claims.support,
        numbers=[claims.certificates[row].index for row in rows],
    )
    with noise as count:
        guess, hits, _ = count_votes(count, torch.arange(len(rows)), len(rows), n0=n0, n=n)
    return guess.numpy(), hits.numpy()


SMOOTHING_CHECKS: tuple[Check, ...] = (radius_and_hits, drawn_again, smoothed_attacked_inside)
