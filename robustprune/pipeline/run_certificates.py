"""Issue the certificates of a run: lower bounds on r* of its headline model, and of others."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import scipy
import torch
from safetensors import safe_open
from torch import Tensor, nn

import robustprune
from attacks import ThreatModel
from robustprune.certify import (
    Certificate,
    ClassifiedTexts,
    Manifest,
    file_digest,
    limits,
    proofs,
    smoothed_certificates,
    synonym_certificates,
    tensor_digest,
    total_failure,
    write_certificates,
)
from robustprune.certify.certificate import FILE, Norm
from robustprune.measure import nearest_adversarial
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.plan import certifies
from robustprune.pipeline.shared import Run
from robustprune.pipeline.text import language_digest, sentences_of
from robustprune.run.config import Config
from robustprune.run.rundir import RunDir
from robustprune.run.runtime import seed_stage
from robustprune.run.settings import CertifySection
from robustprune.tasks import Task

WEIGHTS, MASKS = "model.safetensors", "masks.safetensors"


def certify_networks(run: Run, headline: Fitted, models: Sequence[Fitted]) -> None:
    """Certify the headline model, and the other models that the config names in certify.also.

    Raises:
        SandwichViolation, ValueError: as in `certify_one`.
    """
    if not certifies(run.config.certify):
        return
    certify_one(run, headline, published=True)
    by_name = {fitted.name: fitted for fitted in models}
    for name in run.config.certify.also:
        certify_one(run, by_name[name], published=False)


def certify_one(run: Run, fitted: Fitted, *, published: bool) -> Path:
    """Certify a model on the first test examples, unless its certificates are there.

    Deterministic bounds are stored with the distances that attacks reached, and are checked against
    them. Smoothing is about another classifier and has no such distances. For sentences, the word
    embeddings are smoothed, or the words.

    Args:
        published: whether it is the headline model, whose files are at the top of the run
            directory; the files of others are in their folders of `models`.

    Returns:
        The path of the file.

    Raises:
        SandwichViolation: a certified radius lies beyond an adversarial example. Then nothing is
            written.
        ValueError: the network has an operation without bounds.
    """
    file = FILE if published else f"models/{fitted.name}/{FILE}"
    path = run.folder.path / file
    if run.folder.has(file):
        return path
    seed_stage(run.config.seed, file)
    x, y = certified_examples(run.config, run.task)
    certificates = issue(
        fitted.model,
        x.to(run.device),
        y.to(run.device),
        run.threat,
        run.config.certify,
        sentences=sentences_of(run.config, run.task, fitted.model),
        seed=run.config.seed,
        batch_size=run.config.evaluation.batch_size,
        title=f"smoothing {fitted.name}",
        quiet=run.quiet,
    )
    manifest = manifest_of(
        run.config, run.task, run.folder, fitted.name, certificates, published=published
    )
    write_certificates(path, manifest, certificates)
    run.folder.log("certified", model=fitted.name, examples=len(x))
    return path


def issue(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    section: CertifySection,
    *,
    sentences: ClassifiedTexts | None = None,
    seed: int,
    batch_size: int,
    title: str = "smoothing",
    quiet: bool = True,
) -> list[Certificate]:
    """Compute the certificates that `section` asks for: proofs, smoothed ones, or both.

    sentences: the classifier and its texts, if `section` asks for synonyms; x and y are the first.

    Raises:
        SandwichViolation, ValueError: as in `certify_one`.
    """
    certificates: list[Certificate] = []
    if section.method != "none":
        nearest = nearest_adversarial(
            model,
            x,
            y,
            threat,
            batch_size=batch_size,
            title="nearest adversarial examples",
            quiet=quiet,
        )
        certificates += proofs(
            model,
            x,
            y,
            threat,
            nearest,
            method=section.method,
            batch_size=batch_size,
            quiet=quiet,
        )
    if section.sigma is not None:
        certificates += smoothed_certificates(
            model,
            x,
            y,
            sigma=section.sigma,
            n0=section.n0,
            n=section.n,
            alpha=section.alpha,
            support=threat.support,
            seed=seed,
            title=title,
            quiet=quiet,
        )
    if section.synonyms is not None:
        assert sentences is not None, "`check_text` refuses tasks without"
        certificates += synonym_certificates(
            sentences,
            x,
            y,
            most=section.synonyms,
            n0=section.n0,
            n=section.n,
            alpha=section.alpha,
            seed=seed,
            title=title,
            quiet=quiet,
        )
    return certificates


def certified_examples(config: Config, task: Task) -> tuple[Tensor, Tensor]:
    """Return the first test examples, as many as the config wants certified."""
    return task.test.batch(slice(config.certify.examples))


def manifest_of(
    config: Config,
    task: Task,
    folder: RunDir,
    name: str,
    certificates: Sequence[Certificate],
    *,
    published: bool = True,
) -> Manifest:
    """Return the manifest of these certificates, from the present files of the run.

    name, published: as in `certify_one`.
    """
    files = folder.path if published else folder.path / "models" / name
    masks = files / MASKS
    return describe(
        certificates,
        *certified_examples(config, task),
        ThreatModel(config.threat.norm, config.threat.eps, task.bounds, task.support),
        task=config.task.name,
        model=name,
        weights=files / WEIGHTS,
        masks=masks if masks.exists() else None,
        config=folder.path / "config.yaml",
        seed=config.seed,
        language=language_digest(config),
    )


def stored_precision(weights: Path) -> str:
    """Return the coarsest floating-point format in a file of weights, such as "float32".

    The network runs in it, because weights are loaded without a cast.
    """
    with safe_open(weights, framework="pt") as file:
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return next((name for kind, name in _FLOATS.items() if kind in stored), "float32")


#: the abbreviations of safetensors, the coarsest format first
_FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def describe(
    certificates: Sequence[Certificate],
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    task: str,
    model: str,
    weights: Path,
    masks: Path | None,
    config: Path,
    seed: int,
    language: str | None = None,
) -> Manifest:
    """Return the manifest of certificates for the examples (x, y).

    Args:
        task, model: the names in the manifest.
        weights, masks, config: the files whose digests it contains.
        language: the digest of the description of a pre-trained language model, or None.
    """
    return Manifest(
        task=task,
        model=model,
        weights=file_digest(weights),
        masks=None if masks is None else file_digest(masks),
        config=file_digest(config),
        data=tensor_digest(x, y),
        norm=cast(Norm, threat.norm),
        eps=float(threat.eps),
        bounds=cast("tuple[float, float] | None", threat.bounds),
        seed=seed,
        n=len(x),
        total_failure=total_failure(certificates),
        versions=versions(),
        limits=limits(
            {certificate.method for certificate in certificates},
            sentences=threat.support is not None,
        ),
        precision=stored_precision(weights),
        language=language,
    )


def versions() -> dict[str, str]:
    """Return the versions of the software with which certificates are computed."""
    return {
        "robustprune": robustprune.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
