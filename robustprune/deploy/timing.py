"""Measure the time of several networks side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


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


def seconds_within(model: nn.Module, layers: Sequence[nn.Module], x: Tensor) -> list[float]:
    """Return how long each layer takes in one call of the network on x, in inference mode.

    A layer that is called several times has the sum, and one that is not called has 0.
    """
    seconds, started = [0.0] * len(layers), [0.0] * len(layers)

    def begin(number: int) -> None:
        _wait(x.device)
        started[number] = time.perf_counter()

    def end(number: int) -> None:
        _wait(x.device)
        seconds[number] += time.perf_counter() - started[number]

    handles = []
    for number, layer in enumerate(layers):
        handles += [
            layer.register_forward_pre_hook(lambda *_, number=number: begin(number)),
            layer.register_forward_hook(lambda *_, number=number: end(number)),
        ]
    try:
        with torch.inference_mode():
            model(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
