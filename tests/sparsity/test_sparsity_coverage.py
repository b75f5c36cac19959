"""What masks leave out is named, and counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustprune.minmax import Natural
from robustprune.search import find_language_ticket, prune_one_shot
from robustprune.sparsity import LeftOut, MaskSet, coverage, full_masks, maskable_layers


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 3)
        self.lstm = nn.LSTM(3, 4)
        self.norm = nn.LayerNorm((2, 4))
        self.head = nn.Linear(4, 2)


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight


def test_counts_by_hand() -> None:
    model = Recurrent()
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    covers = coverage(model, MaskSet({"head.weight": mask}))
    assert (covers.kept, covers.masked, covers.embeddings) == (3, 8, 30)
    assert dict(covers.left_out) == {"lstm.weight_ih_l0": 48, "lstm.weight_hh_l0": 64}
    assert covers.share_left_out == pytest.approx(112 / 120)
    # embedding 30, LSTM 112 and two biases of 16, norm 16, head 8 and 2
    assert covers.parameters == 30 + 112 + 32 + 16 + 10
    assert covers.density == 3 / 8
    assert covers.whole_density == pytest.approx((200 - 5) / 200)
    assert str(covers) == (
        "density 0.375 of the 8 weights with a mask, 0.975 of all 200 parameters; 93% of the "
        "matrix weights have no mask: lstm.weight_hh_l0 (64), lstm.weight_ih_l0 (48)"
    )


def test_everything_covered_leaves_nothing_to_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    covers = coverage(model, full_masks(model))
    assert covers.left_out == {}
    assert covers.share_left_out == 0
    assert covers.density == covers.whole_density == 1
    assert str(covers) == "density 1 of the 20 weights with a mask, 1 of all 20 parameters"


def test_a_search_names_what_it_cannot_mask() -> None:
    with pytest.warns(LeftOut) as said:
        ticket = prune_one_shot(Bilinear(), density=0.5)
    assert [str(one.message) for one in said] == [
        "36 of 44 matrix weights (82%) stay dense, since no mask covers mix.weight (36); `density` "
        "is that of the rest, and `ticket.coverage` has the density of the whole network"
    ]
    assert ticket.masks.density == 0.5
    assert ticket.coverage.whole_density == pytest.approx((50 - 4) / 50)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Bilinear(3, 3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(x, x))  # type: ignore[no-any-return]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight


class Siamese(nn.Module):
    """Two recurrent layers with one hidden weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.GRU(2, 3), nn.GRU(2, 3), nn.Linear(3, 2)
        self.b.weight_hh_l0 = self.a.weight_hh_l0


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Bilinear(), r"36 of 44 .* covers mix\.weight \(36\)"),
        (Pair(), r"16 of 28 .* covers a\.weight \(16\)"),
        (Siamese(), r"27 of 69 .* covers a\.weight_hh_l0 \(27\)"),
    ],
)
def test_every_kind_is_named(model: nn.Module, named: str) -> None:
    with pytest.warns(LeftOut, match=named):
        prune_one_shot(model, density=0.5)


def test_layers_of_another_library_are_named() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 24))

    model = nn.Sequential(Other(), nn.Linear(24, 2, bias=False))
    with pytest.warns(LeftOut, match=r"192 of 240 .* \(80%\) stay dense.*covers 0\.weight \(192\)"):
        ticket = prune_one_shot(model, density=0.5)
    assert dict(ticket.coverage.left_out) == {"0.weight": 192}


def test_layers_left_whole_on_purpose_and_embeddings_are_no_surprise() -> None:
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 40), nn.Linear(40, 2))
    ticket = prune_one_shot(model, density=0.5, dense=("1",))  # a warning would be an error
    assert dict(ticket.coverage.left_out) == {"1.weight": 160}
    prune_one_shot(Tied(), density=0.5)


def test_the_last_layer_is_the_head_even_where_it_is_tied() -> None:
    model = Tied()
    assert set(maskable_layers(model)) == {"up.weight", "down.weight"}
    assert set(maskable_layers(model, dense=("last",))) == {"up.weight", "down.weight"}
    assert set(maskable_layers(model, dense=("first",))) == {"down.weight"}
    assert set(maskable_layers(model, dense=("head", "up"))) == {"down.weight"}
    separate = Tied()
    separate.head.weight = nn.Parameter(separate.embed.weight.detach().clone())
    assert set(maskable_layers(separate, dense=("last",))) == {"up.weight", "down.weight"}


def test_a_recurrent_first_layer_is_the_first() -> None:
    assert set(maskable_layers(Recurrent(), dense=("first",))) == {"head.weight"}
    with pytest.raises(ValueError, match=r"no such layer; use .* one of lstm, head\.weight$"):
        maskable_layers(Recurrent(), dense=("lstmm",))
    assert set(maskable_layers(Recurrent(), dense=("lstm.weight_hh*",))) == {
        "lstm.weight_ih_l0",
        "head.weight",
    }
    with pytest.raises(ValueError, match="'firs' dense"):  # a name, not its letters
        maskable_layers(Recurrent(), dense="firs")


def test_a_language_ticket_names_it_too() -> None:
    data = [(torch.randn(6, 3), torch.arange(6) % 2)]
    with pytest.warns(LeftOut, match=r"mix\.weight"):
        find_language_ticket(
            Bilinear(), data, density=0.5, objective=Natural(), epochs=1, dense=(), quiet=True
        )
