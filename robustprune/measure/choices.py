"""Cloze and multiple choice by log-likelihood: what a causal language model knows."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure.continuations import judge_continuations
from robustprune.measure.statistics import Proportion, proportion


@dataclass(frozen=True)
class Question:
    """A question with several answers, as text.

    Attributes:
        context: the text before the answer.
        options: the answers, of which each goes on with the context.
        answer: the place of the right one.
    """

    context: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True, repr=False)
class Choices:
    """How a model answers N questions.

    Attributes:
        right: (N,) bool, whether the right option is the most likely one.
        greedy: (N,) bool, whether the model would say the right option by itself.
        chance: the share that is right by chance.
    """

    right: Tensor
    greedy: Tensor
    chance: float

    @property
    def accuracy(self) -> Proportion:
        """The share of questions that are answered correctly."""
        return proportion(int(self.right.sum()), len(self.right))

    def __repr__(self) -> str:
        return (
            f"Choices(n={len(self.right)}, accuracy={self.accuracy.value:.4g}, "
            f"chance={self.chance:.4g}, said by itself={float(self.greedy.double().mean()):.4g})"
        )


def multiple_choice(
    model: nn.Module,
    questions: Sequence[Question],
    tokens: Callable[[str], Sequence[int]],
    *,
    bos: int,
    batch_size: int = 16,
) -> Choices:
    """Answer each question by the option with the largest mean log-likelihood per token.

        argmax_o 1/|o| Σ_t log p(o_t | context, o_<t)

    (Brown et al. 2020, arXiv 2005.14165, Sec. 2.4.) The tokens of an option are those of the whole
    text behind the longest beginning that is the same for all options and the context alone.

    Args:
        model: a causal language model, as in `judge_continuations`.
        tokens: text -> token ids, without BOS.
        bos: the id of the token that begins a text.

    Raises:
        ValueError: there are no questions, one has fewer than two options or no right one, or two
            options have the same tokens.
    """
    if not questions:
        raise ValueError("there are no questions")
    for question in questions:
        if not 0 <= question.answer < len(question.options) or len(question.options) < 2:
            raise ValueError(
                f"answer={question.answer} must be a place in {len(question.options)} options, of "
                "which there must be two or more"
            )
    prompts, options = [], []
    for question in questions:
        whole = [[bos, *tokens(question.context + option)] for option in question.options]
        shared = _common([[bos, *tokens(question.context)], *whole])
        if any(len(ids) == shared for ids in whole):
            raise ValueError(f"an option of {question.options} is the beginning of another")
        prompts += [ids[:shared] for ids in whole]
        options += [ids[shared:] for ids in whole]
    judged = judge_continuations(model, prompts, options, batch_size=batch_size)
    right, greedy, start = [], [], 0
    for question in questions:
        own = slice(start, start + len(question.options))
        right.append(int(judged.per_token[own].argmax()) == question.answer)
        greedy.append(bool(judged.greedy[own][question.answer]))
        start = own.stop
    chance = sum(1 / len(question.options) for question in questions) / len(questions)
    return Choices(torch.tensor(right), torch.tensor(greedy), chance)


def cloze_questions(
    text: str, number: int, *, options: int = 4, context: int = 40, seed: int = 0
) -> list[Question]:
    """Make cloze questions from a text: which word ends the sentence?

    The last word of a sentence must be found, given up to `context` words before it, among words
    that end other sentences of the text. The task of LAMBADA (Paperno et al. 2016, arXiv
    1606.06031), with options.

    Args:
        number: the largest number of questions; a short text gives fewer.

    Raises:
        ValueError: the text has too few sentences with different last words.
    """
    words = text.split()
    ends = [
        place
        for place, word in enumerate(words)
        if place >= 8 and re.fullmatch(r"[a-z]{3,}[.!?]", word)
    ]
    last = {place: words[place][:-1] for place in ends}
    pool = sorted(set(last.values()))
    if len(pool) < options:
        raise ValueError(
            f"the text has {len(pool)} different words at the end of sentences; {options} are "
            "needed for a question"
        )
    draw = random.Random(seed)
    draw.shuffle(ends)
    found = []
    for place in ends[:number]:
        others = draw.sample([word for word in pool if word != last[place]], options - 1)
        answer = draw.randrange(options)
        others.insert(answer, last[place])
        before = " ".join(words[max(0, place - context) : place])
        found.append(Question(before, tuple(f" {word}" for word in others), answer))
    return found


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens with which all rows begin."""
    shared = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared
