"""Write an entry for the Adversarial Pruning Benchmark (Piras et al. 2024, arXiv 2409.01249).

The benchmark needs a taxonomy entry (one JSON object for each method), and for each checkpoint its
clean accuracy, its accuracy under AutoAttack at ε = 0.031, and the distances that FMN found with
tuned options, from which the share beyond 8/255 is computed. The deviations of a run from this are
listed with the entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from robustprune.compare.gather import Result
from robustprune.report.fields import parse_json, read_text
from robustprune.run.checkpoint import write_atomically
from robustprune.run.settings import DISTILLED

_NATURAL = "Natural Training (NT)"
_AFTER = "A-Methods Pruning After Training"
_BEFORE = "B-Methods Pruning Before Training"
_ARCHITECTURES = {"preact_resnet18": "R18", "resnet18": "R18", "vgg16": "V16"}
_DATASETS = {"cifar10": "CIFAR10", "svhn": "SVHN"}
_EPS_AA, _EPS_FMN = 0.031, 8 / 255
_KEY = re.compile(r"^[A-Za-z0-9]+_[A-Za-z]+\d{4}[A-Za-z0-9]+$")


class Method(Protocol):
    """The fields of a method's row in `pipeline.methods` that an entry needs."""

    @property
    def section(self) -> str: ...
    @property
    def benchmark(self) -> str: ...
    @property
    def trained(self) -> bool: ...
    @property
    def scratch(self) -> bool: ...
    @property
    def iterative(self) -> bool: ...
    @property
    def everywhere(self) -> bool: ...


def benchmark_entry(
    results: Sequence[Result], *, key: str, paper: str, methods: Mapping[str, Method]
) -> dict[str, Any]:
    """Return the entry for the headline networks of one method.

    Args:
        results: the results of runs of one method and structure; networks that are no headline are
            left out.
        key: the benchmark's name for the method, such as HYDRA_Sehwag2020Hydra.
        paper: a link to the paper.
        methods: the rows of methods by their names in configs: `robustprune.pipeline.methods.ROWS`.

    Returns:
        A mapping. "entry" is the taxonomy object, with the benchmark's fields; "models" has for
        each network its key, its clean, AutoAttack and FMN accuracy in percent (None where not
        measured) and its distances; "deviations" lists how the runs differ from the protocol.

    Raises:
        ValueError: the key has another form, there is no headline, the runs are of several
            methods, or a distances.json is damaged.
    """
    if not _KEY.match(key):
        raise ValueError(f"key {key!r} must be NAME_Author2026Word, as in HYDRA_Sehwag2020Hydra")
    headlines = [result for result in results if result.headline]
    if not headlines:
        raise ValueError("an entry needs at least one headline network")
    entries = [_taxonomy(result, methods, key, paper) for result in headlines]
    if any(entry != entries[0] for entry in entries):
        raise ValueError("the runs are of different methods or settings; give one entry's runs")
    models = [_model(result, key) for result in headlines]
    keys = [model["key"] for model in models]
    for model in models:
        if keys.count(model["key"]) > 1:
            model["key"] += f"_seed{model['seed']}"
    return {"entry": entries[0], "models": models, "deviations": _deviations(headlines, models)}


def write_entry(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write taxonomy.json, results.md (in the form of the benchmark's issues) and, for each model,
    distances/<key>.json. The benchmark stores that list as a pickle, which we don't write."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = json.dumps(content["entry"], indent=2, ensure_ascii=False)
    written = [write_atomically(folder / "taxonomy.json", f"{entry}\n")]
    parts = ["# JSON Entry", f"```json\n{entry}\n```"]
    for number, model in enumerate(content["models"], start=1):
        parts.append(
            f"## Evaluation Results of Model n°{number}\n"
            f'_Model GDrive:_ "{model["key"]}" : ["your_gdrive_link_id", ".safetensors"]\n'
            f'_Distances GDrive:_ "{model["key"]}" : ["your_gdrive_link_id", ".json"]\n\n'
            f"_Clean Accuracy:_ {_shown(model['clean'])}\n"
            f"_Robust Accuracy (AA):_ {_shown(model['autoattack'])}\n"
            f"_Robust Accuracy (HO-FMN):_ {_shown(model['fmn'])}"
        )
        if model["distances"] is not None:
            (folder / "distances").mkdir(exist_ok=True)
            path = folder / "distances" / f"{model['key']}.json"
            written.append(write_atomically(path, json.dumps(model["distances"]) + "\n"))
    parts.append("## What differs from the benchmark's protocol")
    parts += [f"- {line}" for line in content["deviations"]] or ["Nothing."]
    return [*written, write_atomically(folder / "results.md", "\n\n".join(parts) + "\n")]


def _taxonomy(
    result: Result, methods: Mapping[str, Method], key: str, paper: str
) -> dict[str, str]:
    """Return the object that the benchmark stores for a method, with exactly its keys."""
    config = result.config
    name = config["search"]["methods"][0]
    if name not in methods:
        raise ValueError(f"{result.run}: method {name!r} is unknown to this version; update it")
    method = methods[name]
    section = config[method.section]
    trained = _training(config)
    everywhere = method.everywhere or config["search"]["allocate"] == "global"
    start = {"link_to_paper": paper, "ap_key": key}
    end = {
        "Pruning structure": _structure(config["search"]["pattern"]),
        "Pruning locality": "Global Pruning (G)" if everywhere else "Local Pruning (L)",
        "Pruning criterion": method.benchmark,
    }
    fine = trained if config["finetune"]["modes"] else "None"
    weights = section.get("weights", "random")
    if weights == "random":
        iterative = method.iterative and section.get("rounds") != 1
        tuned = trained if method.trained else fine
        return {
            **start,
            "Type of Pipeline:": _BEFORE,
            "B: Pruning step ": trained,
            "B: Training step ": "None" if method.scratch else tuned,
            "B: OneShot (1S) vs Iterative (IT)": "IT" if iterative else "1S",
            **end,
        }
    return {
        **start,
        "Type of Pipeline:": _AFTER,
        "A: Pretraining ": _pretraining(config) if weights == "adversarial" else _NATURAL,
        "A: Finetuning": fine,
        "A: OneShot (1S) vs Iterative (IT)": "1S",
        **end,
    }


def _pretraining(config: Mapping[str, Any]) -> str:
    """Return how the dense network was trained; a teacher has no teacher itself."""
    if config["objective"]["name"] not in DISTILLED:
        return _training(config)
    return _training({**config, "objective": {"name": "adversarial"}})


def _training(config: Mapping[str, Any]) -> str:
    name = config["objective"]["name"]
    if name == "natural":
        return _NATURAL
    if name == "adversarial":
        return f"Adversarial Training (AT) {str(config['inner']['attack']).upper()}"
    return f"Adversarial Training (AT) {name.upper()}"


def _structure(pattern: str) -> str:
    if pattern == "element":
        return "Unstructured (US)"
    return f"Structured (S) {pattern}{'s' if pattern.isalpha() else ''}"


def _model(result: Result, key: str) -> dict[str, Any]:
    config, model = result.config, result.model
    architecture = _ARCHITECTURES.get(config["model"]["name"], config["model"]["name"])
    data = _DATASETS.get(config["task"]["name"], config["task"]["name"])
    structure = "US" if config["search"]["pattern"] == "element" else "S"
    name = f"{key}_{architecture}_{data}_{structure}_{100 * (1 - model.density):.3g}"
    attacked = model.robust.get("autoattack")
    distances = _distances(result)
    fmn = None
    if distances:
        beyond = sum(r is None or r > _EPS_FMN for r in distances)
        fmn = 100 * beyond / len(distances)
    return {
        "key": re.sub(r"[^\w.-]", "-", name),
        "run": str(result.run),
        "seed": result.seed,
        "clean": 100 * model.clean.value,
        "autoattack": None if attacked is None else 100 * attacked.value,
        "fmn": fmn,
        "distances": distances,
    }


def _distances(result: Result) -> list[float | None] | None:
    path = result.run / "distances.json"
    if not path.exists():
        return None
    found = parse_json(read_text(path), source=str(path)).find(result.model.name)
    if found is None:
        return None
    return [None if one.value is None else one.number() for one in found.items()]


def _deviations(results: Sequence[Result], models: Sequence[Mapping[str, Any]]) -> list[str]:
    metrics, config = results[0].metrics, results[0].config
    structured = config["search"]["pattern"] != "element"
    wanted = (50, 75, 90) if structured else (90, 95, 99)
    found = sorted({round(100 * (1 - result.model.density), 1) for result in results})
    checks = (
        (
            config["task"]["name"] in _DATASETS,
            f"data {config['task']['name']}, not CIFAR10 or SVHN",
        ),
        (
            config["model"]["name"] in _ARCHITECTURES,
            f"network {config['model']['name']}, not ResNet18 or VGG16",
        ),
        (
            config["model"]["name"] != "preact_resnet18",
            "a pre-activation ResNet-18, not the benchmark's post-activation one",
        ),
        (
            set(found) >= set(wanted),
            f"sparsities {', '.join(f'{s:g}' for s in found)}%, where "
            f"{', '.join(map(str, wanted))}% are asked for",
        ),
        (
            len(found) == len(results),
            f"{len(results)} networks of {len(found)} sparsities; give one of each for an entry",
        ),
        (
            metrics.threat.norm == "linf" and abs(metrics.threat.eps - _EPS_AA) < 5e-4,
            f"{metrics.threat.norm} eps {metrics.threat.eps:g}, where AutoAttack is asked for at "
            f"linf {_EPS_AA}",
        ),
        (
            all(model["autoattack"] is not None for model in models),
            'no AutoAttack figure; run with --set "evaluation.more=[autoattack]"',
        ),
        (
            all(model["distances"] is not None for model in models),
            "no distances; run with --set evaluation.minimal=10000",
        ),
        (
            all(
                model["distances"] is None or len(model["distances"]) == result.model.clean.n
                for model, result in zip(models, results, strict=True)
            ),
            "distances of a part of the test examples; set evaluation.minimal to all of them",
        ),
        (False, "distances by FMN and FAB with fixed options, where tuned FMN (HO-FMN) is asked"),
    )
    return [text for holds, text in checks if not holds]


def _shown(percent: float | None) -> str:
    return "not measured" if percent is None else f"{percent:.2f}"
