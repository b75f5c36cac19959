"""Measure and certify the user's own network and data by the protocol of the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from robustprune.certify import Certificate, file_digest, read_certificates, write_certificates
from robustprune.certify.certificate import FILE
from robustprune.measure import attack_set
from robustprune.pipeline.measure import figures_of, sanity_checks
from robustprune.pipeline.own_data import Problem
from robustprune.pipeline.own_state import is_safetensors, state_bytes
from robustprune.pipeline.run_certificates import describe, issue
from robustprune.run.checkpoint import write_atomically
from robustprune.run.runtime import is_first, wait
from robustprune.run.settings import CertifySection

#: the file with the options of certificates for a network that does not come from a run
SETTINGS = "certify.json"
#: the file with its weights, if they come from no safetensors file
WEIGHTS = "weights.safetensors"


def measure_network(
    model: nn.Module,
    problem: Problem,
    *,
    steps: int = 20,
    restarts: int = 5,
    more: Sequence[str] = ("autoattack",),
    minimal: int = 100,
    seed: int = 0,
    batch_size: int = 250,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure any network as a run measures its headline: accuracy, attacks, r*, sanity checks.

    Args:
        steps, restarts, more, seed: as in `measure.attack_set`.
        minimal: the number of examples whose r* is measured; 0 for none.

    Returns:
        A mapping for JSON: n, threat, clean, robust (by attack, and "worst"), attacks, minimal
        (or None) and findings. Accuracy under attack and r* are upper bounds.

    Raises:
        ValueError: as in `measure.evaluate`.
    """
    x, y, threat = problem.x, problem.y, problem.threat
    attacks = attack_set(threat, steps=steps, restarts=restarts, more=more, seed=seed)
    found = figures_of(
        model, x, y, threat, attacks, minimal=minimal, batch_size=batch_size, quiet=quiet
    )
    return {
        "n": len(y),
        "threat": {"norm": threat.norm, "eps": threat.eps, "bounds": threat.bounds},
        "clean": found["clean"],
        "robust": found["robust"],
        "attacks": {name: repr(attack) for name, attack in attacks.items()},
        "minimal": found.get("minimal"),
        "findings": sanity_checks(model, x, y, threat),
    }


def certify_network(
    model: nn.Module,
    problem: Problem,
    section: CertifySection,
    out: Path,
    *,
    named: str,
    state: Path | None,
    settings: Mapping[str, Any],
    seed: int = 0,
    batch_size: int = 250,
    quiet: bool = True,
) -> tuple[Path, list[Certificate]]:
    """Write certificates.jsonl for a network that does not come from a run.

    Args:
        out: the folder of certificates.jsonl, and of certify.json with `settings`. The manifest has
            the digest of certify.json instead of that of a run's config.
        named, state: as in `own_network.load_network`. If the weights are not in a safetensors
            file, they are also written to weights.safetensors in `out`, to which the certificates
            are bound.

    Raises:
        ValueError: `out` holds other certificates, which are not changed; or
            `pipeline.run_certificates.issue` refuses.
    """
    x, y, threat = problem.x, problem.y, problem.threat
    asked = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    written = None if state is not None and is_safetensors(state) else state_bytes(model)
    weights = out / WEIGHTS if written is not None or state is None else state
    digest = file_digest(weights) if written is None else sha256(written).hexdigest()
    _check_free(out, asked, digest)
    certificates = issue(
        model, x, y, threat, section, seed=seed, batch_size=batch_size, quiet=quiet
    )
    if is_first():
        out.mkdir(parents=True, exist_ok=True)
    described = out / SETTINGS
    write_atomically(described, asked)
    if written is not None:
        write_atomically(weights, written)
    wait()
    manifest = describe(
        certificates,
        x,
        y,
        threat,
        task=problem.source,
        model=named,
        weights=weights,
        masks=None,
        config=described,
        seed=seed,
    )
    write_certificates(out / FILE, manifest, certificates)
    return out / FILE, certificates


def _check_free(out: Path, asked: str, weights: str) -> None:
    """Check that a folder has no certificates, or those of the same options and weights.

    Raises:
        ValueError: there are others.
    """
    if not (out / FILE).exists():
        return
    try:
        same = (out / SETTINGS).read_text(encoding="utf-8") == asked
        same = same and read_certificates(out / FILE)[0].weights == weights
    except (OSError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"{out / FILE} holds certificates that other weights or options gave, and they would "
            "be lost; give another folder by --out, or move them away"
        )
