"""Measure a saved causal language model: its perplexity, and how sparse it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import PGD
from robustprune.lm import adversarial_perplexity, perplexity, windows
from robustprune.measure import harness_tasks
from robustprune.models.causal import load_causal
from robustprune.pipeline.causal_metrics import figure_of
from robustprune.run.checkpoint import load_tensors
from robustprune.run.files import plain_file
from robustprune.run.sections import CausalSection
from robustprune.sparsity import MaskSet, maskable_layers, weights_of


def evaluate_causal(
    weights: str,
    text: str,
    section: CausalSection,
    *,
    attack: PGD | None = None,
    tasks: Sequence[str] = (),
    task_folder: Path | None = None,
    task_examples: int | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> dict[str, Any]:
    """Return what `robustprune evaluate` says of a causal language model.

    Args:
        weights: a folder, which may have masks.safetensors, or what else `load_causal` loads.
        text: the text whose consecutive windows are measured.
        section: says how the windows are cut, and how many are attacked.
        tasks, task_folder, task_examples: tasks of lm-eval, see `measure.harness_tasks`.
        options: options of `load_causal`.

    Raises:
        ValueError, FileNotFoundError: as in `load_causal` and `harness_tasks`; or the masks do not
            fit the network, or a masked weight is not zero.
    """
    language = load_causal(weights, **options)
    language.check_window(section.window, "causal.window")
    ids = language.tokens(text)
    rows = windows(ids, section.window, bos=language.bos)[: section.windows]
    network: Any = language.network.to(device)
    size = section.batch_size
    figures = (
        harness_tasks(
            network, language.tokenizer, tasks, folder=task_folder, examples=task_examples,
            batch_size=size,
        )
        if tasks
        else []
    )  # fmt: skip
    found: dict[str, Any] = {
        "model": weights,
        "type": str(network.config.model_type),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        "windows": len(rows),
        "window": section.window,
        "perplexity": figure_of(perplexity(network, rows, batch_size=size)),
        "attacked": None,
        "sparsity": _sparsity(network, Path(weights).expanduser()),
    }
    if attack is not None:
        seen = adversarial_perplexity(
            network, rows[: section.attacked], attack, bos=language.bos, batch_size=size
        )
        found["attacked"] = {**figure_of(seen), "eps": attack.threat.eps, "bound": "upper"}
    if tasks:
        found["tasks"] = [asdict(figure) for figure in figures]
    return found


def _sparsity(network: nn.Module, folder: Path) -> dict[str, Any]:
    """Return the share of weights that are zero, of each layer and in all; and the masks' share."""
    layers = weights_of(maskable_layers(network))
    zeros = {name: int((weight == 0).sum()) for name, weight in layers.items()}
    total = sum(weight.numel() for weight in layers.values())
    found: dict[str, Any] = {
        "zeros": sum(zeros.values()) / total,
        "weights": total,
        "layers": {name: zeros[name] / weight.numel() for name, weight in layers.items()},
        "masked": None,
    }
    file = folder / "masks.safetensors"
    if folder.is_dir() and (file.exists() or file.is_symlink()):
        masks = load_tensors(plain_file(file, within=folder))[0]
        _check_masks(network, masks, file)
        kept = MaskSet(masks)
        found["masked"] = {"sparsity": 1 - kept.density, "layers": len(masks)}
    return found


def _check_masks(network: nn.Module, masks: dict[str, Tensor], file: Path) -> None:
    weights = dict(network.named_parameters())
    for name, mask in masks.items():
        weight = weights.get(name)
        if weight is None or weight.shape != mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{file}: the mask {name!r} of shape {tuple(mask.shape)} fits no weight of the "
                "network; give the folder in which both were saved"
            )
        if bool(weight.detach().cpu()[~mask].any()):
            raise ValueError(
                f"{file} says that weights of {name!r} are pruned, and some of them are not zero; "
                "the weights were changed after they were pruned"
            )
