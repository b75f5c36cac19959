"""Pruning in rounds: the schedule, what each round sees, and why it is done."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robustprune.layerwise import prune_layerwise
from robustprune.lm import prune_in_rounds, tune_adapters
from robustprune.lm.rounds import density_of_round
from robustprune.minmax import Natural, OptimizerSpec
from robustprune.search import Ticket, finetune_ticket, prune_one_shot

SGD = OptimizerSpec(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.0)
pytestmark = pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")


def problem() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    x = torch.randn(128, 12)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2))
    return model, list(zip(x.split(16), y.split(16), strict=True))


def test_the_schedule() -> None:
    assert [density_of_round(0.2, 4, i) for i in (1, 2, 3, 4)] == pytest.approx(
        [0.2 + 0.8 * share**3 for share in (0.75, 0.5, 0.25, 0.0)]
    )
    assert density_of_round(0.3, 1, 1) == 0.3


def test_each_round_prunes_what_the_recovery_before_it_gave() -> None:
    model, loader = problem()
    before = copy.deepcopy(model.state_dict())
    seen: list[nn.Module] = []
    asked: list[float] = []
    given: list[int] = []

    def prune(network: nn.Module, density: float) -> Ticket:
        seen.append(network)
        asked.append(density)
        return prune_layerwise(network, loader, density=density)

    def recover(ticket: Ticket, number: int) -> Ticket:
        given.append(number)
        tuned = tune_adapters(ticket, loader, Natural(), optimizer=SGD, rank=2, quiet=True)
        recovered.append(tuned.model)
        return tuned

    recovered: list[nn.Module] = []
    ticket = prune_in_rounds(model, prune, recover, density=0.1, rounds=3)
    assert given == [1, 2, 3]
    assert asked == [density_of_round(0.1, 3, i) for i in (1, 2, 3)]
    assert seen == [model, *recovered[:2]]
    assert ticket.model is recovered[-1]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    for name, mask in ticket.masks.items():
        assert int(mask.sum()) == -(-mask.numel() // 10)
        assert bool((ticket.model.get_parameter(name)[~mask] == 0).all())
    assert len(ticket.history) == 3 * (2 + 1)  # two layers and one epoch a round


def test_one_round_is_pruning_and_recovery() -> None:
    model, loader = problem()

    def recover(ticket: Ticket, number: int) -> Ticket:
        return finetune_ticket(ticket, loader, Natural(), optimizer=SGD, epochs=2, quiet=True)

    def prune(network: nn.Module, density: float) -> Ticket:
        return prune_one_shot(network, density=density)

    found = prune_in_rounds(model, prune, recover, density=0.3, rounds=1)
    wanted = recover(prune(model, 0.3), 1)
    for name, value in wanted.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)


def test_bad_input() -> None:
    model, _ = problem()

    def prune(network: nn.Module, density: float) -> Ticket:
        return prune_one_shot(network, density=density)

    def plain(ticket: Ticket, number: int) -> Ticket:
        network = copy.deepcopy(ticket.model)
        with torch.no_grad():
            network.get_parameter("0.weight").add_(1.0)
        return Ticket(ticket.masks, network, ticket.history)

    with pytest.raises(ValueError, match=r"round 1 filled weights of .0\.weight."):
        prune_in_rounds(model, prune, plain, density=0.2)
    with pytest.raises(ValueError, match="rounds=0"):
        prune_in_rounds(model, prune, plain, density=0.2, rounds=0)
    with pytest.raises(ValueError, match="density"):
        prune_in_rounds(model, prune, plain, density=0.0)
