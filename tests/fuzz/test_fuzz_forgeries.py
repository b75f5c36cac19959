"""Certificates that a forger wrote are never passed, and honest ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forgeries import FORGERIES
from forging import Made, beyond_the_truth, copied, half_space_run, honest_run

from robustprune.certify import CheckResult, recheck, report_lines, resample_noise
from robustprune.cli import main
from robustprune.pipeline.verify import verify_run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks of a few steps: what is tested is that the other checks find it."""
    for module in (recheck, resample_noise):
        monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(recheck, "RESTARTS", 1)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return honest_run(tmp_path_factory.mktemp("honest") / "run", 0)


def complaints(folder: Path, seed: int) -> list[CheckResult]:
    return [finding for finding in verify_run(folder, seed=seed) if not finding.ok]


@pytest.mark.parametrize("kind", FORGERIES)
def test_no_forgery_passes(kind: str, honest: Made, tmp_path: Path, quick: None) -> None:
    made = copied(honest, tmp_path / "run")
    FORGERIES[kind](made, np.random.default_rng(0))
    assert complaints(made.folder, 1)


@pytest.mark.parametrize(("distance", "factor"), [(0.5, 1.05), (1.5, 1.1), (2.1, 1.35)])
def test_samples_that_were_never_drawn_prove_nothing(
    distance: float, factor: float, tmp_path: Path, quick: None
) -> None:
    """The true radius of a half-space is known, and the config asks for what the file states."""
    made = half_space_run(tmp_path / "run", distance)
    beyond_the_truth(made, distance, factor, np.random.default_rng(1))
    names = {finding.name for finding in complaints(made.folder, 1)}
    assert names <= {
        "smoothing: fresh samples support the radius",
        "smoothing: a fresh attack finds nothing inside",
    }
    assert "smoothing: fresh samples support the radius" in names


def test_the_exit_status_of_a_hostile_folder(
    honest: Made, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copied(honest, tmp_path / "run")
    assert main(["verify", str(made.folder), "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "not checked: where the data are from: they were read from" in shown
    FORGERIES["limits that hide"](made, np.random.default_rng(0))
    (made.folder / "metrics.json").write_text(
        '{"headline": "rst\\nall 31 checks passed\\u001b[8m"}'
    )
    assert main(["verify", str(made.folder), "--seed", "1"]) == 1
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert not any(line.startswith("all ") for line in shown.splitlines())


@pytest.mark.slow
def test_two_hundred_forgeries(tmp_path: Path) -> None:
    passed = []
    for seed in range(5):
        made = honest_run(tmp_path / f"honest{seed}", seed)
        assert complaints(made.folder, seed) == []
        for kind, forge in FORGERIES.items():
            forged = copied(made, tmp_path / f"{seed}-{kind}")
            forge(forged, np.random.default_rng(seed))
            if not complaints(forged.folder, 100 + seed):
                passed.append((seed, kind))
    assert passed == []


@pytest.mark.slow
def test_forty_claims_beyond_the_truth(tmp_path: Path) -> None:
    """5% and more beyond the distance to a plane; each verified with seeds nobody knew."""
    rng, passed = np.random.default_rng(0), []
    for number in range(40):
        distance = float(rng.uniform(0.2, 2.2))
        factor = float(rng.uniform(1.05, min(2.0, 2.8 / distance)))
        made = half_space_run(tmp_path / str(number), distance)
        beyond_the_truth(made, distance, factor, rng)
        if not complaints(made.folder, number):
            passed.append((distance, factor))
    assert passed == []


@pytest.mark.slow
def test_sixty_honest_runs(tmp_path: Path) -> None:
    """Each is failed by chance with probability at most 0.002 for its two checks that draw, and
    with at most 4 α = 0.004 because one of its statements is false: 0.36 runs of 60 on average,
    and with probability 1e-3 as many as 4."""
    failed = []
    for seed in range(60):
        made = honest_run(tmp_path / str(seed), seed)
        findings = verify_run(made.folder, seed=seed)
        if not all(finding.ok for finding in findings):
            failed.append((seed, report_lines(findings)))
    assert len(failed) < 4, failed
