"""One-shot pruning."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Natural
from robustprune.search import prune_one_shot
from robustprune.sparsity import MaskSet, count_kept, group_weight, maskable_layers
from robustprune.sparsity.criteria import CRITERIA

Batches = list[tuple[Tensor, Tensor]]
Make = Callable[[], nn.Module]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("pattern", ["element", "filter"])
def test_every_criterion_keeps_exactly_the_density(
    make_network: Make, batches: Batches, criterion: str, pattern: str
) -> None:
    model = make_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    looks = CRITERIA[criterion].needs_data
    attack = PGD(ThreatModel("linf", 0.1), steps=2, seed=0) if looks else None
    ticket = prune_one_shot(
        model,
        batches,
        density=0.25,
        criterion=criterion,
        attack=attack,
        pattern=pattern,
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, layer in maskable_layers(model).items():
        mask = ticket.masks[name]
        assert torch.equal(ticket.model.get_parameter(name), layer.weight * mask)
        groups = group_weight(layer, pattern)
        kept = int((groups.reduce(mask.float()) > 0).sum())
        assert kept == count_kept(0.25, groups.number)
    again = prune_one_shot(
        model,
        batches,
        density=0.25,
        criterion=criterion,
        attack=attack,
        pattern=pattern,
    )
    assert again.masks == ticket.masks


def test_magnitude_by_hand() -> None:
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -5.0, 0.1], [2.0, 0.2, -4.0]]))
    ticket = prune_one_shot(model, density=0.5)
    assert ticket.masks["weight"].tolist() == [[True, True, False], [False, False, True]]


def test_a_useless_input_is_pruned_first_by_the_data_driven_criteria() -> None:
    """Inputs 2 and 3 are always zero: whatever their weights, nothing depends on them."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight[:, 2:] *= 100
    x = torch.randn(64, 4)
    x[:, 2:] = 0
    data = [(x, (x[:, 0] > 0).long())]
    for criterion in ("snip", "obd", "obd_ggn"):
        ticket = prune_one_shot(model, data, density=0.5, criterion=criterion)
        assert ticket.masks["weight"][:, 2:].sum() == 0, criterion
    assert prune_one_shot(model, density=0.5).masks["weight"][:, 2:].all()


def test_bad_arguments_are_refused(make_network: Make) -> None:
    with pytest.raises(ValueError, match="unknown criterion 'magnitud'; choose one of magnitude"):
        prune_one_shot(make_network(), density=0.5, criterion="magnitud")
    with pytest.raises(ValueError, match="criterion 'snip' needs data; give a loader"):
        prune_one_shot(make_network(), density=0.5, criterion="snip")
    with pytest.raises(ValueError, match="batches=0 must be at least 1"):
        prune_one_shot(make_network(), density=0.5, batches=0)


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("given", ["attack", "objective"])
def test_a_loss_is_refused_where_none_is_looked_at(
    make_network: Make, criterion: str, given: str
) -> None:
    value = PGD(ThreatModel("linf", 0.1)) if given == "attack" else Natural()
    options: dict = {"criterion": criterion, given: value}
    with pytest.raises(ValueError, match=f"{given}=.* criterion '{criterion}' looks at no loss"):
        prune_one_shot(make_network(), density=0.5, **options)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_seed_is_taken_where_something_is_drawn(
    make_network: Make, batches: Batches, criterion: str
) -> None:
    def scored(seed: int) -> MaskSet:
        options: dict = {"density": 0.25, "criterion": criterion, "seed": seed}
        return prune_one_shot(make_network(), batches, **options).masks

    if CRITERIA[criterion].draws:
        assert scored(1) == scored(1) != scored(2)
    else:
        with pytest.raises(ValueError, match=f"seed=1 has no effect.*'{criterion}' draws no"):
            scored(1)
