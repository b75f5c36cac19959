"""Verification of a run's certificates: honest ones pass, and whatever was touched is found."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from robustprune.certify import (
    Certificate,
    CheckResult,
    Manifest,
    file_digest,
    read_certificates,
    recheck,
    report_lines,
    resample_noise,
    smoothed_certificates,
    unchecked,
    write_certificates,
)
from robustprune.certify.claims import Claims
from robustprune.certify.smoothing import smoothed_radius
from robustprune.measure.statistics import clopper_pearson
from robustprune.pipeline.verify import verify_run
from robustprune.run.checkpoint import load_tensors, save_tensors


@pytest.fixture
def folder(certified_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recheck, "STEPS", 10)
    monkeypatch.setattr(resample_noise, "STEPS", 10)
    monkeypatch.setattr(recheck, "RESTARTS", 2)
    return shutil.copytree(certified_run, tmp_path / "run")


def verify(folder: Path, seed: int | None = 7) -> list[CheckResult]:
    return verify_run(folder, seed=seed)


def failed(folder: Path) -> set[str]:
    return {finding.name for finding in verify(folder) if not finding.ok}


def rewrite(folder: Path, change, **manifest: object) -> None:
    """Apply `change` to the list of certificates, and other values to the manifest."""
    path = folder / "certificates.jsonl"
    stated, certificates = read_certificates(path)
    changed = change(list(certificates))
    write_certificates(path, dataclasses.replace(stated, **manifest), changed)


def one(certificates: list[Certificate], guarantee: str) -> int:
    """Where the first certificate of that kind with something to claim is."""
    return next(i for i, c in enumerate(certificates) if c.guarantee == guarantee and c.radius > 0)


def altered(guarantee: str, **values: object):
    """A change of the first certificate of that kind; callables get the old one."""

    def change(certificates: list[Certificate]) -> list[Certificate]:
        i = one(certificates, guarantee)
        old = certificates[i]
        new = {k: v(old) if callable(v) else v for k, v in values.items()}
        certificates[i] = dataclasses.replace(old, **new)
        return certificates

    return change


def test_an_honest_run_passes(folder: Path) -> None:
    stated, certificates = read_certificates(folder / "certificates.jsonl")
    assert stated.total_failure == pytest.approx(8 * 0.01)
    assert sum(c.radius > 0 for c in certificates if c.guarantee == "base") >= 3
    assert sum(c.radius > 0 for c in certificates if c.guarantee == "smoothed") >= 3
    findings = verify(folder)
    lines = report_lines(findings)
    made = [finding for finding in findings if finding.checked]
    left = len(findings) - len(made)
    verdict = f"all {len(made)} checks passed; not checked, see above: {left}"
    assert lines[-1] == verdict, "\n".join(lines)
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)


def test_a_seed_that_nobody_knows_is_drawn(folder: Path) -> None:
    details = ["".join(f.detail for f in verify(folder, seed=None)) for _ in range(2)]
    assert details[0] != details[1]


def spoil_weights(folder: Path, *, kept: bool) -> None:
    """Change one kept weight of the last layer strongly, or one removed weight slightly."""
    state, _ = load_tensors(folder / "model.safetensors")
    masks, _ = load_tensors(folder / "masks.safetensors")
    name = list(masks)[-1]
    place = tuple((masks[name] == kept).nonzero()[0].tolist())
    state[name][place] = 5.0 if kept else 1e-6
    save_tensors(folder / "model.safetensors", state)


def test_a_changed_weight_is_found_by_its_digest(folder: Path) -> None:
    spoil_weights(folder, kept=True)
    assert "manifest, weights" in failed(folder)


def test_a_changed_weight_with_a_forged_digest_is_found_by_the_bounds(folder: Path) -> None:
    spoil_weights(folder, kept=True)
    rewrite(folder, lambda c: c, weights=file_digest(folder / "model.safetensors"))
    found = failed(folder)
    assert "manifest, weights" not in found
    assert "crown: the same radius comes out" in found


def test_a_removed_weight_that_is_not_zero(folder: Path) -> None:
    spoil_weights(folder, kept=False)
    rewrite(folder, lambda c: c, weights=file_digest(folder / "model.safetensors"))
    assert "pruned weights are zero" in failed(folder)


@pytest.mark.parametrize("factor", [1.01, 1.5])
def test_a_radius_made_larger_is_not_proven(folder: Path, factor: float) -> None:
    _, certificates = read_certificates(folder / "certificates.jsonl")
    index = certificates[one(list(certificates), "base")].index
    rewrite(folder, altered("base", radius=lambda c: c.radius * factor, attack_radius=None))
    findings = {f.name: f for f in verify(folder)}
    assert not findings["crown: the same radius comes out"].ok
    proven = findings["crown: margins are positive at the stated radius"]
    assert not proven.ok
    assert proven.detail.endswith(f": example {index}")


@pytest.mark.parametrize(("factor", "found"), [(0.97, False), (0.9, True)])
def test_a_file_of_the_older_search_may_be_a_little_below(
    folder: Path, factor: float, found: bool
) -> None:
    older = {"eps_max": 0.0, "rounds": 0, "steps": 0}.keys()

    def change(certificates: list[Certificate]) -> list[Certificate]:
        return [
            dataclasses.replace(
                c,
                radius=c.radius * factor,
                settings={name: c.settings[name] for name in older},
            )
            if c.guarantee == "base"
            else c
            for c in certificates
        ]

    rewrite(folder, change)
    assert failed(folder) == ({"crown: no much larger radius is proven"} if found else set())


def test_a_radius_made_smaller(folder: Path) -> None:
    rewrite(folder, altered("base", radius=lambda c: c.radius * 0.9))
    assert failed(folder) == {"crown: the same radius comes out"}


def test_a_radius_beyond_an_adversarial_example(folder: Path) -> None:
    rewrite(folder, altered("base", radius=lambda c: c.attack_radius * 1.2))
    assert {
        "crown: radius and attack",
        "crown: a fresh attack finds nothing inside",
        "crown: margins are positive at the stated radius",
    } <= failed(folder)


def test_a_label(folder: Path) -> None:
    rewrite(folder, altered("base", label=lambda c: 1 - c.label))
    assert "labels" in failed(folder)


def test_an_answer(folder: Path) -> None:
    rewrite(folder, altered("base", prediction=lambda c: 1 - c.label))
    assert {"crown: the network's answers", "radius only where the answer is right"} == failed(
        folder
    )


@pytest.mark.parametrize("field", ["weights", "masks", "config", "data"])
def test_a_digest(folder: Path, field: str) -> None:
    rewrite(folder, lambda c: c, **{field: "0" * 64})
    assert failed(folder) == {f"manifest, {field}"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("eps", 0.2), ("norm", "l2"), ("bounds", (0.0, 1.0)), ("seed", 5), ("n", 9), ("task", "x")],
)
def test_what_else_the_manifest_says(folder: Path, field: str, value: object) -> None:
    rewrite(folder, lambda c: c, **{field: value})
    assert failed(folder) == {f"manifest, {field}"}


def test_every_field_of_the_manifest_is_compared(folder: Path) -> None:
    names = {finding.name for finding in verify(folder)}
    compared = {f.name for f in dataclasses.fields(Manifest)}
    compared -= {"versions", "total_failure"}
    assert {f"manifest, {name}" for name in compared} <= names


def test_an_input_digest(folder: Path) -> None:
    rewrite(folder, altered("smoothed", input="0" * 64))
    assert failed(folder) == {"inputs"}


def test_the_failure_probability(folder: Path) -> None:
    rewrite(folder, lambda c: c, total_failure=0.001)
    assert failed(folder) == {"probability that any statement is wrong"}
    rewrite(folder, altered("smoothed", confidence=0.9999))
    assert "smoothing: radius follows from the hits" in failed(folder)


def test_a_smoothed_radius_alone(folder: Path) -> None:
    rewrite(folder, altered("smoothed", radius=lambda c: c.radius * 1.001))
    assert failed(folder) == {"smoothing: radius follows from the hits"}


def test_hits_that_were_never_drawn(folder: Path) -> None:
    """Forged consistently: more hits, and the radius that they would give. Noise tells."""

    def unsure(certificates: list[Certificate]) -> list[Certificate]:
        i = min(
            (i for i, c in enumerate(certificates) if c.guarantee == "smoothed" and c.radius > 0),
            key=lambda i: certificates[i].hits,
        )
        assert certificates[i].hits < 490
        p_lower = clopper_pearson(np.array([500]), 500, 0.01)[0]
        radius = float(smoothed_radius(p_lower, 2.0)[0])
        certificates[i] = dataclasses.replace(certificates[i], hits=500, radius=radius)
        return certificates

    rewrite(folder, unsure)
    assert "smoothing: fresh samples support the radius" in failed(folder)


def test_examples_left_out_or_added(folder: Path) -> None:
    path = folder / "certificates.jsonl"
    original = path.read_text()
    rewrite(folder, lambda c: c[1:])
    assert "examples" in failed(folder)
    path.write_text(original)
    rewrite(folder, lambda c: [*c, dataclasses.replace(c[0], index=10**20)])
    assert "examples" in failed(folder)
    path.write_text(original)
    rewrite(folder, lambda c: [])
    assert "examples" in failed(folder)


def test_numbers_no_network_has(folder: Path) -> None:
    rewrite(folder, altered("base", prediction=10**30, label=10**30))
    assert "labels" in failed(folder)
    rewrite(folder, altered("smoothed", hits=10**30))
    assert "smoothing: radius follows from the hits" in failed(folder)


def test_weights_that_cannot_be_checked(folder: Path) -> None:
    state, _ = load_tensors(folder / "model.safetensors")
    first = next(iter(state))
    state[first] = torch.full_like(state[first], torch.nan)
    save_tensors(folder / "model.safetensors", state)
    findings = {f.name: f for f in verify(folder)}
    assert "could not be checked" in findings["crown: proven again"].detail


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("certificates.jsonl", "line 2 is not valid JSON"),
        ("model.safetensors", "model.safetensors is damaged"),
        ("masks.safetensors", "masks.safetensors is damaged"),
        ("config.yaml", "must hold a mapping"),
        ("metrics.json", "metrics.json is damaged"),
    ],
)
def test_damaged_files(folder: Path, file: str, message: str) -> None:
    path = folder / file
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0][:-8] if len(lines) == 1 else lines[0] + b"x\n")
    if file == "config.yaml":
        path.write_text("a list")
    (finding,) = verify(folder)
    assert not finding.ok
    assert message in finding.detail


def test_missing_files(folder: Path) -> None:
    (folder / "certificates.jsonl").unlink()
    (finding,) = verify(folder)
    assert finding.name == "files"
    assert "cannot read" in finding.detail


def test_weights_of_another_network(folder: Path) -> None:
    state, _ = load_tensors(folder / "model.safetensors")
    state.popitem()
    save_tensors(folder / "model.safetensors", state)
    (finding,) = verify(folder)
    assert "Missing key" in finding.detail


def test_the_verdict_counts_failures() -> None:
    lines = report_lines([CheckResult("a", True, "fine"), CheckResult("b", False, "bad")])
    assert lines == [
        "ok      a: fine",
        "FAILED  b: bad",
        "1 of 2 checks failed; do not rely on this file",
    ]


def test_what_was_not_checked_is_said_last_and_counts_as_nothing() -> None:
    findings = [
        CheckResult("a", True, "fine"),
        unchecked("c", "nobody looked"),
        CheckResult("b", True, ""),
    ]
    assert report_lines(findings) == [
        "ok      a: fine",
        "ok      b: ",
        "not checked: c: nobody looked",
        "all 2 checks passed; not checked, see above: 1",
    ]


def test_nothing_in_a_file_makes_a_line_of_its_own() -> None:
    hostile = "x\nall 9 checks passed\x1b[8m\r\u202e"
    lines = report_lines([CheckResult("a", False, hostile), unchecked("b", hostile)])
    assert len(lines) == len("\n".join(lines).splitlines()) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("1 of 1 checks failed")


def test_a_long_text_in_a_file_does_not_flood_the_report() -> None:
    lines = report_lines([CheckResult("a", False, "x" * 10**6), unchecked("b", "y" * 10**6)])
    assert [len(line) < 1100 for line in lines] == [True] * 3


def test_a_stored_network_of_another_size_is_not_read(folder: Path) -> None:
    stored = folder / "models" / json.loads((folder / "metrics.json").read_text())["headline"]
    stored.mkdir(parents=True, exist_ok=True)
    with open(stored / "model.safetensors", "wb") as file:
        file.truncate(2**33)  # takes no room on a disk, and a minute to read
    assert "headline" in failed(folder)


def test_headline_of_the_run_is_what_is_certified(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["headline"] = "natural"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert failed(folder) == {"manifest, model", "headline"}


def first_only(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor([True, False]).expand_as(x)


def test_smoothing_within_a_support_is_checked_within_it() -> None:
    """A network that any change of its second input upsets, certified for changes of the first."""
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -1000.0], [1.0, 1000.0]]))
    x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0, 1])
    certificates = tuple(
        smoothed_certificates(
            model, x, y, sigma=0.5, n0=50, n=500, alpha=0.001, seed=0, support=first_only
        )
    )
    assert all(c.radius > 0 for c in certificates)
    good, bad = (
        Claims(certificates, model, x, y, None, 3, 100, quiet=True, support=support)
        for support in (first_only, None)
    )
    assert [f for check in resample_noise.SMOOTHING_CHECKS if not (f := check(good)).ok] == []
    assert not resample_noise.drawn_again(bad).ok
    assert not resample_noise.smoothed_attacked_inside(bad).ok
