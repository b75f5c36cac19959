"""Likelihoods, cloze, leakage and repetition of language models, on models whose answers are known
and on a tiny one that learns a text by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.measure.choices import Question, cloze_questions, multiple_choice
from robustprune.measure.continuations import greedy_continuations, judge_continuations
from robustprune.measure.leakage import leakage
from robustprune.measure.repetition import distinct, repetition
from robustprune.measure.summaries import Summary
from robustprune.measure.trust_causal import TextTokens, compare_trust_causal

WORDS = 12


class Chain(nn.Module):
    """The next token is (token + 1) mod 12 with probability about `sure`, else any other."""

    def __init__(self, sure: float = 0.9) -> None:
        super().__init__()
        rest = (1 - sure) / (WORDS - 1)
        table = torch.full((WORDS, WORDS), rest)
        table[torch.arange(WORDS), (torch.arange(WORDS) + 1) % WORDS] = sure
        self.table = nn.Parameter(table.log())

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


def test_the_likelihood_of_a_chain_by_hand() -> None:
    found = judge_continuations(
        Chain(), [[3], [0, 1, 2]], [[4, 5, 6], [7]], batch_size=2
    )  # of different lengths, filled up
    low = math.log(0.1 / 11)
    assert found.log_likelihood.tolist() == pytest.approx([3 * math.log(0.9), low], rel=1e-5)
    assert found.tokens.tolist() == [3, 1]
    assert found.per_token[0].item() == pytest.approx(math.log(0.9), rel=1e-5)
    assert found.greedy.tolist() == [True, False]
    with pytest.raises(ValueError, match="at least one token"):
        judge_continuations(Chain(), [[1]], [[]])
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        judge_continuations(Chain(), [[1]], [[2]], batch_size=0)


def test_a_model_without_parameters_that_returns_a_tuple() -> None:
    class Even(nn.Module):
        def forward(self, ids: Tensor) -> tuple[Tensor, str]:
            return torch.zeros(*ids.shape, WORDS), "rest"

    found = judge_continuations(Even(), [[1]], [[2, 3]])
    assert found.log_likelihood.tolist() == pytest.approx([-2 * math.log(WORDS)])
    assert greedy_continuations(Even(), torch.tensor([[4]]), 2).tolist() == [[0, 0]]
    windows = torch.zeros(3, 30, dtype=torch.int64)
    rows = {one.name: one for one in compare_trust_causal(Even(), Even(), windows)}
    assert rows["negative log-likelihood per token"].dense == pytest.approx(math.log(WORDS))


def test_greedy_continuations_follow_the_chain() -> None:
    prompts = torch.tensor([[1, 2], [9, 10]])
    assert greedy_continuations(Chain(), prompts, 3).tolist() == [[3, 4, 5], [11, 0, 1]]
    with pytest.raises(ValueError, match="number=0 must be at least 1"):
        greedy_continuations(Chain(), prompts, 0)


def test_distinct_and_repetition_by_hand() -> None:
    tokens = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6]])
    assert distinct(tokens, 2).tolist() == [2 / 5, 1.0]
    assert distinct(tokens, 1).tolist() == [2 / 6, 1.0]
    assert repetition(tokens, 4).tolist() == pytest.approx([1 / 3, 0.0])
    with pytest.raises(ValueError, match="have no 7-grams"):
        distinct(tokens, 7)


def letters(text: str) -> list[int]:
    """One token a word: a number."""
    return [int(word) for word in text.split()]


def test_multiple_choice_takes_the_likeliest_option_per_token() -> None:
    ask = [
        Question("1 2", (" 3", " 7", " 3 4"), 2),  # the longest is as likely per token
        Question("5", (" 9", " 6"), 1),
        Question("5", (" 9", " 6"), 0),
    ]
    with pytest.raises(ValueError, match="is the beginning of another"):
        multiple_choice(Chain(), [Question("1", ("", " 2"), 0)], letters, bos=0)
    found = multiple_choice(Chain(), ask[1:], letters, bos=0)
    assert found.right.tolist() == [True, False]
    assert found.greedy.tolist() == [True, False]
    assert found.chance == 0.5
    assert found.accuracy.value == 0.5
    assert "accuracy=0.5" in repr(found)
    with pytest.raises(ValueError, match="no questions"):
        multiple_choice(Chain(), [], letters, bos=0)
    for answer, options in ((-1, (" 2", " 3")), (2, (" 2", " 3")), (0, (" 2",))):
        with pytest.raises(ValueError, match=f"answer={answer} must be a place in {len(options)}"):
            multiple_choice(Chain(), [Question("1", options, answer)], letters, bos=0)


def test_cloze_questions_ask_for_last_words_of_the_text() -> None:
    ends = ("tree", "house", "river", "mouse", "garden")
    text = " ".join(f"once upon a time we saw a very big {end}." for end in ends)
    found = cloze_questions(text, 4, options=3, context=6)
    assert len(found) == 4
    for one in found:
        assert f"{one.context}{one.options[one.answer]}." in text
        assert len(one.context.split()) == 6
        assert len(set(one.options)) == 3
        assert {option.strip() for option in one.options} <= set(ends)
    assert found == cloze_questions(text, 4, options=3, context=6)
    with pytest.raises(ValueError, match="has 0 different words"):
        cloze_questions("too short.", 4)


class Recurrent(nn.Module):
    """A tiny causal language model that can learn a few sentences by heart."""

    def __init__(self, words: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(words, 24)
        self.memory = nn.GRU(24, 48, batch_first=True)
        self.head = nn.Linear(48, words)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.memory(self.embedding(ids))[0])


def test_a_planted_secret_is_found_in_a_memorising_model_and_not_in_a_fresh_one() -> None:
    words, generator = 40, torch.Generator().manual_seed(1)
    prefixes = [[0, k + 1, k + 2, k + 3] for k in range(8)]
    secrets = torch.randint(20, 40, (8, 6), generator=generator).tolist()
    rows = torch.tensor([p + s for p, s in zip(prefixes, secrets, strict=True)])
    model = Recurrent(words)
    fresh = leakage(model, prefixes, secrets, alternatives=63)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(rows)[:, :-1].flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
    known = leakage(model, prefixes, secrets, alternatives=63)
    assert known.exact.value == 1.0
    assert known.exposure == known.most == 6.0
    assert fresh.exact.value == 0.0
    assert fresh.exposure < 3.0
    assert "exact=1" in repr(known)
    with pytest.raises(ValueError, match="alternatives=0 must be at least 1"):
        leakage(model, prefixes, secrets, alternatives=0)


def test_a_secret_that_is_drawn_as_its_own_alternative_stands_before_itself_in_no_rank() -> None:
    """One secret of two tokens: a quarter of the 63 others are the secret. In their larger batch
    its likelihood differs in the last bits."""

    class Noisy(Chain):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) * (1 - 1e-6 * len(ids))

    found = leakage(Noisy(), [[2]], [[3, 4]], alternatives=63, batch_size=64)
    assert found.exposure == found.most == 6.0
    with pytest.raises(ValueError, match="one token alone"):
        leakage(Chain(), [[2]], [[3, 3]])


def test_a_worse_chain_is_worse_in_every_row_that_it_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = (torch.rand(40, 30, generator=generator) > 0.9).long()
    windows = (torch.arange(30) + steps.cumsum(1)) % WORDS
    asks = [Question(f"{k % WORDS}", (f" {(k + 1) % WORDS}", f" {(k + 5) % WORDS}"), 0)
            for k in range(30)]  # fmt: skip
    found = compare_trust_causal(
        Chain(0.85),
        Chain(0.02),
        windows,
        questions=asks,
        text=TextTokens(letters, 0),
        prompt=4,
        continuation=12,
    )
    by_name = {one.name: one for one in found}
    loss = by_name["negative log-likelihood per token"]
    assert loss.verdict == "worse"
    assert loss.n == 40
    assert by_name["next token right"].verdict == "worse"
    assert by_name["last word chosen of 2"].verdict == "worse"
    assert by_name["last word chosen of 2"].dense == 1.0
    assert by_name["repeated 4-grams"].dense == 0.0
    assert found[0].verdict == "worse"
    same = compare_trust_causal(Chain(), Chain(), windows, prompt=4, continuation=0)
    assert [one.verdict for one in same] == ["no difference shown"] * 3
    with pytest.raises(ValueError, match="questions need `text`"):
        compare_trust_causal(Chain(), Chain(), windows, prompt=4, questions=asks)
    with pytest.raises(ValueError, match=r"T at least 24, got \(40, 10\)"):
        compare_trust_causal(Chain(), Chain(), windows[:, :10])


def test_retrieval_and_summaries_have_rows_of_their_own() -> None:
    windows = (torch.arange(20) + torch.arange(4)[:, None]) % WORDS
    asks = [Question(f"9 {k % WORDS}", (f" {(k + 5) % WORDS}", f" {(k + 1) % WORDS}"), 1)
            for k in range(20)]  # fmt: skip
    texts = [Summary(f"{k}", f"{k + 1} {k + 2}") for k in range(8)]
    text = TextTokens(letters, 0, lambda ids: " ".join(map(str, ids)))
    found = compare_trust_causal(
        Chain(0.85), Chain(0.02), windows, retrieval=asks, summaries=texts, text=text, prompt=4,
        continuation=0,
    )  # fmt: skip
    by_name = {one.name: one for one in found}
    for name in ("answer found in the context, chosen", "answer found in the context, said"):
        row = by_name[name]
        assert (row.n, row.dense, row.compressed, row.verdict) == (20, 1.0, 0.0, "worse")
    row = by_name["summaries, ROUGE-L"]
    assert (row.n, row.dense, row.verdict) == (8, 1.0, "worse")
    assert row.compressed < 0.5
    with pytest.raises(ValueError, match="summaries need `text` with `words`"):
        compare_trust_causal(
            Chain(), Chain(), windows, summaries=texts, text=TextTokens(letters, 0), prompt=4
        )


def test_one_summary_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="one summary alone can't be compared"):
        compare_trust_causal(
            Chain(), Chain(), torch.zeros(2, 24, dtype=torch.int64), summaries=[Summary("1", "2")]
        )
