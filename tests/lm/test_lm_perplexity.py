"""Windows of text and perplexity: closed forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustprune.lm import Perplexity, perplexity, random_windows, windows


class Table(nn.Module):
    """Logits of the next token from the one before."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"logits": self.table[tokens]}


@given(st.integers(1, 60), st.integers(2, 12))
def test_windows_are_the_text_in_order(number: int, length: int) -> None:
    tokens = list(range(2, 2 + number))
    if number < length - 1:
        with pytest.raises(ValueError, match="shorter window"):
            windows(tokens, length, bos=1)
        return
    found = windows(tokens, length, bos=1)
    assert found.shape == (number // (length - 1), length)
    assert (found[:, 0] == 1).all()
    assert found[:, 1:].flatten().tolist() == tokens[: found[:, 1:].numel()]


def test_random_windows_are_pieces_of_the_text_by_their_seed() -> None:
    tokens = list(range(100, 200))
    found = random_windows(tokens, 8, 50, bos=1, seed=3)
    assert found.shape == (50, 8)
    assert (found[:, 2:] - found[:, 1:-1] == 1).all()
    assert torch.equal(found, random_windows(tokens, 8, 50, bos=1, seed=3))
    assert not torch.equal(found, random_windows(tokens, 8, 50, bos=1, seed=4))
    with pytest.raises(ValueError, match="number=0"):
        random_windows(tokens, 8, 0, bos=1)
    assert random_windows(tokens[:7], 8, 2, bos=1)[:, 1:].tolist() == [tokens[:7]] * 2


def test_a_uniform_model_is_as_perplexed_as_it_has_tokens() -> None:
    result = perplexity(Table(torch.zeros(11, 11)), torch.randint(11, (5, 7)))
    assert result.value == pytest.approx(11, rel=1e-6)
    assert result.interval() == pytest.approx((11, 11), rel=1e-6)
    assert result.tokens == 6


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_perplexity_is_that_of_its_definition(batch_size: int) -> None:
    torch.manual_seed(0)
    model, rows = Table(torch.randn(5, 5)), torch.randint(5, (5, 6))
    logs = model.table.log_softmax(1).tolist()
    loss = -sum(logs[a][b] for row in rows.tolist() for a, b in itertools.pairwise(row))
    found = perplexity(model, rows, batch_size=batch_size)
    assert found.value == pytest.approx(math.exp(loss / 25), rel=1e-5)
    low, high = found.interval()
    assert low < found.value < high


def test_a_loss_beyond_all_floats_is_infinite() -> None:
    found = Perplexity(torch.tensor([800.0, 900.0], dtype=torch.float64), 3)
    assert found.value == math.inf
    assert found.interval() == (math.inf, math.inf)
    never = Perplexity(torch.tensor([math.inf, 1.0], dtype=torch.float64), 3)
    assert never.value == never.ratio(found) == math.inf
    assert math.isnan(never.ratio(never))


def test_what_makes_no_perplexity_is_refused() -> None:
    model = Table(torch.zeros(3, 3))
    for bad in (torch.zeros(4, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match="windows must be"):
            perplexity(model, bad)
    with pytest.raises(ValueError, match="NaN"):
        perplexity(Table(torch.full((3, 3), torch.nan)), torch.zeros(2, 3, dtype=torch.long))


def test_a_ratio_is_paired_over_windows() -> None:
    losses = torch.tensor([0.5, 2.0, 3.5, 1.0], dtype=torch.float64)
    dense, pruned = Perplexity(losses, 7), Perplexity(losses + 0.25, 7)
    assert pruned.ratio(dense) == pytest.approx(math.exp(0.25))
    # the windows differ much, and the pruned network is worse by the same factor on each
    assert pruned.ratio_interval(dense) == pytest.approx((math.exp(0.25), math.exp(0.25)))
    low, high = pruned.interval()
    assert high / low > 2
    assert pruned.ratio(pruned) == 1
    mixed = Perplexity(losses + torch.tensor([1.0, -1.0, 0.0, 0.0]), 7)
    low, high = mixed.ratio_interval(dense)
    assert low < 1 < high
    with pytest.raises(ValueError, match="of 2 windows and the other of 4"):
        Perplexity(losses[:2], 7).ratio(dense)
