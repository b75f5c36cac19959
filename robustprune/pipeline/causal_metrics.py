"""What metrics.json says of a run on a causal language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from robustprune.lm import Perplexity
from robustprune.pipeline.causal_run import DENSE, CausalRun, Pruned
from robustprune.run.content import file_digest
from robustprune.run.fingerprint import described
from robustprune.sparsity import coverage

#: what metrics.json says that it is about
KIND = "causal"


def metrics_of(run: CausalRun, entries: list[dict[str, Any]]) -> dict[str, Any]:
    config, section, corpus = run.config, run.config.causal, run.corpus
    attack = run.attack()
    return {
        "schema": 1,
        "kind": KIND,
        "run": config.name,
        "seed": config.seed,
        "headline": entries[1]["name"],
        "task": {
            "name": corpus.name,
            "source": corpus.source,
            "windows": len(run.evaluation),
            "window": section.window,
            "calibration": len(run.calibration),
            "calibration_window": section.calibration_window,
        },
        "model": {
            "weights": str(config.model.options.get("weights", "stories260K")),
            "type": str(cast(Any, run.language.network).config.model_type),
            "parameters": sum(p.numel() for p in run.language.network.parameters()),
            "dtype": str(next(run.language.network.parameters()).dtype).removeprefix("torch."),
            "vocabulary": run.language.vocabulary,
        },
        "attack": None if attack is None else {
            "description": described(attack), "norm": "l2", "eps": section.eps, "bound": "upper",
            "windows": min(section.attacked, len(run.evaluation)),
            "unit": "word embeddings of a window",
        },
        "prompt": run.language.tokenizer.decode(
            run.evaluation[0, 1 : section.prompt], skip_special_tokens=True
        ),
        "networks": entries,
    }  # fmt: skip


def entry_of(
    run: CausalRun,
    pruned: Pruned,
    content: Mapping[str, Any],
    dense: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what metrics.json says of a network."""
    own, whole = perplexity_of(content, "losses"), perplexity_of(dense, "losses")
    attacked = perplexity_of(content, "attacked") if "attacked" in content else None
    entry: dict[str, Any] = {
        "name": pruned.name,
        "title": pruned.title,
        "method": pruned.method.title_of(run.config) if pruned.method else DENSE,
        "level": pruned.level.title if pruned.level else None,
        "perplexity": figure_of(own),
        "ratio": None,
        "attacked": None if attacked is None else figure_of(attacked),
        "unattacked": None if attacked is None else figure_of(_first(own, len(attacked.losses))),
        "continuation": content.get("continuation"),
        "speed": content.get("speed"),
        "density": 1.0,
        "whole_density": 1.0,
        "layers": [],
        "files": {},
    }
    if pruned.masks is not None:
        covered = coverage(pruned.network, pruned.masks)
        folder = run.folder.path / "models" / pruned.name
        entry |= {
            "ratio": {
                "value": _finite(own.ratio(whole)),
                "ci95": [_finite(end) for end in own.ratio_interval(whole)],
            },
            "density": pruned.masks.density,
            "whole_density": covered.whole_density,
            "layers": [
                {
                    "name": layer.name,
                    "kept": layer.kept,
                    "total": layer.total,
                    "density": layer.density,
                }
                for layer in pruned.masks.layers()
            ],
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in sorted(folder.glob("*.safetensors"))
            },
        }
    return entry


def perplexity_of(content: Mapping[str, Any], key: str) -> Perplexity:
    """Return the perplexity of the losses by window that are stored under a name."""
    return Perplexity(torch.tensor(content[key], dtype=torch.float64), int(content["tokens"]))


def _first(found: Perplexity, number: int) -> Perplexity:
    """Return the perplexity of the first windows."""
    return Perplexity(found.losses[:number], found.tokens)


def figure_of(found: Perplexity) -> dict[str, Any]:
    """Return a perplexity, its interval and its number of windows, in the form of metrics.json."""
    return {
        "value": _finite(found.value),
        "ci95": [_finite(end) for end in found.interval()],
        "windows": len(found.losses),
    }


def _finite(value: float) -> float | None:
    """Return the value, or None if it is infinite, for which JSON has no number."""
    return value if value < float("inf") else None
