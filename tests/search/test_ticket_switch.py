"""The random ticket switch and its evaluation."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from attacks import PGD, ThreatModel
from robustprune.measure import evaluate_switch
from robustprune.search import RandomTicketSwitch


def constant(*logits: float) -> nn.Module:
    """A network that gives these logits whatever it sees."""
    layer = nn.Linear(2, len(logits))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(logits))
    return layer


def test_each_query_is_answered_by_one_drawn_ticket() -> None:
    switch = RandomTicketSwitch([constant(0, 1), constant(2, 3), constant(4, 5)], seed=0)
    answers = switch(torch.zeros(3000, 2))[:, 0]
    counts = torch.bincount((answers / 2).long(), minlength=3)
    assert counts.sum() == 3000
    assert bool(((counts > 900) & (counts < 1100)).all())


def test_draws_follow_the_seed() -> None:
    tickets = [constant(0, 1), constant(2, 3)]
    one, two, other = (RandomTicketSwitch(tickets, seed=s) for s in (3, 3, 4))
    x = torch.zeros(50, 2)
    first = one(x)
    assert torch.equal(first, two(x))
    assert not torch.equal(first, other(x))
    assert not torch.equal(first, one(x))  # drawn anew for each query


def test_answers_stand_in_the_order_of_the_questions() -> None:
    torch.manual_seed(0)
    switch = RandomTicketSwitch([nn.Linear(2, 3), nn.Linear(2, 3)])
    x, drawn = torch.randn(7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = switch.all_logits(x)[drawn, torch.arange(7)]
    assert torch.allclose(switch.answer(x, drawn), expected)


def test_expectations() -> None:
    switch = RandomTicketSwitch([constant(0, 2), constant(4, 0)])
    x = torch.zeros(1, 2)
    assert switch.expected_logits(x).tolist() == [[2.0, 1.0]]
    averaged = switch.expected_log_probabilities(x, draws=4000).exp()
    exact = switch.all_logits(x).softmax(2).mean(0)
    assert torch.allclose(averaged, exact, atol=0.03)


def test_an_adaptive_attacker_does_no_worse_than_one_who_guesses() -> None:
    """Two linear tickets that look at different coordinates: an attack on one leaves the other
    right, an attack on their sum breaks both."""
    left, right = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        left.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        right.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    switch = RandomTicketSwitch([left, right], seed=0)
    x, y = torch.full((200, 2), 0.5), torch.zeros(200, dtype=torch.int64)
    attack = PGD(ThreatModel("linf", 1.0), steps=5, random_start=False)
    outcome = evaluate_switch(switch, x, y, attack, draws=8, batch_size=64)
    assert outcome.clean.tolist() == [1.0] * 200
    assert outcome.independent.tolist() == [0.5] * 200
    assert outcome.adaptive.tolist() == [0.0] * 200
    assert outcome.eot.tolist() == [0.0] * 200
    assert all(p.requires_grad for p in switch.parameters())


def test_one_ticket_is_no_switch() -> None:
    with pytest.raises(ValueError, match="at least two tickets, got 1"):
        RandomTicketSwitch([constant(0, 1)])


def test_no_queries_get_no_answers() -> None:
    switch = RandomTicketSwitch([nn.Linear(2, 3), nn.Linear(2, 3)])
    for answer in (switch(torch.zeros(0, 2)), switch.expected_logits(torch.zeros(0, 2))):
        assert answer.shape == (0, 3)
    assert switch.expected_log_probabilities(torch.zeros(0, 2), draws=3).shape == (0, 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_draws_on_by_itself(copied: Callable[[nn.Module], nn.Module]) -> None:
    switch = RandomTicketSwitch([constant(0, 1), constant(2, 3)], seed=3)
    x = torch.zeros(50, 2)
    switch(x)
    twin = copied(switch)
    first = switch(x)
    assert torch.equal(first, twin(x))  # from where the switch stood, however often the other drew
    assert torch.equal(switch(x), twin(x))
    assert twin.state_dict().keys() == switch.state_dict().keys()


def test_tickets_may_work_in_place_and_return_more() -> None:
    class Rich(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x -= self.shift
            return x * 2, x

    switch = RandomTicketSwitch([Rich(1.0), Rich(3.0)])
    x = torch.ones(4, 2)
    assert switch.expected_logits(x).tolist() == [[-2.0, -2.0]] * 4
    assert switch.answer(x, torch.tensor([0, 1, 1, 0]))[:, 0].tolist() == [0.0, -4.0, -4.0, 0.0]
    assert x.tolist() == [[1.0, 1.0]] * 4
