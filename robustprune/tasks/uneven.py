"""Refuse or repair series with missing values or of unequal length, as the user chooses."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robustprune.run.files import check_memory
from robustprune.run.suggest import did_you_mean
from robustprune.tasks.series_formats import Channel, Example, SeriesFile

Length = Literal["refuse", "pad", "truncate"]
Missing = Literal["refuse", "interpolate", "zero"]


def stack(*files: SeriesFile, length: Length, missing: Missing) -> list[Tensor]:
    """Stack the series of each file, which may be the training and the test split, as (N, C, L)
    float32.

    Missing values are filled first, in each channel separately. L is the same for all files,
    because one network reads them.

    Args:
        length: "refuse" unequal lengths, "pad" with zeros at the end to the longest series, or
            "truncate" to the shortest.
        missing: "refuse" missing values, "interpolate" between the neighbours in time (the first
            and last known values are repeated to the ends), or fill them with "zero".

    Raises:
        ValueError: something is refused (the message names the option that allows it), an option is
            unknown, train and test have different numbers of channels, a channel has no value to
            interpolate, or padding would take more than `run.files.memory_limit`.
    """
    _check_option("length", length, get_args(Length))
    _check_option("missing", missing, get_args(Missing))
    first, *others = files
    channels = len(first.examples[0])
    for other in others:
        if len(other.examples[0]) != channels:
            raise ValueError(
                f"{other.where} has {len(other.examples[0])} channels and {first.where} "
                f"{channels}; make them the same"
            )
    where = " and ".join(file.where for file in files)
    filled = [_filled(file, missing) for file in files]
    lengths = [len(channel) for part in filled for example in part for channel in example]
    shortest, longest = min(lengths), max(lengths)
    if length == "refuse" and shortest < longest:
        raise ValueError(
            f"{where}: series of {shortest} to {longest} steps; set the "
            "option length to 'pad' (zeros at the end) or 'truncate' (to the shortest)"
        )
    steps = shortest if length == "truncate" else longest
    held, rows = 4 * sum(lengths), sum(len(part) for part in filled)
    what = f"{where}: {rows} series of {channels} channels and {steps} steps"
    check_memory(4 * rows * channels * steps, what, held=held)
    return [_stacked(part, channels, steps) for part in filled]


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"option {name}={value!r} is not known{did_you_mean(value, allowed)}; "
            f"choose one of {', '.join(allowed)}"
        )


def _filled(file: SeriesFile, missing: Missing) -> list[Example]:
    """Return the examples without NaN."""
    counts = [sum(int(np.isnan(channel).sum()) for channel in ex) for ex in file.examples]
    if not any(counts):
        return file.examples
    if missing == "refuse":
        first = next(row for row, count in enumerate(counts) if count)
        raise ValueError(
            f"{file.where}: {sum(counts)} missing values in {np.count_nonzero(counts)} of "
            f"{len(counts)} series, the first in series {first}; set the option missing to "
            "'interpolate' or 'zero', or fill them yourself"
        )
    if missing == "zero":
        return [[np.nan_to_num(channel, nan=0.0) for channel in ex] for ex in file.examples]
    return [
        [_interpolated(channel, f"{file.where}, series {row}") for channel in example]
        for row, example in enumerate(file.examples)
    ]


def _interpolated(channel: Channel, where: str) -> Channel:
    known = np.flatnonzero(~np.isnan(channel))
    if len(known) == 0:
        raise ValueError(
            f"{where}: a channel has no value at all to interpolate; set the option missing to "
            "'zero', or remove the series"
        )
    return np.interp(np.arange(len(channel)), known, channel[known])


def _stacked(examples: list[Example], channels: int, steps: int) -> Tensor:
    out = np.zeros((len(examples), channels, steps), dtype=np.float32)
    for row, example in enumerate(examples):
        for number, channel in enumerate(example):
            with np.errstate(over="ignore"):  # it becomes infinity, which `check_examples` refuses
                out[row, number, : len(channel)] = channel[:steps]
    return torch.from_numpy(out)
