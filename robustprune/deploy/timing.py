"""Measure the time of several networks side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def time_in_turns(
    models: Sequence[Callable[[Tensor], Any]], x: Tensor, *, repeats: int, warmup: int = 3
) -> list[list[float]]:
    """Return the seconds of `repeats` calls of each model on x, in inference mode.

    The models take turns, so that other load on the machine slows all of them alike. Before each
    timed call there is one that is not timed, so that caches hold this model's weights, as in use.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats} must be at least 1")
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for turn in range(warmup + repeats):
            for model, seconds in zip(models, times, strict=True):
                model(x.clone())
                given = x.clone()  # some networks work in place on their input
                _wait(x.device)
                started = time.perf_counter()
                model(given)
                _wait(x.device)
                if turn >= warmup:
                    seconds.append(time.perf_counter() - started)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
