"""Prune a causal language model by each method at each level, measure, and write the report.

Nothing is trained. Every network is a folder of Hugging Face's transformers in the run directory,
with its masks beside it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.layerwise import prune_layerwise
from robustprune.lm import Perplexity, adversarial_perplexity, perplexity
from robustprune.minmax import Checkpoint
from robustprune.models.causal import stored_network
from robustprune.models.language import quiet_transformers
from robustprune.pipeline.causal_run import CausalRun, Level, levels_of, searches_of
from robustprune.pipeline.methods import Method
from robustprune.pipeline.trust_causal import trust_language
from robustprune.pipeline.trust_page import Asked
from robustprune.report import write_report
from robustprune.run.content import file_digest
from robustprune.run.fingerprint import described
from robustprune.run.runtime import seed_stage
from robustprune.run.terminal import printable
from robustprune.search import Ticket
from robustprune.sparsity import MaskSet, coverage

#: what metrics.json says that it is about
KIND = "causal"
DENSE = "dense"


@dataclass(frozen=True)
class Pruned:
    """A network of the run. The dense one has no masks, method and level."""

    name: str
    title: str
    network: nn.Module
    masks: MaskSet | None = None
    method: Method | None = None
    level: Level | None = None


def prune_causal(run: CausalRun) -> dict[str, Any]:
    """Run the config of a causal language model.

    Each network is stored when it is found, and measured after that; both are skipped where their
    files are there, and a walk over layers goes on behind its last one.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: another process uses the run directory, or a file there is damaged.
    """
    with run.folder.alone():
        whole = Pruned(DENSE, DENSE, run.language.network)
        dense = _measured(run, whole)
        entries = [_entry(run, whole, dense, dense)]
        for method, level in searches_of(run.config):
            pruned = _pruned(run, method, level)
            entries.append(_entry(run, pruned, _measured(run, pruned), dense))
            del pruned  # before the next one is made
        metrics = _metrics(run, entries)
        run.folder.write_json("metrics.json", metrics)
        write_report(run.folder.path)
        run.folder.log("report")
        if run.config.trust.examples is not None:
            trust_language(run, Asked(examples=run.config.trust.examples))
        return metrics


def _pruned(run: CausalRun, method: Method, level: Level) -> Pruned:
    """Prune and store, or load what an earlier run of the same command stored."""
    name = f"{method.name}-{level.key}"
    if not run.folder.has_model(name):
        seed_stage(run.config.seed, name)
        run.folder.log("start", model=name)
        ticket = _search(run, method, level, name)

        def write(folder: Path) -> None:
            with quiet_transformers():
                cast(Any, ticket.model).save_pretrained(folder)
                run.language.tokenizer.save_pretrained(folder)

        run.folder.save_folder(name, write, ticket.masks, ticket.history)
        run.folder.log("done", model=name, loss=ticket.history[-1].loss)
    # Always load the files, so that the stored model is the measured one.
    masks = run.folder.load_masks(name)
    network = stored_network(run.folder.path / "models" / name)
    title = f"{method.title_of(run.config)}, {level.title}"
    return Pruned(name, title, network, MaskSet(masks), method, level)


def _search(run: CausalRun, method: Method, level: Level, name: str) -> Ticket:
    assert method.causal is not None, "`check_causal` refuses these"
    config = run.config
    options = method.causal(config)
    if ":" in level.pattern:
        options.pop("allocate", None)  # the pattern fixes what each layer keeps
    origin = f"{name} of {run.folder.path.parent.name}, seed {config.seed}"
    place = Checkpoint(run.folder.checkpoint(name), run.checkpoint_seconds, origin=origin)
    drawn = run.calibration
    size = 2 * config.causal.batch_size
    batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
    return prune_layerwise(
        run.language.network,
        [{"input_ids": ids} for ids in batches],
        density=level.density,
        pattern=level.pattern,
        dense=config.search.dense,
        seed=config.seed,
        device=run.device,
        offload=config.causal.offload,
        checkpoint=place,
        **options,
    )


def _measured(run: CausalRun, pruned: Pruned) -> dict[str, Any]:
    """Measure a network, or read what was measured: losses by window, clean and attacked, and how
    it goes on with the text."""
    file = f"measured/{pruned.name}.json"
    if not run.folder.has(file):
        pruned.network.to(run.device)
        section = run.config.causal
        found: dict[str, Any] = {
            "tokens": run.evaluation.shape[1] - 1,
            "losses": _losses(
                perplexity(pruned.network, run.evaluation, batch_size=section.batch_size)
            ),
        }
        attack = run.attack()
        if attack is not None and pruned.level in (None, levels_of(run.config)[0]):
            found["attacked"] = _losses(
                adversarial_perplexity(
                    pruned.network,
                    run.evaluation[: section.attacked],
                    attack,
                    bos=run.language.bos,
                    batch_size=section.batch_size,
                )
            )
        if section.continuation:
            found["continuation"] = continued(
                run.language.tokenizer,
                pruned.network,
                run.evaluation[0, : section.prompt],
                section.continuation,
            )
        if run.config.causal.offload:
            pruned.network.to("cpu")
        run.folder.write_json(file, found)
        run.folder.log("measured", model=pruned.name)
        if not run.quiet:
            value = perplexity_of(found, "losses").value
            print(printable(f"{pruned.title}: perplexity {value:.4g}"), file=sys.stderr)
    content = run.folder.read_json(file)
    if not isinstance(content, dict) or len(content.get("losses", ())) != len(run.evaluation):
        raise ValueError(
            f"{run.folder.path / file} is not what this run measures; delete it to start over"
        )
    return content


def perplexity_of(content: Mapping[str, Any], key: str) -> Perplexity:
    """Return the perplexity of the losses by window that are stored under a name."""
    return Perplexity(torch.tensor(content[key], dtype=torch.float64), int(content["tokens"]))


def seconds_of_measuring(run: CausalRun, networks: int) -> float:
    """Estimate the time of so many perplexities from one batch of windows."""
    size = run.config.causal.batch_size
    batch = run.evaluation[:size]
    perplexity(run.language.network, batch[:1])  # first calls are slower
    began = time.perf_counter()
    perplexity(run.language.network, batch, batch_size=size)
    return (time.perf_counter() - began) * len(run.evaluation) / len(batch) * networks


def _first(found: Perplexity, number: int) -> Perplexity:
    """Return the perplexity of the first windows."""
    return Perplexity(found.losses[:number], found.tokens)


def _losses(found: Perplexity) -> list[float]:
    return cast("list[float]", found.losses.tolist())


@torch.no_grad()
def continued(tokenizer: Any, network: nn.Module, prompt: Tensor, number: int) -> str:
    """Return the text of the `number` tokens with which a network goes on, each of which is the
    most probable one."""
    where = next(network.parameters()).device
    ids = prompt.unsqueeze(0).to(where)
    with evaluating(network):
        whole = cast(Any, network).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=number,
            do_sample=False,
            pad_token_id=int(prompt[0]),
        )
    text: str = tokenizer.decode(whole[0, len(prompt) :], skip_special_tokens=True)
    return text


def _metrics(run: CausalRun, entries: list[dict[str, Any]]) -> dict[str, Any]:
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


def _entry(
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
