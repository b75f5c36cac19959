"""Summaries that a causal language model writes by itself, against references, by ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.inputs import check_at_least
from robustprune.measure.continuations import greedy_continuations


@dataclass(frozen=True)
class Summary:
    """A text to be summarised, and how somebody did it.

    Attributes:
        prompt: the text with what asks for a summary, such as "... In short:".
        reference: the summary that should follow.
    """

    prompt: str
    reference: str


def rouge_l(said: str, reference: str) -> float:
    """Return the F-measure of ROUGE-L, from 0 to 1 (Lin 2004, Sec. 3.1, with β = 1).

        P = LCS/m,  R = LCS/n,  F = 2PR/(P + R)

    LCS is the longest common subsequence of the m words of `said` and the n words of the reference.
    Words are runs of a-z and 0-9 in lower case, without stemming, as in the package rouge-score.
    """
    first, second = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, reference))
    common = _common(first, second)
    return 2 * common / (len(first) + len(second)) if common else 0.0


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # the value to the left in the row above
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def judge_summaries(
    model: nn.Module,
    summaries: Sequence[Summary],
    tokens: Callable[[str], Sequence[int]],
    words: Callable[[Sequence[int]], str],
    *,
    bos: int,
    eos: int | None = None,
    longest: int = 64,
) -> Tensor:
    """Return ROUGE-L of each summary that the model writes, (N,) float64.

    The model goes on greedily with as many tokens as the reference has, at most `longest`; what
    comes after a first `eos` is left out.

    Args:
        model: a causal language model, as in `judge_continuations`.
        tokens, words: text -> token ids without BOS, and back.
        bos, eos: the ids that begin and end a text; None for no end.

    Raises:
        ValueError: there are no summaries, `longest` is below 1, or a reference has no token.
    """
    check_at_least(1, longest=longest)
    if not summaries:
        raise ValueError("there are no summaries")
    found = []
    for one in summaries:
        number = min(len(tokens(one.reference)), longest)
        if number == 0:
            raise ValueError(f"the summary of {one.prompt[:40]!r}... has no token; write one")
        prompt = torch.tensor([[bos, *tokens(one.prompt)]])
        ids = greedy_continuations(model, prompt, number)[0].tolist()
        said = words(ids[: ids.index(eos)] if eos in ids else ids)
        found.append(rouge_l(said, one.reference))
    return torch.tensor(found, dtype=torch.float64)
