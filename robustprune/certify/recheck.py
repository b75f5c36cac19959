"""Claims checked by doing the work again: bounds, fresh noise, fresh attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom
from torch import Tensor

from attacks import PGD, ThreatModel, attacking
from attacks.inputs import predict as logits_of
from attacks.nearest import clears
from robustprune.bounds import BoundMethod, certified, certified_radius
from robustprune.certify.claims import Claims
from robustprune.certify.findings import Finding, about_examples
from robustprune.certify.issue import beyond_all_words
from robustprune.certify.noise import counting
from robustprune.certify.sandwich import SandwichViolation, check_sandwich
from robustprune.certify.smoothing import ABSTAIN, clopper_pearson_lower, predict, smoothed_radius
from robustprune.certify.synonyms import WordSets, substitutes
from robustprune.run.progress import progress

#: relative difference at which a recomputed radius counts as another one
TOLERANCE = 1e-3
#: probability that an honest file fails a check that draws noise
FALSE_ALARM = 1e-3
#: fresh noise samples an example
FRESH = 10_000
#: of the attacks
STEPS, RESTARTS = 40, 5
#: lead, relative to the spread of the logits, below which an answer is not called wrong: proofs
#: are about real numbers, and inference in float32 may tip a tie
LEAD = 1e-5
#: noise samples that the attack on a smoothed classifier averages over
ATTACK_DRAWS = 16


def proven_again(claims: Claims) -> Finding:
    """Bound the margins at each stated radius: the claim itself."""
    some = claims.balls
    proven = certified(
        claims.model,
        claims.x[some],
        claims.y[some],
        ThreatModel(claims.norm, claims.radius[some], claims.bounds),
        method=cast(BoundMethod, claims.method),
        steps=int(claims.setting("steps")),
        batch_size=claims.batch_size,
    )
    return claims.finding(
        "margins are positive at the stated radius",
        some[~proven],
        f"proven again for all {len(some)} radii above 0",
        "not certified at the radius that is claimed",
    )


def same_radius(claims: Claims) -> Finding:
    """Search the radius again with the stated settings: neither more nor less is claimed."""
    again = certified_radius(
        claims.model,
        claims.x,
        claims.y,
        norm=claims.norm,
        bounds=claims.bounds,
        method=cast(BoundMethod, claims.method),
        eps_max=float(claims.setting("eps_max")),
        rounds=int(claims.setting("rounds")),
        steps=int(claims.setting("steps")),
        batch_size=claims.batch_size,
    )
    allowed = TOLERANCE * torch.maximum(again, claims.radius)
    return claims.finding(
        "the same radius comes out",
        ((again - claims.radius).abs() > allowed).nonzero().flatten(),
        f"{len(again)} radii, to {TOLERANCE:g} of their size",
        f"another radius comes out (by more than {TOLERANCE:g} of its size)",
    )


def below_attacks(claims: Claims) -> Finding:
    """The stated radius must not exceed the stated distance of an adversarial example."""
    reached = [
        torch.inf if c.attack_radius is None else c.attack_radius for c in claims.certificates
    ]
    upper, name = torch.tensor(reached, dtype=torch.float64), f"{claims.method}: radius and attack"
    try:
        check_sandwich(claims.radius, upper)
    except SandwichViolation as violation:
        rows = (claims.radius.cpu() > upper).nonzero().flatten().tolist()
        wrong = [claims.certificates[i].index for i in rows]
        return about_examples(name, wrong, "", str(violation).partition(":")[0])
    return Finding(name, True, f"certified ≤ attacked for all {len(upper)} examples")


def attacked_inside(claims: Claims) -> Finding:
    """Fresh PGD, on cross-entropy and on the margin, inside every certified ball."""
    model, broken = claims.model, torch.zeros(len(claims.x), dtype=torch.bool)
    for part in torch.split(claims.balls, claims.batch_size):
        x, y = claims.x[part], claims.y[part]
        threat = ThreatModel(claims.norm, claims.radius[part], claims.bounds)
        for loss in ("ce", "margin"):
            attack = PGD(threat, steps=STEPS, restarts=RESTARTS, loss=loss, seed=claims.seed)
            x_adv = attack(model, x, y)
            with attacking(model):
                broken[part.cpu()] |= clears(logits_of(model, x_adv, y), y, LEAD).cpu()
    return claims.finding(
        "a fresh attack finds nothing inside",
        broken.nonzero().flatten(),
        f"PGD, {STEPS} steps, {RESTARTS} restarts, 2 losses, seed {claims.seed}, in "
        f"{len(claims.balls)} balls",
        f"an adversarial example lies inside the certified ball (seed {claims.seed})",
    )


def follows_from_hits(claims: Claims) -> Finding:
    """Radius, confidence and abstention must be those that the stated hits give."""
    n, alpha = int(claims.setting("n")), float(claims.setting("alpha"))
    radius_of, wrong = _radius_of_row(claims), []
    for row, c in enumerate(claims.certificates):
        assert c.hits is not None, "the schema says so"
        p_lower = clopper_pearson_lower(np.array([min(c.hits, n)]), n, alpha)
        radius = radius_of(row, p_lower) if c.prediction == c.label else 0.0
        if (
            c.hits > n
            or (c.prediction is None) != bool(p_lower[0] <= 0.5)
            or abs(c.confidence - (1 - alpha)) > 1e-12
            or abs(c.radius - radius) > 1e-6 * radius  # last digits differ between versions
        ):
            wrong.append(row)
    return claims.finding(
        "radius follows from the hits",
        torch.tensor(wrong),
        f"{len(claims.certificates)} radii computed again",
        "the hits do not give this radius, confidence or abstention",
    )


def _radius_of_row(claims: Claims) -> Callable[[int, NDArray[np.float64]], float]:
    """(row, p_A as an array of one) -> the radius that it gives."""
    if claims.method == "synonyms":
        lengths = [beyond_all_words(text) for text in claims.texts]
        return lambda row, p_lower: float(lengths[row] if p_lower[0] > 0.5 else 0)
    sigma = float(claims.setting("sigma"))
    return lambda _, p_lower: float(smoothed_radius(p_lower, sigma)[0])


def hits_again(claims: Claims) -> Finding:
    """Compare the stated hits with those of fresh noise."""
    some, samples = claims.balls.cpu(), fresh_samples(claims)
    noise = counting(
        claims.model,
        claims.x,
        sigma=float(claims.setting("sigma")),
        seed=claims.seed,
        batch_size=None,
        most=samples,
        title="fresh noise",
        quiet=claims.quiet,
        support=claims.support,
    )
    with noise as count:
        fresh = count(some, samples).gather(1, claims.y.cpu()[some, None]).squeeze(1).numpy()
    return _hits_agree(claims, "fresh noise agrees with the hits", fresh, samples)


def synonyms_again(claims: Claims) -> Finding:
    """Compare the stated hits with those of fresh synonyms of the sentence."""
    name = "fresh synonyms agree with the hits"
    return _synonyms_agree(claims, name, claims.groups, lambda text, _: text)


def substituted_again(claims: Claims) -> Finding:
    """Compare the stated hits with those around another sentence, every word of which is drawn from
    its group: the certificate says that they are the same."""
    groups = claims.groups
    return _synonyms_agree(
        claims,
        "another sentence within the groups gets the same votes",
        groups,
        lambda text, row: substitutes(text, groups, 1, (claims.seed, row, 1))[0],
    )


def _synonyms_agree(
    claims: Claims, name: str, groups: WordSets, of: Callable[[str, int], str]
) -> Finding:
    """`_hits_agree` of samples around `of(text, row)` of each sentence that is claimed."""
    texts, samples = claims.texts, fresh_samples(claims)
    rows, fresh = claims.balls.tolist(), []
    for row in progress(rows, title="fresh synonyms", unit="text", quiet=claims.quiet):
        drawn = substitutes(of(texts[row], row), groups, samples, (claims.seed, row))
        answers = claims.words.classify(drawn).argmax(1).cpu()
        fresh.append(int((answers == claims.y[row].cpu()).sum()))
    return _hits_agree(claims, name, np.array(fresh, dtype=np.int64), samples)


def fresh_samples(claims: Claims) -> int:
    """How many to draw an example: n hits are no better known than by ten times as many."""
    return min(FRESH, 10 * int(claims.setting("n")))


def _hits_agree(claims: Claims, name: str, fresh: NDArray[np.int64], samples: int) -> Finding:
    """Whether the stated hits are as likely as the fresh ones of the rows that claim something.

    If k hits of n and k' of n' have the same probability p_A, then k' given k + k' is
    hypergeometric whatever p_A is (Fisher's exact test). A claim is refuted where as few fresh
    hits have probability at most FALSE_ALARM / K, with K claims: an honest file passes with
    probability at least 1 − FALSE_ALARM, and what it says is not used beyond its hits.
    """
    some, n = claims.balls.cpu(), int(claims.setting("n"))
    hits = np.array([min(claims.certificates[i].hits or 0, n) for i in some.tolist()], dtype=int)
    p_values = hypergeom.cdf(fresh, n + samples, hits + fresh, samples)
    refuted = torch.from_numpy(p_values <= FALSE_ALARM / max(len(some), 1))
    return claims.finding(
        name,
        some[refuted],
        f"{len(some)} claims, {samples} samples each, seed {claims.seed}, "
        f"smallest p-value {p_values.min(initial=1.0):.2g}; false alarms ≤ {FALSE_ALARM:g}",
        f"far fewer hits with seed {claims.seed} (an honest file: probability ≤ {FALSE_ALARM:g})",
    )


def smoothed_attacked_inside(claims: Claims) -> Finding:
    """Fresh PGD on probabilities averaged over noise, judged by PREDICT."""
    model, some, sigma = claims.model, claims.balls, float(claims.setting("sigma"))
    generator = torch.Generator(claims.x.device).manual_seed(claims.seed)
    shape, broken = (ATTACK_DRAWS, *claims.x.shape[1:]), torch.zeros(len(claims.x)).bool()
    noise = torch.randn(shape, generator=generator, device=claims.x.device, dtype=claims.x.dtype)
    noise *= sigma
    support = claims.support

    def averaged(x: Tensor) -> Tensor:
        """log Σ_draws softmax(f(x + noise)): logits of the average, up to a constant."""
        allowed = noise if support is None else noise * support(x)[:, None]
        logits = model((x[:, None] + allowed).flatten(0, 1)).unflatten(0, (len(x), ATTACK_DRAWS))
        return torch.logsumexp(logits.log_softmax(2), dim=1)

    for part in torch.split(some, max(1, claims.batch_size // ATTACK_DRAWS)):
        threat = ThreatModel("l2", claims.radius[part], support=support)
        attack = PGD(threat, steps=STEPS, seed=claims.seed)
        with attacking(model):
            x_adv = attack(averaged, claims.x[part], claims.y[part])
        answer = predict(
            model,
            x_adv,
            sigma=sigma,
            alpha=FALSE_ALARM / max(len(some), 1),
            support=support,
            seed=claims.seed,
        )
        broken[part.cpu()] = (answer != ABSTAIN) & (answer != claims.y[part].cpu())
    return claims.finding(
        "a fresh attack finds nothing inside",
        broken.nonzero().flatten(),
        f"PGD on the mean over {ATTACK_DRAWS} noises, {STEPS} steps, seed {claims.seed}, in "
        f"{len(some)} balls; false alarms ≤ {FALSE_ALARM:g}",
        f"another answer inside the certified ball (seed {claims.seed})",
    )


Check = Callable[[Claims], Finding]
PROOF_CHECKS: tuple[Check, ...] = (proven_again, same_radius, below_attacks, attacked_inside)
SMOOTHING_CHECKS: tuple[Check, ...] = (follows_from_hits, hits_again, smoothed_attacked_inside)
SYNONYM_CHECKS: tuple[Check, ...] = (follows_from_hits, synonyms_again, substituted_again)
