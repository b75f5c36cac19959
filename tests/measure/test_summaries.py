"""ROUGE-L by hand, by brute force and by the package rouge-score; summaries of a known network."""

import random
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from robustprune.measure import Summary, judge_summaries, rouge_l


def longest(first: Sequence[str], second: Sequence[str]) -> int:
    """The longest common subsequence, by trying all subsequences."""

    def inside(part: Sequence[str]) -> bool:
        rest = iter(second)
        return all(word in rest for word in part)

    return max(
        n for n in range(len(first) + 1) if any(inside(one) for one in combinations(first, n))
    )


def drawn(draw: random.Random) -> str:
    return " ".join(draw.choice(["a", "b", "c", "d"]) for _ in range(draw.randrange(1, 9)))


def test_the_example_of_the_paper() -> None:
    """Lin 2004, Sec. 3.1: S1 is the reference; ROUGE-L is 3/4 for S2 and 2/4 for S3."""
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_l("Police KILLED, the gunman!", reference) == 1.0
    assert rouge_l("the gunman", reference) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l("", reference) == rouge_l("...", reference) == rouge_l("a", "") == 0.0


def test_brute_force() -> None:
    draw = random.Random(0)
    for _ in range(100):
        said, reference = drawn(draw), drawn(draw)
        first, second = said.split(), reference.split()
        common = longest(first, second)
        precision, recall = common / len(first), common / len(second)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        assert rouge_l(said, reference) == pytest.approx(expected)


def test_the_package() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    draw = random.Random(1)
    pairs = [(drawn(draw), drawn(draw)) for _ in range(50)]
    pairs += [("It's 3 o'clock; time for tea.", "It is 3 o'clock, TIME for a tea"), ("né", "ne")]
    for said, reference in pairs:
        expected = scorer.score(reference, said)["rougeL"].fmeasure
        assert rouge_l(said, reference) == pytest.approx(expected)


class Next(nn.Module):
    """After token k comes k + step, modulo 10."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot((ids + self.step) % 10, 10).float() + self.weight


def tokens(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def words(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def test_what_a_known_network_writes() -> None:
    asks = [Summary("1 2 3", "4 5 6 7"), Summary("1 2 3", "4 4 5"), Summary("8", "9 0 1")]
    found = judge_summaries(Next(1), asks, tokens, words, bos=0)
    assert found.tolist() == pytest.approx([1.0, 2 / 3, 1.0])  # 4 5 6 7; 4 5 6; 9 0 1
    ended = judge_summaries(Next(1), asks, tokens, words, bos=0, eos=0)
    assert ended.tolist() == pytest.approx([1.0, 2 / 3, 0.5])  # the last one says 9 alone
    short = judge_summaries(Next(1), asks, tokens, words, bos=0, longest=2)
    assert short[0] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert judge_summaries(Next(2), asks, tokens, words, bos=0)[0] == pytest.approx(2 / 4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="there are no summaries"):
        judge_summaries(Next(1), [], tokens, words, bos=0)
    with pytest.raises(ValueError, match=r"the summary of '1'.* has no token"):
        judge_summaries(Next(1), [Summary("1", "")], tokens, words, bos=0)
    with pytest.raises(ValueError, match="longest=0"):
        judge_summaries(Next(1), [Summary("1", "2")], tokens, words, bos=0, longest=0)
