"""The tasks of EleutherAI's lm-eval, on a causal language model that is in memory already."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacks.inputs import check_at_least
from attacks.modes import evaluating
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown

#: the number of resamples, where lm-eval estimates a standard error by a bootstrap
RESAMPLES = 1000


@dataclass(frozen=True)
class TaskFigure:
    """A figure of one task.

    Attributes:
        task, metric: the names in lm-eval, such as "lambada_openai" and "acc".
        value: the figure; for shares a fraction.
        se: its standard error as lm-eval says it, or None.
        n: the number of examples.
        higher: whether a higher value is better, or None where lm-eval does not say.
    """

    task: str
    metric: str
    value: float
    se: float | None
    n: int
    higher: bool | None


def harness_tasks(
    network: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    folder: Path | str | None = None,
    examples: int | None = None,
    batch_size: int = 16,
    offline: bool = True,
    seed: int = 0,
) -> list[TaskFigure]:
    """Run tasks of lm-eval (Gao et al., EleutherAI) on a language model of transformers.

    The figures are those of ``lm_eval --model hf`` on the same weights. A task is code: its YAML
    names functions and templates. So give a folder only if you trust it like a Python file.

    Args:
        network: a `transformers.PreTrainedModel`, pruned or not, on its device.
        tokenizer: its tokenizer.
        tasks: names, such as "arc_easy".
        folder: tasks of your own, YAML files; then only these are known, else those that lm-eval
            brings.
        examples: the largest number of examples of a task; None for all.
        offline: download no data set, and take what is in the local cache; files that the tasks
            name are always read.
        seed: of the examples that are drawn for a prompt with examples.

    Returns:
        The figures, in the order of the tasks.

    Raises:
        ValueError: lm-eval is missing, a name is unknown, the network is none of transformers, or
            lm-eval cannot load the data of a task.
        FileNotFoundError: there is no such folder.
    """
    library = _library()
    check_at_least(1, batch_size=batch_size, **({} if examples is None else {"examples": examples}))
    if not tasks:
        raise ValueError("there are no tasks; name some, such as arc_easy")
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with tasks; give one with YAML files")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel

    if not isinstance(network, PreTrainedModel):
        raise ValueError(
            f"lm-eval needs a model of transformers, got {type(network).__name__}; give the "
            "network as it was loaded or pruned"
        )
    with _quiet(), _data_from_here(offline), torch.random.fork_rng(), evaluating(network):
        known = (
            TaskManager()
            if folder is None
            else TaskManager(include_path=str(Path(folder).expanduser()), include_defaults=False)
        )
        for name in tasks:
            if name not in known.all_tasks:
                raise ValueError(_unknown(name, known.all_tasks, folder))
        model = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size)
        try:
            found = library.simple_evaluate(
                model, tasks=list(tasks), task_manager=known, limit=examples,
                bootstrap_iters=RESAMPLES, log_samples=False, random_seed=None,
                numpy_random_seed=None, torch_random_seed=None, fewshot_random_seed=seed,
            )  # fmt: skip
        except Exception as error:  # the library and those below it raise many kinds
            said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ValueError(
                f"lm-eval cannot run {', '.join(tasks)}: {shown(said, 300)}"
            ) from error
    return _figures(found)


def _figures(found: dict[str, Any]) -> list[TaskFigure]:
    figures = []
    for task, values in found["results"].items():
        n = int(found["n-samples"][task]["effective"]) if task in found["n-samples"] else 0
        for key, value in values.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            se = values.get(f"{metric}_stderr,{chosen}")
            name = metric if chosen == "none" else f"{metric} ({chosen})"
            higher = found.get("higher_is_better", {}).get(task, {}).get(metric)
            spread = float(se) if isinstance(se, int | float) else None
            figures.append(TaskFigure(task, name, float(value), spread, n, higher))
    return figures


def _library() -> Any:
    try:
        import lm_eval
    except ImportError as error:
        raise ValueError(
            "tasks of lm-eval need that library; run pip install 'robustprune[harness]'"
        ) from error
    return lm_eval


def _unknown(name: str, known: Sequence[str], folder: Path | str | None) -> str:
    where = "lm-eval has" if folder is None else f"the YAML files in {folder} have"
    several = f"; use one of {', '.join(map(shown, known[:20]))}" if len(known) <= 20 else ""
    return f"{where} no task {shown(repr(name))}{did_you_mean(name, known)}{several}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Let lm-eval say only what went wrong, and resample in this process."""
    logger, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def _data_from_here(offline: bool) -> Iterator[None]:
    """Make the libraries that load data sets stay offline inside the context."""
    import datasets
    import huggingface_hub

    places: list[tuple[Any, str]] = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    ]
    before = [getattr(holder, name) for holder, name in places]
    try:
        for holder, name in places:
            setattr(holder, name, offline or getattr(holder, name))
        yield
    finally:
        for (holder, name), value in zip(places, before, strict=True):
            setattr(holder, name, value)
