"""Select adversarial examples as the config describes, and record the selection in the run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attacks import FGSM, PGD, ThreatModel
from robustprune.run.checkpoint import save_tensors
from robustprune.run.config import Config
from robustprune.run.rundir import SELECTION, RunDir
from robustprune.run.settings import SelectionSection
from robustprune.selection import (
    BoundaryDistance,
    Choose,
    DataShapley,
    Examples,
    HighestLoss,
    KnnShapley,
    Method,
    Pool,
    Random,
    Selection,
    Selective,
    TracIn,
    last_layer_utility,
    select_adversarial_examples,
)
from robustprune.tasks import BatchLoader, Split, text_names

#: the number of best and of worst examples whose waveforms are stored for the report
SHOWN = 3
#: for each option the methods that it belongs to
_OPTIONS_OF = {
    "neighbours": ("knn_shapley",),
    "permutations": ("data_shapley",),
    "values": ("knn_shapley", "data_shapley", "tracin"),
}
_SIGNED = ("knn_shapley", "data_shapley", "tracin")


def check_selection(config: Config) -> None:
    """Refuse a selection that can't work, before anything is written.

    Raises:
        ValueError: the objective can't use chosen examples, or an option does not fit the method.
    """
    section = config.selection
    if section.method == "none":
        return
    if config.objective.name != "adversarial":
        raise ValueError(
            f"selection.method {section.method} needs objective.name adversarial, got "
            f"{config.objective.name}; set selection.method to none for it"
        )
    if config.task.name in text_names():
        raise ValueError(
            f"selection.method {section.method} is for images, series and features; set it to "
            f"none for task {config.task.name}"
        )
    for option, methods in _OPTIONS_OF.items():
        value, default = getattr(section, option), SelectionSection.model_fields[option].default
        if section.method not in methods and value != default:
            raise ValueError(
                f"selection.{option}: {value} has no effect with method {section.method}; it goes "
                f"with {', '.join(methods)}; leave it out"
            )
    signed = section.method in _SIGNED
    if section.keep == "positive" and not signed:
        raise ValueError(
            f"selection.keep positive needs a method with a sign, one of {', '.join(_SIGNED)}, "
            f"got {section.method}; give a fraction"
        )
    if section.weighted and signed and section.keep != "positive":
        raise ValueError(
            f"selection.weighted needs scores of at least zero, which {section.method} gives with "
            "selection.keep positive only"
        )


def check_length(section: SelectionSection, name: str, epochs: int) -> None:
    """Refuse a selection that would begin after the end of the training of that name.

    Raises:
        ValueError: the training has no more epochs than come before the first selection.
    """
    if section.method != "none" and epochs <= section.start:
        raise ValueError(
            f"selection.start: {section.start} leaves the {epochs} epochs of {name} without a "
            "selection; set it below them"
        )


def selective(
    config: Config,
    threat: ThreatModel,
    loader: BatchLoader,
    attack: FGSM | PGD,
    held_out: Split | None,
    on_selection: Callable[[Selective], None],
) -> Selective:
    """Return the objective that trains on the examples which the config's method chooses."""
    section, split = config.selection, loader.split
    if section.pool_steps is None:
        pool_attack = attack
    else:
        pool_attack = PGD(threat, steps=section.pool_steps, mode=config.inner.mode)
    values = None if held_out is None else held_out.to(split.y.device)
    return Selective(
        loader,
        attack,
        chooser(section, threat, pool_attack, values, seed=config.seed),
        x=split.x,
        y=split.y,
        pool_attack=pool_attack,
        start=section.start,
        every=section.every,
        clean_rest=section.clean_rest,
        warmup=config.inner.warmup,
        batch_size=config.evaluation.batch_size,
        on_selection=on_selection,
    )


def chooser(
    section: SelectionSection,
    threat: ThreatModel,
    pool_attack: FGSM | PGD,
    held_out: Split | None,
    *,
    seed: int,
) -> Choose:
    """Return the config's method as a function of the network and its candidates.

    Candidates are scored by the held-out examples, or by the training examples if there are none.
    These are attacked unless the config says "clean".
    """

    def validation(model: nn.Module, pool: Pool) -> Examples:
        attacked = section.values == "attacked"
        if held_out is not None:
            x = pool_attack(model, held_out.x, held_out.y) if attacked else held_out.x
            return x, held_out.y
        assert pool.x is not None, "Selective gives the clean examples"
        return pool.x_adv if attacked else pool.x, pool.y

    def method(model: nn.Module, pool: Pool, values: Examples, epoch: int) -> Method:
        if section.method == "knn_shapley":
            return KnnShapley(k=section.neighbours)
        if section.method == "data_shapley":
            utility = last_layer_utility(model, pool, values)
            return DataShapley(utility, section.permutations, seed=seed + epoch)
        if section.method == "tracin":
            return TracIn([model.state_dict()], [1.0])
        if section.method == "boundary":
            return BoundaryDistance(threat)
        return HighestLoss() if section.method == "loss" else Random(seed=seed + epoch)

    def choose(model: nn.Module, pool: Pool, epoch: int) -> Selection:
        values = validation(model, pool)
        return select_adversarial_examples(
            model,
            pool,
            values,
            method=method(model, pool, values, epoch),
            keep=section.keep,
            balanced=section.balanced and section.keep != "positive",
            weighted=section.weighted,
        )

    return choose


def record(folder: RunDir, name: str, selective: Selective) -> None:
    """Write what was selected in a model's training, with the best and worst of the last selection.

    selection.safetensors has `epochs` (R,), `scores` and `weights` (R, N), `labels` (N,); `shown`
    (S,), the best candidates and then the worst ones, and their `x_adv` and `x` (S, ...).
    """
    pool, last = selective.pool, selective.selections[-1]
    assert pool is not None, "called after a selection"
    assert pool.x is not None, "Selective gives the clean examples"
    ranked = last.scores.argsort(descending=True, stable=True)
    few = min(SHOWN, len(ranked) // 2)
    shown = torch.cat((ranked[:few], ranked.flip(0)[:few]))
    tensors = selective.state_dict() | {
        "labels": pool.y,
        "shown": shown,
        "x_adv": pool.x_adv[shown],
        "x": pool.x[shown],
    }
    save_tensors(folder.checkpoint(name).with_name(SELECTION), tensors)
