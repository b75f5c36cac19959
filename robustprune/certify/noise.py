"""Count a network's answers on noisy copies of each example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from attacks import Model, evaluating
from attacks.inputs import check_finite, check_values
from attacks.network import logits_of
from robustprune.run.progress import Progress

#: (positions of some examples, samples of each) -> counts of each class: (rows, C) int64
Counter = Callable[[Tensor, int], Tensor]

#: how many numbers are drawn at a time; the noise depends on it, so it must not be changed
_PIECE = 2**20


@contextmanager
def counting(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    seed: int,
    batch_size: int | None,
    most: int | None,
    title: str,
    quiet: bool,
    support: Callable[[Tensor], Tensor] | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Counter]:
    """Yield a function that counts the model's answers on x + σ·N(0, I), example by example.

    Example number i has its own random stream, seeded by (seed, i). So it gets the same noise
    whatever the batch size is and whatever is drawn for others, and every call continues the stream
    with new numbers. A batch consists of pairs (example, noise), so that the device is busy if
    there are many examples or many samples. Inside, the module is in eval mode.

    Args:
        x: (N, ...) floating point.
        batch_size: the number of pairs in one forward pass; None for as many as the device takes,
            see `as_many`. A batch that runs out of memory is split in halves.
        most: the largest number of samples per example in all, which is the length of the progress
            bar; None if it is not known.
        support: where there is noise, as in `ThreatModel`; None for everywhere.
        numbers: the number i of each example; None for its position in x.

    Raises:
        ValueError: x is not finite; or, from the function, the model does not return logits (N, C)
            with C ≥ 2, or returns NaN.
    """
    check_values(x, None)  # otherwise errors would blame the network for NaN in x
    numbers = range(len(x)) if numbers is None else numbers
    seeds = (np.random.SeedSequence([seed, i]).generate_state(1)[0] for i in numbers)
    streams = [torch.Generator(x.device).manual_seed(int(one)) for one in seeds]
    size = batch_size or as_many(x)
    total = None if most is None else len(x) * most
    bar = Progress(total, title=title, unit="sample", quiet=quiet)

    def answers(batch: Tensor) -> tuple[Tensor, int]:
        nonlocal size
        try:
            parts = [_answers(model, part) for part in torch.split(batch, size)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = max(1, min(size, len(batch)) // 2)
            return answers(batch)
        return torch.cat([part for part, _ in parts]), parts[0][1]

    def count(rows: Tensor, samples: int) -> Tensor:
        if len(rows) == 0:
            return torch.zeros(0, 2, dtype=torch.int64)
        counts: Tensor | None = None
        noisy = _noisy(x, rows.tolist(), streams, sigma, samples, support)
        for owner, batch in _batches(noisy, size):
            answer, classes = answers(batch)
            if counts is None:
                counts = torch.zeros(len(rows), classes, dtype=torch.int64, device=x.device)
            index = torch.tensor(owner, device=x.device)
            counts.index_put_((index, answer), torch.ones_like(index), accumulate=True)
            bar.update(len(batch))
        assert counts is not None, "at least one sample is needed"
        return counts.cpu()

    with evaluating(model), torch.no_grad(), bar:
        yield count


def as_many(x: Tensor) -> int:
    """Return the number of inputs in one pass. On a CPU, whose caches hold no more activations,
    these are 256 inputs or 16 MiB of float32; elsewhere 128 MiB, which is halved if needed."""
    size = max(1, x.shape[1:].numel())
    return max(1, min(256, 2**22 // size) if x.device.type == "cpu" else 2**25 // size)


def _answers(model: Model, x: Tensor) -> tuple[Tensor, int]:
    """Return the class of every row, and the number of classes."""
    logits = logits_of(model, x)
    if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.shape)} for {len(x)} examples; smoothing "
            "needs logits of shape (N, C) with C ≥ 2"
        )
    check_finite(logits)
    return logits.argmax(1), logits.shape[1]


def _noisy(
    x: Tensor,
    rows: Sequence[int],
    streams: Sequence[torch.Generator],
    sigma: float,
    samples: int,
    support: Callable[[Tensor], Tensor] | None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (position in `rows`, some noisy copies of that example), one example after the
    other."""
    most = max(1, _PIECE // x[0].numel())
    for position, row in enumerate(rows):
        allowed = None if support is None else support(x[row : row + 1])
        for start in range(0, samples, most):
            shape = (min(most, samples - start), *x.shape[1:])
            noise = torch.randn(shape, generator=streams[row], device=x.device, dtype=x.dtype)
            yield position, x[row] + sigma * (noise if allowed is None else noise * allowed)


def _batches(
    parts: Iterator[tuple[int, Tensor]], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the same copies in the same order, `batch_size` at a time, with the position of
    each."""
    owner: list[int] = []
    held: list[Tensor] = []
    for position, noisy in parts:
        while len(noisy):
            taken, noisy = noisy[: batch_size - len(owner)], noisy[batch_size - len(owner) :]
            held.append(taken)
            owner += [position] * len(taken)
            if len(owner) == batch_size:
                yield owner, torch.cat(held)
                owner, held = [], []
    if owner:
        yield owner, torch.cat(held)
