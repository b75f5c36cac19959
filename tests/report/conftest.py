"""A small run directory with invented figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune.measure.statistics import expected_proportion, proportion
from robustprune.report import write_report

Report = Callable[[dict[str, Any]], tuple[str, str]]


def model(name: str, title: str, density: float, clean: int, fgsm: int, pgd: int) -> dict[str, Any]:
    """One invented network, measured on 100 invented examples."""
    total = 1000
    return {
        "name": name,
        "title": title,
        "density": density,
        "kept": round(total * density),
        "total": total,
        "file_bytes": 12345,
        "clean": proportion(clean, 100).to_json(),
        "robust": {
            "fgsm": proportion(fgsm, 100).to_json(),
            "pgd20": proportion(pgd, 100).to_json(),
            "worst": proportion(pgd - 1, 100).to_json(),
        },
        "curve": [
            {"eps": 0.0, "value": clean / 100, "n": 100},
            {"eps": 0.1, "value": (pgd - 1) / 100, "n": 100},
            {"eps": 0.3, "value": 0.11, "n": 100},
            {"eps": 0.8, "value": 0.0, "n": 100},
        ],
        "layers": [
            {
                "name": "conv1.weight",
                "kept": round(200 * density),
                "total": 200,
                "density": density,
            },
            {"name": "head.weight", "kept": round(800 * density), "total": 800, "density": density},
        ],
    }


def tickets(density: float, prefix: str = "rst") -> list[dict[str, Any]]:
    """A ticket and its two fine-tuned forms."""
    return [
        model(prefix, f"invented ticket {density:g}", density, 84, 79, 77),
        model(f"{prefix}-inherit", f"invented ticket {density:g}, inherit", density, 85, 80, 78),
        model(f"{prefix}-reinit", f"invented ticket {density:g}, re-init", density, 83, 75, 73),
    ]


def invented_metrics() -> dict[str, Any]:
    """Content of metrics.json of an invented run with one density."""
    return {
        "schema": 1,
        "run": "invented_run",
        "seed": 3,
        "headline": "rst",
        "task": {
            "name": "invented",
            "source": "figures made up for a test",
            "num_classes": 2,
            "n_train": 90,
            "n_validation": 10,
            "n_test": 100,
            "input_shape": [1, 96],
        },
        "threat": {"norm": "linf", "eps": 0.1, "bounds": None, "unit": "input units"},
        "attacks": {
            "fgsm": {"description": "FGSM(eps=0.1)", "bound": "upper"},
            "pgd20": {"description": "PGD(eps=0.1, steps=20, restarts=5)", "bound": "upper"},
        },
        "models": [
            model("natural", "invented natural dense", 1.0, 88, 60, 53),
            model("adversarial", "invented adversarial dense", 1.0, 87, 84, 82),
            *tickets(0.5),
        ],
        "r2s": None,
        "findings": [],
    }


def write_run(run_dir: Path, metrics: dict[str, Any]) -> Path:
    """Write the files of a run around its metrics."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (run_dir / "config.yaml").write_text("name: invented_run\nseed: 3\n", encoding="utf-8")
    (run_dir / "env.json").write_text('{"python": "3.11.7", "threads": 1}', encoding="utf-8")
    rows = [f"{m['name']},{i},{int(i < 64)},1,1,1" for m in metrics["models"] for i in range(100)]
    header = "model,index,label,clean_correct,fgsm_correct,pgd20_correct"
    (run_dir / "per_example.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    for entry in metrics["models"]:
        folder = run_dir / "models" / entry["name"]
        folder.mkdir(parents=True)
        lines = [
            {
                "epoch": epoch,
                "step": 7 * epoch,
                "loss": 0.7 / (epoch + 1),
                "clean": 0.5 + 0.01 * epoch,
                "robust": 0.4 + 0.01 * epoch,
                "lr": 0.1,
                "seconds": 0.3,
            }
            for epoch in range(30)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "history.jsonl").write_text(text, encoding="utf-8")
    return run_dir


@pytest.fixture
def metrics() -> dict[str, Any]:
    return invented_metrics()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """report.html and report.md of the invented run, made once; for reading only."""
    return write_report(write_run(tmp_path_factory.mktemp("written"), invented_metrics()))


@pytest.fixture
def switch() -> dict[str, Any]:
    """Figures of an invented random ticket switch."""
    return {
        "densities": [0.05, 0.1, 0.2],
        "draws": 10,
        "clean": proportion(82, 100).to_json(),
        "independent": proportion(71, 100).to_json(),
        "adaptive": proportion(57, 100).to_json(),
        "eot": proportion(59, 100).to_json(),
        "worst": expected_proportion([0.5625] * 100).to_json(),
        "headline": "adaptive",
    }


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Write a run of given metrics and return the text of its report.html and report.md."""

    def write(metrics: dict[str, Any]) -> tuple[str, str]:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        html, markdown = write_report(write_run(folder, metrics))
        return html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")

    return write


@pytest.fixture
def run_dir(tmp_path: Path, metrics: dict[str, Any]) -> Path:
    """The invented run on disk."""
    return write_run(tmp_path / "seed3", metrics)


@pytest.fixture
def several(metrics: dict[str, Any]) -> dict[str, Any]:
    """The invented run with three densities."""
    dense = metrics["models"][:2]
    more = [m for d in (0.05, 0.2, 0.5) for m in tickets(d, f"rst-{d:g}")]
    for entry in more:  # rst-0.05-inherit, not rst-inherit
        entry["title"] = f"invented {entry['name']}"
    return {**metrics, "models": [*dense, *more], "headline": "rst-0.2"}
