"""Run directories with invented figures, whose comparison is worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from robustprune.measure.statistics import proportion
from robustprune.run.config import parse_config

MakeRun = Callable[..., Path]


def model(name: str, title: str, density: float, clean: int, worst: int) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "density": density,
        "kept": round(1000 * density),
        "total": 1000,
        "parameters": 1250,
        "file_bytes": 4000,
        "clean": proportion(clean, 100).to_json(),
        "robust": {
            "fgsm": proportion(worst + 1, 100).to_json(),
            "worst": proportion(worst, 100).to_json(),
        },
        "curve": [],
        "layers": [],
    }


def cost(name: str, latency: float, size: int) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": 1000,
        "nonzeros": 100,
        "macs": 10,
        "effective_macs": 1,
        "file_bytes": size,
        "latency": latency,
        "latency_quartiles": [latency, latency],
        "batch_size": 64,
        "threads": 1,
        "device": "cpu",
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run of `method` at `density`; `worst` of 100 stay correct under attack: the first so
    many, or those of `which`. `answers`: whether it is kept which."""

    def make(
        method: str = "hydra",
        *,
        density: float = 0.1,
        seed: int = 0,
        clean: int = 84,
        worst: int = 70,
        eps: float = 0.1,
        r: float | None = 0.2,
        latency: float | None = 0.001,
        title: str | None = None,
        answers: bool = True,
        which: Sequence[bool] | None = None,
        **sections: Any,
    ) -> Path:
        tree = {
            "name": "invented",
            "seed": seed,
            "search": {"methods": [method], "density": [density]},
            "threat": {"eps": eps},
            **sections,
        }
        if which is not None:
            clean = worst = sum(which)
        config = parse_config(tree)
        folder = config.folder(tmp_path / "runs")
        headline = model(method, title or f"{method}, {density:g} kept", density, clean, worst)
        headline["minimal"] = {
            "norm": "linf",
            "n": 100,
            "success_rate": 1.0,
            "mean": 0.2,
            "median": r,
            "q25": 0.1,
            "q75": r and 0.3,
            "accuracy_at_eps": worst / 100,
        }
        dense = [
            model("natural", "natural dense", 1.0, 90, 20),
            model("adversarial", "adversarial dense", 1.0, 86, 75 + seed),
        ]
        metrics = {
            "schema": 1,
            "run": "invented",
            "seed": seed,
            "headline": method,
            "task": {
                "name": "invented",
                "source": "made up",
                "num_classes": 2,
                "n_train": 100,
                "n_validation": 0,
                "n_test": 100,
                "input_shape": [1, 96],
            },
            "threat": {"norm": "linf", "eps": eps, "bounds": None, "unit": "input units"},
            "attacks": {"fgsm": {"description": f"FGSM(eps={eps}, seed={seed})", "bound": "upper"}},
            "models": [*dense, headline],
            "r2s": None,
            "findings": [],
        }
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "env.json").write_text("{}")
        header, lines = "model,index,label", []
        for entry in metrics["models"]:
            for i in range(100):
                # the first so many are right, unless a test says which
                right = [
                    i < round(100 * entry["clean"]["value"]),
                    i < round(100 * entry["robust"]["worst"]["value"]),
                ]
                if entry["name"] == method and which is not None:
                    right = [which[i], which[i]]
                told = f",{int(right[0])},{int(right[1])}" if answers else ""
                lines.append(f"{entry['name']},{i},{i % 2}{told}")
        header += ",clean_correct,worst_correct" if answers else ""
        (folder / "per_example.csv").write_text("\n".join([header, *lines]))
        for entry in metrics["models"]:
            (folder / "models" / entry["name"]).mkdir(parents=True)
            (folder / "models" / entry["name"] / "history.jsonl").write_text("")
        if latency is not None:
            rows = [cost("dense", 0.002, 4000), cost("masks baked in", 0.002, 4000)]
            rows.append(cost("slim, CSR where measured faster", latency, 700))
            content = {"headline": headline["title"], "note": "", "rows": rows}
            (folder / "cost.json").write_text(json.dumps(content))
        return folder

    return make
