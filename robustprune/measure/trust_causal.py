"""Everything that is measured of a compressed causal language model beside the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.measure.calibration import BINS, gaps
from robustprune.measure.change import Change, changes
from robustprune.measure.choices import Question, multiple_choice
from robustprune.measure.continuations import device_of, greedy_continuations
from robustprune.measure.paired import OnExamples
from robustprune.measure.repetition import distinct, repetition
from robustprune.measure.summaries import Summary, judge_summaries


@dataclass(frozen=True)
class TextTokens:
    """How a text becomes tokens, and tokens a text.

    Attributes:
        tokens: text -> ids without BOS.
        bos: the id of BOS.
        words: ids -> text; None leaves summaries out.
        eos: the id that ends a text, or None.
    """

    tokens: Callable[[str], Sequence[int]]
    bos: int
    words: Callable[[Sequence[int]], str] | None = None
    eos: int | None = None


@dataclass(frozen=True)
class _Read:
    """What a model says of each window: (N,) the loss and the share of right tokens, and (N, M) the
    gaps between right and confidence, by bin."""

    losses: Tensor
    right: Tensor
    gaps: Tensor


def compare_trust_causal(
    dense: nn.Module,
    compressed: nn.Module,
    windows: Tensor,
    *,
    questions: Sequence[Question] = (),
    retrieval: Sequence[Question] = (),
    summaries: Sequence[Summary] = (),
    text: TextTokens | None = None,
    prompt: int = 24,
    continuation: int = 40,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[Change, ...]:
    """Measure what compression changes, on the same windows of text and questions for both.

    The negative log-likelihood per token (log perplexity), the next token (right, calibration
    error), cloze by log-likelihood and word by word, and repetition in greedy continuations; see
    `changes` for the tests. Windows of one text are not independent, so that intervals cover the
    choice of windows of this text alone.

    Args:
        dense, compressed: causal language models, (N, T) token ids -> logits or an object with
            `logits`, on one device.
        windows: (N, T) int64, N at least 2; the first `prompt` tokens of each are continued.
        questions: cloze or other questions; () leaves them out.
        retrieval: questions whose context holds the answer among other things.
        summaries: texts that each model summarises by itself, see `judge_summaries`.
        text: how questions and summaries become tokens.
        continuation: the number of tokens; 0 leaves repetition out.

    Raises:
        ValueError: windows have another shape or are shorter than the prompt, there is a single
            summary, questions or summaries have no `text`, or logits are NaN.
    """
    if len(summaries) == 1:
        raise ValueError("one summary alone can't be compared; give at least two, or none")
    if windows.ndim != 2 or len(windows) < 2 or windows.shape[1] < max(prompt, 2):
        raise ValueError(
            f"windows must be (N, T) with N at least 2 and T at least {max(prompt, 2)}, got "
            f"{tuple(windows.shape)}"
        )
    first, second = (_read(model, windows, batch_size) for model in (dense, compressed))
    measures = [
        OnExamples("negative log-likelihood per token", first.losses, second.losses, -1, "nats"),
        OnExamples("next token right", first.right, second.right, 1),
        OnExamples(
            "calibration error (ECE) of the next token", first.gaps, second.gaps, -1,
            combine=_sum_of_sizes,
        ),
    ]  # fmt: skip
    if questions:
        options = len(questions[0].options)
        names = f"last word chosen of {options}", "last word said"
        measures += _chosen(dense, compressed, questions, text, batch_size, names)
    if retrieval:
        names = "answer found in the context, chosen", "answer found in the context, said"
        measures += _chosen(dense, compressed, retrieval, text, batch_size, names)
    if summaries:
        measures.append(_summaries(dense, compressed, summaries, text))
    if continuation:
        measures += _repetitions(dense, compressed, windows[:, :prompt], continuation, batch_size)
    return changes(measures, seed=seed)


def _sum_of_sizes(means: Tensor) -> Tensor:
    return means.abs().sum(1)


@torch.no_grad()
def _read(model: nn.Module, windows: Tensor, batch_size: int) -> _Read:
    where = device_of(model)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(model):
        for batch in torch.split(windows, batch_size):
            logits = logits_of(model, batch.to(where))[:, :-1].double().cpu()
            following = batch[:, 1:]
            if bool(logits.isnan().any()):
                raise ValueError("the model's logits are NaN; look at its weights")
            loss = F.cross_entropy(logits.transpose(1, 2), following, reduction="none")
            by_bin = gaps(logits.flatten(0, 1), following.flatten(), bins=BINS)
            parts.append(
                (
                    loss.mean(1),
                    (logits.argmax(2) == following).double().mean(1),
                    by_bin.view(*following.shape, BINS).mean(1),
                )
            )
    losses, right, found = (torch.cat(one) for one in zip(*parts, strict=True))
    return _Read(losses, right, found)


def _chosen(
    dense: nn.Module,
    compressed: nn.Module,
    questions: Sequence[Question],
    text: TextTokens | None,
    batch_size: int,
    names: tuple[str, str],
) -> Iterator[OnExamples]:
    if text is None:
        raise ValueError("questions need `text`, which turns them into tokens")
    before, after = (
        multiple_choice(model, questions, text.tokens, bos=text.bos, batch_size=batch_size)
        for model in (dense, compressed)
    )
    yield OnExamples(names[0], before.right.double(), after.right.double(), 1)
    yield OnExamples(names[1], before.greedy.double(), after.greedy.double(), 1)


def _summaries(
    dense: nn.Module, compressed: nn.Module, summaries: Sequence[Summary], text: TextTokens | None
) -> OnExamples:
    if text is None or text.words is None:
        raise ValueError("summaries need `text` with `words`, which turns tokens into text")
    before, after = (
        judge_summaries(model, summaries, text.tokens, text.words, bos=text.bos, eos=text.eos)
        for model in (dense, compressed)
    )
    return OnExamples("summaries, ROUGE-L", before, after, 1)


def _repetitions(
    dense: nn.Module, compressed: nn.Module, prompts: Tensor, number: int, batch_size: int
) -> Iterator[OnExamples]:
    before, after = (
        torch.cat(
            [greedy_continuations(model, part, number) for part in torch.split(prompts, batch_size)]
        )
        for model in (dense, compressed)
    )
    yield OnExamples("repeated 4-grams", repetition(before, 4), repetition(after, 4), -1)
    yield OnExamples("distinct 2-grams", distinct(before, 2), distinct(after, 2), 1)
