"""The measure "set-difference" of `robustprune trust` for causal language models: two texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustprune.lm.perplexity import perplexity
from robustprune.lm.windows import random_windows, windows
from robustprune.measure import brittleness
from robustprune.minmax import Batches
from robustprune.pipeline.trust_retrained import Pair
from robustprune.pipeline.trust_sets import TOP, difference_section
from robustprune.report.trust_sections import Section
from robustprune.tasks import load_corpus

#: the largest number of windows of each text that are measured
_WINDOWS = 64


def text_sets(
    pair: Pair,
    files: tuple[Path, Path],
    tokens: Callable[[str], Sequence[int]],
    *,
    bos: int,
    length: int,
    number: int,
    dense: tuple[str, ...],
    batch_size: int,
    seed: int,
    field: str,
) -> Section:
    """Compare two texts: windows of their first parts choose, those of their last parts measure.

    Args:
        files: two texts, as in `tasks.load_corpus`.
        tokens: text -> ids.
        length, number: of the windows that choose.

    Raises:
        ValueError, FileNotFoundError: a file can't be read, or is too short for a window.
    """
    drawn, measured = [], []
    for file in files:
        corpus = load_corpus("corpus", path=file, field=field)
        ids, rest = tokens(corpus.train), tokens(corpus.test)
        drawn.append(random_windows(ids, length, number, bos=bos, seed=seed))
        measured.append(windows(rest, length, bos=bos)[:_WINDOWS])
    if min(map(len, measured)) < 2:
        raise ValueError(f"each of the two texts must give two windows of {length} tokens")

    def batches(ids: Tensor) -> Batches:
        return [{"input_ids": part} for part in torch.split(ids, batch_size)]

    def losses(network: nn.Module) -> tuple[Tensor, Tensor]:
        first, second = (perplexity(network, ids, batch_size=batch_size).losses for ids in measured)
        return first, second

    before, after = (
        brittleness(
            model, batches(drawn[0]), batches(drawn[1]), losses, top=TOP, rest=TOP, dense=dense,
            seed=seed,
        )
        for model in pair.models
    )  # fmt: skip
    return difference_section(pair, before, after, files[0].name, files[1].name, seed)
