"""Lottery pools: interpolated tickets, against a search that is written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import History, Natural, OptimizerSpec, Validation
from robustprune.search import Ticket, find_lottery_ticket, pool_tickets, prune_one_shot
from robustprune.search.pools import between

SPEC = OptimizerSpec(lr=0.2, schedule="constant")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(number: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 6, generator=generator)
    return x, (x[:, :3] + 0.5 * x[:, 3:]).argmax(1)


def lotteries(pattern: str = "element") -> list[Ticket]:
    """Tickets of neighbouring densities of one start."""
    return [
        find_lottery_ticket(
            network(), [data(60, 1)], density=density, objective=Natural(), epochs=8, rounds=1,
            pattern=pattern, optimizer=SPEC, quiet=True,
        )
        for density in (0.3, 0.4, 0.6)
    ]  # fmt: skip


HELD_OUT = Validation(loader=[data(300, 2)])


def accuracy(model: nn.Module) -> float:
    return HELD_OUT(model, torch.device("cpu"))[0]


def test_it_is_the_greedy_search_written_out() -> None:
    tickets, shares = lotteries(), (0.2, 0.5, 0.8)
    counts = {name: int(mask.sum()) for name, mask in tickets[0].masks.items()}
    state = copy.deepcopy(tickets[0].model.state_dict())
    best = accuracy(tickets[0].model)
    for other in tickets[1:]:
        theirs, start = other.model.state_dict(), state
        for share in shares:
            trial = {}
            for name, value in start.items():
                mixed = (1 - share) * value + share * theirs[name] if value.ndim else value
                if name in counts:
                    bar = mixed.abs().flatten().sort(descending=True).values[counts[name] - 1]
                    mixed = torch.where(mixed.abs() >= bar, mixed, 0.0)
                trial[name] = mixed
            model = network()
            model.load_state_dict(trial)
            if accuracy(model) > best:
                best, state = accuracy(model), trial
    assert best > accuracy(tickets[0].model)  # there is something to find
    before = [copy.deepcopy(ticket.model.state_dict()) for ticket in tickets]
    pooled = pool_tickets(tickets, HELD_OUT, shares=shares)
    assert accuracy(pooled.model) == best
    for name, value in pooled.model.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert {name: int(mask.sum()) for name, mask in pooled.masks.items()} == counts
    for name, mask in pooled.masks.items():
        assert not bool(pooled.model.get_parameter(name)[~mask].any())
    for ticket, kept in zip(tickets, before, strict=True):
        assert all(torch.equal(v, kept[n]) for n, v in ticket.model.state_dict().items())


def test_a_mask_of_attention_stays() -> None:
    tickets = lotteries()[:2]
    for ticket in tickets:
        ticket.model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    pooled = pool_tickets(tickets, HELD_OUT, shares=(0.01,))
    assert pooled.model.get_buffer("mask").tolist() == [0.0, -torch.inf]
    one, two = (ticket.model.state_dict() for ticket in tickets)
    assert between(one, two, 0.5)["mask"].tolist() == [0.0, -torch.inf]
    assert between(one, two, 0.5)["0.bias"].equal(one["0.bias"].lerp(two["0.bias"], 0.5))


def test_groups_stay_whole() -> None:
    tickets = lotteries("filter")
    pooled = pool_tickets(tickets, HELD_OUT, pattern="filter")
    for name, mask in pooled.masks.items():
        assert bool((mask == mask[:, :1]).all())
        assert int(mask.sum()) == int(tickets[0].masks[name].sum())
    assert accuracy(pooled.model) >= accuracy(tickets[0].model)


def test_where_nothing_is_better_the_first_ticket_is_the_result() -> None:
    first = lotteries()[0]
    worse = copy.deepcopy(first.model)
    with torch.no_grad():
        worse[3].weight.neg_()
    other = Ticket(first.masks, worse, History())
    pooled = pool_tickets([first, other], HELD_OUT)
    assert pooled.masks == first.masks
    assert all(
        torch.equal(v, first.model.state_dict()[n]) for n, v in pooled.model.state_dict().items()
    )


def test_accuracy_under_attack_decides_where_there_is_an_attack() -> None:
    attack = PGD(ThreatModel("linf", 0.2), steps=2, seed=0)
    validation = Validation(loader=[data(300, 2)], attack=attack)
    tickets = lotteries()
    pooled = pool_tickets(tickets, validation)
    device = torch.device("cpu")
    robust = [validation(t.model, device)[1] for t in (pooled, tickets[0])]
    assert robust[0] is not None
    assert robust[1] is not None
    assert robust[0] >= robust[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tickets": 1}, "a pool needs at least two tickets, got 1"),
        ({"shares": ()}, r"shares=\(\) must lie inside \(0, 1\), and there must be one"),
        ({"shares": (0.5, 1.0)}, r"shares=\(0.5, 1.0\) must lie inside"),
        ({"pattern": "filters"}, "unknown pattern 'filters'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    tickets = [prune_one_shot(network(), density=0.5)] * options.pop("tickets", 2)
    with pytest.raises(ValueError, match=message):
        pool_tickets(tickets, HELD_OUT, **options)


def test_tickets_of_other_networks_are_refused() -> None:
    other = prune_one_shot(nn.Linear(6, 3), density=0.5)
    with pytest.raises(ValueError, match="ticket 2 is of another network than the first"):
        pool_tickets([prune_one_shot(network(), density=0.5), other], HELD_OUT)
