"""Certificates in the report: upper and lower bounds apart, intervals that say what is known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from robustprune.certify import Certificate, Manifest, SandwichViolation, write_certificates
from robustprune.report import write_report
from robustprune.report.certificates import _shares_beyond
from robustprune.report.collect import collect

DIGEST = "0" * 64
MANIFEST = Manifest(
    task="invented",
    model="rst",
    weights=DIGEST,
    masks=DIGEST,
    config=DIGEST,
    data=DIGEST,
    norm="linf",
    eps=0.1,
    bounds=None,
    seed=3,
    n=4,
    total_failure=0.0,
    versions=dict.fromkeys(("robustprune", "python", "torch", "numpy", "scipy"), "1.0"),
    limits=("Nothing is claimed of <other> inputs.",),
)
PROOF = Certificate(
    index=0,
    input=DIGEST,
    label=1,
    prediction=1,
    norm="linf",
    radius=0.05,
    method="crown",
    settings={"eps_max": 10.0, "rounds": 12, "steps": 20},
    confidence=1.0,
    hits=None,
    attack_radius=0.4,
    guarantee="base",
)
SMOOTHED = replace(
    PROOF,
    norm="l2",
    radius=0.3,
    method="smoothing",
    settings={"sigma": 0.25, "n0": 100.0, "n": 1000.0, "alpha": 0.001, "seed": 3.0},
    confidence=0.999,
    hits=990,
    attack_radius=None,
    guarantee="smoothed",
)


def reports(run_dir: Path, certificates: Sequence[Certificate]) -> tuple[str, str]:
    numbered = [replace(c, index=i) for i, c in enumerate(certificates)]
    write_certificates(run_dir / "certificates.jsonl", MANIFEST, numbered)
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    return html, markdown


def test_robust_accuracy_is_an_interval(run_dir: Path) -> None:
    """Four examples at ε = 0.1: one certified, one broken, two in between."""
    pairs = [(0.2, 0.4), (0.05, 0.07), (0.03, 0.2), (0.02, None)]
    proofs = [replace(PROOF, radius=low, attack_radius=high) for low, high in pairs]
    html, markdown = reports(run_dir, proofs)
    assert (
        "| invented ticket 0.5 | crown | the network | proof | 4 | 0.04 (L∞) | 0.3 "
        "| [25.0, 75.0] at ε = 0.1 |" in markdown
    )
    assert "[25.0, 75.0] at ε = 0.1" in html
    assert "Nothing is claimed of &lt;other&gt; inputs." in html
    assert (run_dir / "plots" / "sandwich-crown.svg").exists()
    assert "robust accuracy in %" in (run_dir / "plots" / "certified-crown.svg").read_text("utf-8")
    assert "of those that no attack broke within it: 25.0% and 75.0% at ε = 0.1." in html


def test_a_distance_of_exactly_eps_is_not_beyond_it(run_dir: Path) -> None:
    """At ε = 0.1, an attack at 0.1 has broken an example, and a radius of 0.1 certifies none."""
    pairs = [(0.0, 0.1), (0.1, 0.3), (0.1, None), (0.2, 0.4)]
    proofs = [replace(PROOF, radius=low, attack_radius=high) for low, high in pairs]
    html, markdown = reports(run_dir, proofs)
    assert "[25.0, 75.0] at ε = 0.1 |" in markdown
    assert "of those that no attack broke within it: 25.0% and 75.0% at ε = 0.1." in html


def test_a_share_counts_the_values_above_eps() -> None:
    """Worked out by hand: 0 is never above ε, ∞ always is."""
    places, shares = _shares_beyond([0.0, 0.2, 0.2, 0.5, math.inf], 0.4)
    assert places == [0.0, 0.2, 0.4]
    assert shares == [80.0, 40.0, 40.0]


def test_smoothing_speaks_of_another_classifier(run_dir: Path) -> None:
    abstained = replace(SMOOTHED, radius=0.0, prediction=None, hits=500)
    _, markdown = reports(run_dir, [SMOOTHED, SMOOTHED, SMOOTHED, abstained])
    assert (
        "| invented ticket 0.5 | smoothing | the smoothed classifier | 99.9% | 4 | 0.3 (L2) | – "
        "| ≥ 75.0 without attack (1 abstained) |" in markdown
    )
    assert not list((run_dir / "plots").glob("sandwich*"))


def test_without_certificates_nothing_is_said(run_dir: Path) -> None:
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert "Certificates" not in html + markdown


def test_a_proof_beyond_an_attack_stops_the_report(run_dir: Path) -> None:
    with pytest.raises(
        SandwichViolation, match=r"example.* 0 \(certified 0\.5, attacked at 0\.4\)"
    ):
        reports(run_dir, [replace(PROOF, radius=0.5)])


def test_synonyms_are_counted_in_words(run_dir: Path) -> None:
    words = replace(
        SMOOTHED,
        norm="words",
        radius=8,
        method="synonyms",
        settings={"most": 10, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 3},
        replaceable=7,
    )
    # one falls when all seven are replaced, one has no majority
    fewer = replace(words, radius=7, hits=700)
    claims = [words, words, fewer, replace(words, prediction=None, radius=0, hits=520)]
    _, markdown = reports(run_dir, [PROOF, *claims])
    assert (
        "| invented ticket 0.5 | synonyms | the smoothed classifier | 99.9% | 4 "
        "| all words (groups ≤ 10) | – | ≥ 50.0 whatever words are replaced (1 abstained) |"
    ) in markdown


def test_another_certified_network_stands_beside_the_headline(run_dir: Path) -> None:
    other = [replace(PROOF, radius=r, attack_radius=0.8, index=i) for i, r in enumerate((0.6, 0.0))]
    file = run_dir / "models" / "adversarial" / "certificates.jsonl"
    write_certificates(file, replace(MANIFEST, model="adversarial", n=2), other)
    html, markdown = reports(run_dir, [PROOF])
    title = next(m.title for m in collect(run_dir).metrics.models if m.name == "adversarial")
    rows = [line for line in markdown.splitlines() if "| crown | the network |" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| invented ticket 0.5", f"| {title}"]
    assert "[50.0, 100.0] at ε = 0.1" in rows[1]
    for text in (html, markdown):
        assert "models/adversarial/certificates.jsonl" in text
        assert "and of another network in" in text
    names = ("certified-crown", "certified-crown-adversarial")
    curves = [(run_dir / "plots" / f"{name}.svg").read_text("utf-8") for name in names]
    assert all("0.6" in curve for curve in curves), "the axes are the same"
    start = title[:1].upper() + title[1:]
    assert f"{start}: share of 2 test examples certified by crown" in html
