"""Check a file of certificates against the weights and the data, without trusting its content."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from robustprune.certify.certificate import NEW, Certificate, Manifest, total_failure
from robustprune.certify.claims import LIMIT, Claims
from robustprune.certify.findings import CheckResult, about_examples, unchecked
from robustprune.certify.recheck import PROOF_CHECKS, Check
from robustprune.certify.resample_noise import SMOOTHING_CHECKS
from robustprune.certify.resample_words import SYNONYM_CHECKS
from robustprune.certify.sentences import ClassifiedTexts
from robustprune.measure.accuracy import answers_of
from robustprune.run.content import tensor_digest
from robustprune.sparsity import MaskSet

#: fields of a manifest that have their own checks
_APART = ("versions", "limits", "total_failure")


def verify_certificates(
    stated: Manifest,
    certificates: Sequence[Certificate],
    *,
    expected: Manifest,
    asked: Mapping[str, Mapping[str, float]],
    model: nn.Module,
    masks: MaskSet | None,
    x: Tensor,
    y: Tensor,
    support: Callable[[Tensor], Tensor] | None = None,
    sentences: ClassifiedTexts | None = None,
    seed: int | None = None,
    batch_size: int = 500,
    limit: int = LIMIT,
    quiet: bool = True,
) -> list[CheckResult]:
    """Check every claim of a file by computing it again.

    Args:
        stated, certificates: the content of the file.
        expected: the manifest that the present files and data of the run give.
        asked: `asked_for` of the run's config: each method with its settings.
        model: the model with the stored weights, on x's device; masks: the stored ones, None if
            dense.
        x: (N, ...) and y: (N,), the test examples that must be certified.
        support: where an input may change, as in `ThreatModel`; None for everywhere.
        sentences: the whole test split of a text task, or None.
        seed: the seed of fresh noise and attacks; None draws one that the author of the file can't
            foresee.
        batch_size: the number of inputs in one pass.
        limit: the largest number of fresh samples of one smoothed claim.

    Returns:
        A finding for everything that was checked, good or bad, and for what was not checked.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    findings = manifest_findings(stated, expected)
    findings.append(_failure_is_stated(stated, certificates))
    findings.append(pruned_are_zero(model, masks))
    findings += asked_findings(certificates, asked, expected)
    findings += example_findings(certificates, x, y)
    statements = sum(c.guarantee == "smoothed" and c.radius > 0 for c in certificates)
    for group in _groups([c for c in certificates if c.index < len(x)]):
        rows = torch.tensor([c.index for c in group], device=x.device)
        claims = Claims(
            group, model, x[rows], y[rows], expected.bounds, seed, batch_size, quiet, support,
            sentences, max(statements, 1), limit,
        )  # fmt: skip
        checks = _CHECKS.get(claims.method, (_answers, *PROOF_CHECKS))
        findings += [_attempted(check, claims) for check in checks]
    return [*findings, *_unchecked(stated, certificates, expected)]


def manifest_findings(stated: Manifest, expected: Manifest) -> list[CheckResult]:
    """Check that each field of the manifest, digests included, is as expected."""
    findings, old = [], stated.precision is None  # of schema 1
    for field in fields(Manifest):
        if field.name in _APART or (old and field.name in NEW["manifest"]):
            continue
        said, found = getattr(stated, field.name), getattr(expected, field.name)
        detail = f"{found}" if said == found else f"the file says {said}, found {found}"
        findings.append(CheckResult(f"manifest, {field.name}", said == found, detail))
    if not _of_another_version(stated, expected):
        right = stated.limits == expected.limits
        detail = "the sentences of this version" if right else "the file has other sentences"
        findings.append(CheckResult("manifest, limits", right, detail))
    return findings


def asked_findings(
    certificates: Sequence[Certificate],
    asked: Mapping[str, Mapping[str, float]],
    expected: Manifest,
) -> list[CheckResult]:
    """Check that the methods and their settings are those that the config asks for."""
    given = {c.method for c in certificates}
    names = ", ".join(asked) or "none"
    detail = (
        names
        if given == set(asked)
        else f"{', '.join(sorted(given)) or 'none'}; the config asks for {names}"
    )
    norms = {"smoothing": "l2", "synonyms": "words"}
    other = [
        c.index
        for c in certificates
        if c.method in asked
        and (
            c.settings != _of_its_time(asked[c.method], c)
            or c.norm != norms.get(c.method, expected.norm)
        )
    ]
    return [
        CheckResult("methods", given == set(asked), detail),
        about_examples(
            "settings",
            other,
            "norm, samples, confidence and search are those that the config asks for",
            "the config asks for another norm or other settings",
        ),
    ]


def _of_its_time(asked: Mapping[str, float], certificate: Certificate) -> dict[str, float]:
    """Return the settings that a config asks for, without those that older files do not state."""
    older = {"tolerance"} - certificate.settings.keys()
    return {name: value for name, value in asked.items() if name not in older}


def _of_another_version(stated: Manifest, expected: Manifest) -> bool:
    return stated.versions["robustprune"] != expected.versions["robustprune"]


def _unchecked(
    stated: Manifest, certificates: Sequence[Certificate], expected: Manifest
) -> list[CheckResult]:
    """List what the file says and what no check confirms or refutes."""
    written = ", ".join(f"{name} {version}" for name, version in stated.versions.items())
    left = [unchecked("versions", f"the file says that it was written with {written}")]
    if _of_another_version(stated, expected):
        left.append(unchecked("limits", "sentences of another version of robustprune"))
    if stated.precision is None:
        left.append(
            unchecked(
                "precision",
                f"the file names none; radii were proven again for {expected.precision}",
            )
        )
        if expected.language is not None:
            left.append(unchecked("language", "the file names no config and tokenizer"))
    found = sum(c.attack_radius is not None for c in certificates)
    if found:
        detail = (
            f"{found} distances of attacks; that none lies below its radius is all that is known"
        )
        left.append(unchecked("attack_radius", detail))
    idle = sum(c.guarantee == "smoothed" and c.radius == 0 for c in certificates)
    if idle:
        detail = f"answers and hits of {idle} smoothed statements whose radius is 0"
        left.append(unchecked("predictions at radius 0", detail))
    return left


def pruned_are_zero(model: nn.Module, masks: MaskSet | None) -> CheckResult:
    """Check that every weight that the masks remove is exactly zero."""
    name = "pruned weights are zero"
    if masks is None:
        return CheckResult(name, True, "the model has no masks")
    parameters = dict(model.named_parameters())
    for key, mask in masks.items():
        if key not in parameters or parameters[key].shape != mask.shape:
            return CheckResult(name, False, f"mask {key!r} fits no parameter of the model")
        left = int((parameters[key].detach().cpu()[~mask] != 0).sum())
        if left:
            return CheckResult(name, False, f"{left} removed weights of {key!r} are not zero")
    return CheckResult(name, True, f"all {masks.total - masks.kept} of them")


def example_findings(
    certificates: Sequence[Certificate], x: Tensor, y: Tensor
) -> list[CheckResult]:
    """Check that each method covers the examples, with their labels and inputs."""
    known = [c for c in certificates if c.index < len(x)]
    methods = sorted({c.method for c in certificates})
    covered = {(c.index, c.method) for c in known}
    missing = [i for i in range(len(x)) for m in methods if (i, m) not in covered]
    coverage = about_examples(
        "examples",
        [*missing, *(c.index for c in certificates if c.index >= len(x))],
        f"the first {len(x)} of the test split, by {', '.join(methods)}",
        "without a certificate, or not among the examples to certify",
    )
    if not certificates:
        coverage = CheckResult("examples", False, "the file holds no certificates")
    inputs = [tensor_digest(example) for example in x]
    return [
        coverage,
        about_examples(
            "labels",
            (c.index for c in known if c.label != int(y[c.index])),
            "those of the data",
            "the data say another label",
        ),
        about_examples(
            "inputs",
            (c.index for c in known if c.input != inputs[c.index]),
            "digests are those of the data",
            "the digest is of another input",
        ),
        about_examples(
            "radius only where the answer is right",
            (c.index for c in certificates if c.radius > 0 and c.prediction != c.label),
            "as it should be",
            "a radius above 0 without a right answer",
        ),
    ]


def _failure_is_stated(stated: Manifest, certificates: Sequence[Certificate]) -> CheckResult:
    bound = total_failure(certificates)
    right = abs(stated.total_failure - bound) <= 1e-9
    detail = f"at most {bound:.3g}" if right else f"stated {stated.total_failure}, it is {bound}"
    return CheckResult("probability that any statement is wrong", right, detail)


def _answers(claims: Claims) -> CheckResult:
    """Check that the network gives the stated answers."""
    answers = answers_of(claims.model, claims.x, claims.y, batch_size=claims.batch_size).tolist()
    pairs = enumerate(zip(answers, claims.certificates, strict=True))
    wrong = [row for row, (answer, c) in pairs if answer != c.prediction]
    return claims.finding(
        "the network's answers",
        torch.tensor(wrong),
        f"all {len(answers)} as stated",
        "the network answers otherwise",
    )


def _groups(certificates: Sequence[Certificate]) -> list[tuple[Certificate, ...]]:
    """Group certificates with the same method, norm and settings."""
    groups: dict[object, list[Certificate]] = {}
    for c in certificates:
        key = (c.method, c.norm, tuple(sorted(c.settings.items())))
        groups.setdefault(key, []).append(c)
    return [tuple(group) for group in groups.values()]


def _attempted(check: Check, claims: Claims) -> CheckResult:
    """Make a check; one that can't be made, as weights are not finite for instance, has failed."""
    try:
        return check(claims)
    except (ValueError, RuntimeError) as error:
        name = check.__name__.strip("_").replace("_", " ")
        first = str(error).partition("\n")[0]
        return CheckResult(f"{claims.method}: {name}", False, f"could not be checked: {first}")


#: the checks of each method; every other method is a proof
_CHECKS = {"smoothing": SMOOTHING_CHECKS, "synonyms": SYNONYM_CHECKS}
