"""Options that cannot work are refused before the first batch is read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from robustprune.minmax import Natural
from robustprune.search import find_language_ticket
from robustprune.sparsity import apply_masks, full_masks


class Unread:
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise AssertionError("a batch was read before the options were checked")


def network(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def masked() -> nn.Module:
    model = network()
    apply_masks(model, full_masks(model))
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": network(5)}, r"needs a weight '0\.weight' of shape \(6, 4\), .* \(5, 4\)"),
        (
            {"pretrained": nn.Linear(4, 3)},
            r"'0\.weight' .* `pretrained` has none; give the net",
        ),
        ({"pretrained": masked()}, "is masked already"),
        ({"granularity": "head", "dense": ("0",)}, r"dense=\('0',\) is of granularity 'weight'"),
        ({"kept": 1.5}, r"1\.5 must lie strictly between 0 and 1"),
        ({"kept": None, "density": 1.0}, "must be below 1"),
        ({"spread": float("nan")}, "spread=nan"),
        ({"penalty": float("nan")}, "penalty=nan"),
    ],
)
def test_a_language_search_that_could_not_end_is_not_begun(options: dict, message: str) -> None:
    settings: dict = {"density": 0.5, "objective": Natural(), "epochs": 1, "quiet": True} | options
    with pytest.raises(ValueError, match=message):
        find_language_ticket(network(), Unread(), **settings)  # type: ignore[arg-type]


def test_pretrained_weights_may_be_computed_ones() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))
    expected = start[0].weight.detach().clone()  # type: ignore[union-attr, operator]
    data = [(torch.randn(6, 4), torch.arange(6) % 3)]
    ticket = find_language_ticket(
        network(), data, density=0.5, objective=Natural(), pretrained=start, epochs=1, quiet=True
    )
    mask = ticket.masks["0.weight"]
    torch.testing.assert_close(ticket.model.get_parameter("0.weight").detach(), expected * mask)
