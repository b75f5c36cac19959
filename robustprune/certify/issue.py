"""Make certificates for a batch of examples: by proofs about the network, or by smoothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from attacks import MinimalPerturbation, ThreatModel
from robustprune.bounds import BoundMethod
from robustprune.bounds.radius import TOLERANCE
from robustprune.certify.certificate import Certificate, Metric, Norm
from robustprune.certify.radii import proven_radii
from robustprune.certify.sandwich import check_sandwich
from robustprune.certify.sentences import ClassifiedTexts
from robustprune.certify.smoothing import ABSTAIN, SmoothingResult, certify
from robustprune.certify.synonyms import SynonymResult, certify_synonyms
from robustprune.measure.accuracy import answers_of
from robustprune.run.content import tensor_digest
from robustprune.run.settings import CertifySection

#: proofs are searched up to this multiple of the threat model's eps
REACH = 100.0
#: the number of eps that the search for a radius tries, and of steps of "alpha-crown" at each
ROUNDS, STEPS = 12, 20


def proofs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    nearest: MinimalPerturbation,
    *,
    method: BoundMethod = "crown",
    rounds: int = ROUNDS,
    steps: int = STEPS,
    batch_size: int | None = None,
    quiet: bool = True,
) -> list[Certificate]:
    """Return a certificate for each example by deterministic bounds, checked against attacks.

    Several ranks share the batches; each rank gets all certificates.

    Args:
        x: (N, ...) and y: (N,), the first N test examples.
        threat: the threat model with the norm and the bounds of the proof. Its eps, a float, sets
            the scale.
        nearest: the nearest adversarial examples for the same batch, norm and bounds.
        method, rounds, steps: as in `bounds.certified_radius`, whose eps_max is 100 · eps.
        quiet: whether the progress bar is hidden.

    Raises:
        SandwichViolation: a radius lies beyond an adversarial example.
        ValueError: as in `bounds.certified_radius`.
    """
    settings = search_settings(float(threat.eps), rounds=rounds, steps=steps)
    radius = proven_radii(
        model,
        x,
        y,
        norm=cast(Norm, threat.norm),
        bounds=threat.bounds,
        method=method,
        eps_max=settings["eps_max"],
        rounds=rounds,
        steps=steps,
        batch_size=batch_size,
        title=f"radii by {method}",
        quiet=quiet,
    )
    check_sandwich(radius, nearest.r)
    answers = answers_of(model, x, y, batch_size=batch_size)
    return [
        Certificate(
            index=i,
            input=tensor_digest(x[i]),
            label=int(y[i]),
            prediction=int(answers[i]),
            norm=cast(Norm, threat.norm),
            radius=float(radius[i]),
            method=method,
            settings=settings,
            confidence=1.0,
            hits=None,
            attack_radius=float(nearest.r[i]) if bool(nearest.r[i].isfinite()) else None,
            guarantee="base",
        )
        for i in range(len(x))
    ]


def smoothed_certificates(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
    seed: int,
    support: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    title: str = "smoothing",
    quiet: bool = True,
) -> list[Certificate]:
    """Return a certificate for each example for the classifier smoothed with N(0, σ²I), in L2.

    Args:
        x: (N, ...) and y: (N,), the first N test examples.
        others: as in `smoothing.certify`.

    Raises:
        ValueError: as in `smoothing.certify`.
    """
    result = certify(
        model,
        x,
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=alpha,
        support=support,
        seed=seed,
        batch_size=batch_size,
        title=title,
        quiet=quiet,
    )
    return _by_votes(
        x,
        y,
        result,
        result.radius.tolist(),
        norm="l2",
        method="smoothing",
        settings={"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "seed": seed},
    )


def synonym_certificates(
    sentences: ClassifiedTexts,
    x: Tensor,
    y: Tensor,
    *,
    most: int,
    n0: int,
    n: int,
    alpha: float,
    seed: int,
    title: str = "synonym smoothing",
    quiet: bool = True,
) -> list[Certificate]:
    """Return a certificate for each sentence for the classifier smoothed over groups of synonyms.

    The radius is R + 1, with R of `certify_synonyms`: fewer replaced words than that change
    nothing. Words of a group in the same case have the same noise, so replacing one by another
    costs nothing. A word in another case than its synonyms, such as TVs, costs votes.

    Args:
        sentences: the texts with their classifier; x (N, ...) and y (N,) are the first N of them.
        most: the largest number of words in a group.
        others: as in `synonyms.certify_synonyms`.

    Raises:
        ValueError: as in `synonyms.certify_synonyms`.
    """
    texts = list(sentences.texts[: len(x)])
    result = certify_synonyms(
        sentences.classify,
        texts,
        sentences.groups(most),
        n0=n0,
        n=n,
        alpha=alpha,
        seed=seed,
        title=title,
        quiet=quiet,
    )
    return _by_votes(
        x,
        y,
        result,
        [reach + 1.0 for reach in result.substitutions.tolist()],
        norm="words",
        method="synonyms",
        settings={"most": most, "n0": n0, "n": n, "alpha": alpha, "seed": seed},
    )


def _by_votes(
    x: Tensor,
    y: Tensor,
    result: SmoothingResult | SynonymResult,
    radius: Sequence[float],
    *,
    norm: Metric,
    method: str,
    settings: Mapping[str, float],
) -> list[Certificate]:
    """Return certificates of a smoothed classifier, with radius 0 where its answer is not
    correct."""
    return [
        Certificate(
            index=i,
            input=tensor_digest(x[i]),
            label=label,
            prediction=None if answer == ABSTAIN else answer,
            norm=norm,
            radius=radius[i] if answer == label else 0.0,
            method=method,
            settings=settings,
            confidence=1.0 - settings["alpha"],
            hits=hits,
            attack_radius=None,
            guarantee="smoothed",
            replaceable=int(result.open_slots[i]) if isinstance(result, SynonymResult) else None,
        )
        for i, (label, answer, hits) in enumerate(
            zip(y.tolist(), result.prediction.tolist(), result.hits.tolist(), strict=True)
        )
    ]


def asked_for(section: CertifySection, eps: float, seed: int) -> dict[str, dict[str, float]]:
    """Return the methods of the certificates that a run's config asks for, with their settings."""
    drawn = {"n0": section.n0, "n": section.n, "alpha": section.alpha, "seed": seed}
    asked: dict[str, dict[str, float]] = {}
    if section.method != "none":
        asked[section.method] = search_settings(eps)
    if section.sigma is not None:
        asked["smoothing"] = {"sigma": section.sigma, **drawn}
    if section.synonyms is not None:
        asked["synonyms"] = {"most": section.synonyms, **drawn}
    return asked


def search_settings(eps: float, *, rounds: int = ROUNDS, steps: int = STEPS) -> dict[str, Any]:
    """Return the settings of the search for a radius, at a threat model's eps.

    A `tolerance` says that it is the secant search; older files, without it, bisected.
    """
    return {"eps_max": REACH * eps, "rounds": rounds, "steps": steps, "tolerance": TOLERANCE}


def limits(methods: Collection[str], *, sentences: bool = False) -> tuple[str, ...]:
    """Say in plain sentences what certificates by these methods do not claim.

    sentences: whether the inputs are word embeddings of sentences.
    """
    common = (
        "Every statement is about one listed test example; none is about inputs not listed.",
        "Only changes of the input shorter than the radius, in the norm of the certificate and in "
        "the units of the input, are covered; other changes, however small they look, are not.",
        "A radius of 0 claims nothing.",
        "attack_radius is how near attacks came, not a proof: null means that they found nothing.",
    )
    base = (
        "A certificate of the base network is about every evaluation of the stored weights in "
        "their own precision, with sums in any order, within the stated input bounds; coarser "
        "arithmetic (TF32, autocast, Winograd convolutions) is not covered.",
    )
    smoothed = (
        "A certificate of the smoothed classifier says nothing of the network itself: it holds "
        "only where answers are taken by majority over the stated noise.",
        "Each smoothed statement is wrong with probability at most 1 - confidence over the noise "
        "it was drawn with; total_failure bounds the probability that any of the file is.",
    )
    gaussian = (
        "Smoothing takes the noise as exactly Gaussian and sums as exact; floating point is "
        "neither.",
    )
    displaced = (
        "A radius in a norm is about displacements of the word embeddings of a sentence, padding "
        "and special tokens excepted; it claims nothing of words that are replaced, put in or left "
        "out.",
    )
    synonyms = (
        "A radius in words is about words replaced by others of the same group of synonyms, which "
        "are those of the lexicon and of the words of the test split; it claims nothing of other "
        "words, of misspellings, or of words put in or left out.",
    )
    chosen = set(methods)
    return (
        *common,
        *(displaced if sentences and chosen - {"synonyms"} else ()),
        *(synonyms if "synonyms" in chosen else ()),
        *(base if chosen - {"smoothing", "synonyms"} else ()),
        *(smoothed if chosen & {"smoothing", "synonyms"} else ()),
        *(gaussian if "smoothing" in chosen else ()),
    )
