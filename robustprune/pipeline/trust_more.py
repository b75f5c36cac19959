"""The measures of `robustprune trust` that are asked for by name, because they take longer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from torch import Tensor

from robustprune.pipeline.again import kept_alone, seconds_of
from robustprune.pipeline.shared import Run
from robustprune.pipeline.trust_page import Asked
from robustprune.pipeline.trust_retrained import Pair, backdoor, lira
from robustprune.pipeline.trust_sets import class_sets
from robustprune.report.trust_sections import Section
from robustprune.run.config import Config
from robustprune.run.progress import duration
from robustprune.run.rundir import RunDir
from robustprune.run.runtime import ranks
from robustprune.run.terminal import printable

_CAUSAL = ("leakage", "set-difference")
_CLASSIFIER = ("lira", "backdoor", "set-difference")
_TRAINING = ("lira", "backdoor", "leakage")


def check_more(asked: Asked, config: Config, *, causal: bool, text: bool = False) -> None:
    """Refuse measures that make no sense for a run, before anything is computed.

    Args:
        causal: whether the run is of a causal language model.
        text: whether it classifies sentences.

    Raises:
        ValueError: there is such a measure, or an option has no effect.
    """
    for name in asked.more:
        if name not in (_CAUSAL if causal else _CLASSIFIER):
            kind = "causal language models" if causal else "classifiers"
            other = _CAUSAL if causal else _CLASSIFIER
            raise ValueError(f"{name} is no measure of {kind}; choose one of {', '.join(other)}")
        if name in _TRAINING and ranks() > 1:
            raise ValueError(f"{name} trains in one process, not on {ranks()} ranks; leave it out")
        if text and name in ("lira", "backdoor"):
            raise ValueError(
                f"{name} trains on images, series or features, and this run classifies sentences; "
                "leave it out"
            )
        if name in ("lira", "backdoor") and config.selection.method != "none":
            raise ValueError(
                f"{name} trains on other examples, and this run selects examples while it trains; "
                "leave it out"
            )
    differs = "set-difference" in asked.more
    if asked.sets is not None and not (causal and differs):
        raise ValueError(
            "two texts have an effect only on set-difference of a causal language model; leave "
            "them out"
        )
    if causal and differs and asked.sets is None:
        raise ValueError(
            "set-difference of a causal language model compares two texts; give --sets FIRST "
            "SECOND (in a config: trust.sets)"
        )


def classifier_sections(
    run: Run, pair: Pair, asked: Asked, x: Tensor, y: Tensor
) -> tuple[Section, ...]:
    """Measure what is asked for.

    Args:
        x, y: test examples, on the run's device.
    """
    found = {
        "lira": lambda: lira(run, pair, shadows=asked.shadows, examples=asked.examples),
        "backdoor": lambda: backdoor(run, pair, x, y),
        "set-difference": lambda: class_sets(run, pair, x, y, examples=asked.examples),
    }
    with kept_alone(run.folder) if set(asked.more) & set(_TRAINING) else nullcontext():
        return tuple(found[name]() for name in dict.fromkeys(asked.more))


def say_costs(folder: RunDir, asked: Asked, names: Sequence[str]) -> None:
    """Print a line on each measure that trains networks of classifiers, on stderr."""
    for line in costs(folder, asked, names):
        print(printable(line), file=sys.stderr)


def costs(folder: RunDir, asked: Asked, names: Sequence[str]) -> Iterator[str]:
    """Yield a line on each measure that trains networks of classifiers, with the time by that of
    the run's own trainings."""
    # a pruned network starts from the adversarially trained one
    once = seconds_of(folder, tuple(dict.fromkeys(("adversarial", *names))))
    for name, times in (("lira", asked.shadows), ("backdoor", 1)):
        if name in asked.more:
            time = f"about {duration(times * once)}" if once else "as long as the run's own"
            yield (
                f"{name}: trains {' and '.join(names)} {times} more time{'s' * (times > 1)} "
                f"({time}); the same command goes on if you stop it"
            )
