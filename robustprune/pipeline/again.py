"""Train a network of a run once more, as the run trained it, on other examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from robustprune.pipeline.fit import Fitted, fit_dense, fit_finetuned
from robustprune.pipeline.methods import methods_of
from robustprune.pipeline.searches import Sources
from robustprune.pipeline.shared import Run
from robustprune.run.files import no_links
from robustprune.run.rundir import RunDir
from robustprune.run.terminal import shown
from robustprune.tasks import Split

#: the folder of such networks inside the run directory
FOLDER = "trust"
_MADE = "made.json"


def run_on(
    run: Run, x: Tensor, y: Tensor, name: str, *, seed: int = 0, made: dict[str, Any]
) -> Run:
    """Return the run with other training examples, which keeps its networks in `trust/name`.

    A network that is stored there is not trained again, and a training that was interrupted goes
    on.

    Args:
        seed: is added to that of the run, so that other first weights are drawn.
        made: how the examples were made; a folder with other ones is refused.

    Raises:
        ValueError: the folder is a link, or holds networks that were made differently.
    """
    folder = subfolder(run.folder, name, {**made, "seed": seed, "examples": len(y)})
    config = run.config.model_copy(update={"seed": run.config.seed + seed})
    examples = Split(x.cpu(), y.cpu())
    return replace(run, config=config, training=examples, folder=folder, teacher=None, quiet=True)


@contextmanager
def kept_alone(folder: RunDir) -> Iterator[None]:
    """Keep other processes out of the folder `trust` of a run.

    Raises:
        ValueError: another process trains there, or it is a link.
    """
    path = folder.path / FOLDER
    no_links(path, within=folder.path)
    path.mkdir(exist_ok=True)
    with RunDir(path).alone():
        yield


def subfolder(folder: RunDir, name: str, made: dict[str, Any]) -> RunDir:
    """Return `trust/name` in a run directory, which is made if it does not exist.

    Raises:
        ValueError: it is a link, or holds what was made differently.
    """
    path = folder.path / FOLDER / name
    no_links(path, within=folder.path)
    path.mkdir(parents=True, exist_ok=True)
    inside = RunDir(path)
    if not inside.has(_MADE):
        inside.write_json(_MADE, made)
    elif inside.read_json(_MADE) != made:
        raise ValueError(f"{path} was made with other options; delete it to start over")
    return inside


def made_again(run: Run, name: str) -> Fitted:
    """Train the network of this name on the examples of `run`, or load it if that was done before.

    Raises:
        ValueError: the config makes no network of this name.
    """
    config = run.config
    if name == "natural":
        return fit_dense(run, name, config.natural, robust=False)
    adversarial = fit_dense(run, "adversarial", config.adversarial, robust=True)
    if name == "adversarial":
        return adversarial
    run = replace(run, teacher=adversarial.model)
    for method in methods_of(config):
        for density in method.densities(config):
            own = method.model_name(config, density)
            if name != own and not name.startswith(f"{own}-"):
                continue
            section = getattr(config, method.section)
            natural = adversarial
            if getattr(section, "weights", "random") == "natural":
                natural = fit_dense(run, "natural", config.natural, robust=False)
            found = method.search(run, density, own, Sources(natural, adversarial))
            made = {one.name: one for one in (found.ticket, *found.controls)}
            mode = next((m for m in config.finetune.modes if name == f"{own}-{m}"), None)
            if mode is not None and not method.trained:
                return fit_finetuned(run, found.ticket, mode)
            if name in made:
                return made[name]
    raise ValueError(f"{shown(name)} is none of the networks that the run's config makes")


def seconds_of(folder: RunDir, names: tuple[str, ...]) -> float:
    """Return how long the run's own trainings of these networks took, as far as it is written
    down."""
    total = 0.0
    for name in names:
        path: Path = folder.path / "models" / name / "history.jsonl"
        if path.is_file():
            total += sum(_seconds(line) for line in path.read_text("utf-8").splitlines())
    return total


def _seconds(line: str) -> float:
    try:
        found = json.loads(line)
        return float(found["seconds"])
    except (ValueError, KeyError, TypeError):
        return 0.0
