"""HYDRA and HARP."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Checkpoint, Natural, OptimizerSpec, Validation, train
from robustprune.search import Ticket, prune_scores
from robustprune.search.popup import scaled_scores
from robustprune.search.scores import LearnedRates
from robustprune.sparsity import count_kept, keep_best, maskable_layers

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2)
Batches = list[tuple[Tensor, Tensor]]
Make = Callable[[], nn.Module]


def pretrained(make_network: Make, batches: Batches) -> nn.Module:
    model = make_network()
    torch.manual_seed(0)
    train(model, batches, Natural(), optimizer=OptimizerSpec(lr=0.1), epochs=10)
    return model


def prune(model: nn.Module, batches: Batches, method: str, **options: object) -> Ticket:
    settings: dict = {"density": 0.3, "attack": ATTACK, "epochs": 5, "quiet": True} | options
    torch.manual_seed(0)
    return prune_scores(model, batches, method=method, **settings)  # type: ignore[arg-type]


def test_scaled_scores_by_their_formula() -> None:
    layer = nn.Linear(6, 2, bias=False)
    w = layer.weight.detach()
    expected = (6 / 6) ** 0.5 * w / w.abs().max()
    assert torch.allclose(scaled_scores({"w": layer})["w"], expected)


def test_hydra_starts_at_the_largest_weights(make_network: Make, batches: Batches) -> None:
    model = pretrained(make_network, batches)
    still = OptimizerSpec(lr=1e-12, momentum=0.0, weight_decay=0.0)
    ticket = prune(model, batches, "hydra", optimizer=still, epochs=1)
    layers = maskable_layers(model)
    scores = {n: layer.weight.detach().abs() for n, layer in layers.items()}
    assert ticket.masks == keep_best(scores, layers, density=0.3)


@pytest.mark.parametrize("method", ["hydra", "harp"])
def test_weights_stay_and_the_count_is_exact(
    make_network: Make, batches: Batches, method: str
) -> None:
    model = pretrained(make_network, batches)
    ticket = prune(model, batches, method)
    total = 0
    for name, layer in maskable_layers(model).items():
        mask, weight = ticket.masks[name], ticket.model.get_parameter(name)
        assert torch.equal(weight, layer.weight * mask)
        total += mask.numel()
        if method == "hydra":
            assert int(mask.sum()) == count_kept(0.3, mask.numel())
    if method == "harp":
        assert ticket.masks.kept == count_kept(0.3, total)
        assert "kept / target" in ticket.history[-1].figures


@pytest.mark.parametrize("method", ["hydra", "harp"])
def test_learning_the_scores_beats_magnitude(
    make_network: Make, batches: Batches, method: str
) -> None:
    model = pretrained(make_network, batches)
    still = OptimizerSpec(lr=1e-12, momentum=0.0, weight_decay=0.0)
    start = prune(model, batches, method, density=0.1, optimizer=still, epochs=1)
    found = prune(model, batches, method, density=0.1, epochs=30)
    assert found.history[-1].loss < 0.7 * start.history[-1].loss


def test_the_rate_gets_the_summed_gradient_of_the_mask() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.requires_grad_(False)
    original = layer.weight.clone()
    rates = LearnedRates(
        {"weight": layer},
        density=0.5,
        pattern="element",
        allocate="layer",
        scores=scaled_scores({"weight": layer}),
        least=0.1,
    )
    popup = rates.popups["weight"]
    slope = torch.autograd.grad(popup.rate(), popup.rate_score)[0]
    upstream = torch.randn(2, 4)
    (layer.weight * upstream).sum().backward()
    assert popup.rate_score.grad is not None
    assert float(popup.rate_score.grad) == pytest.approx(float((upstream * original).sum() * slope))
    assert popup.score.grad is not None
    expected = upstream * original * popup.score.detach().sign()
    assert torch.allclose(popup.score.grad, expected)


def test_the_penalty_acts_only_above_the_target() -> None:
    layer = nn.Linear(4, 2, bias=False)
    rates = LearnedRates(
        {"weight": layer},
        density=0.5,
        pattern="element",
        allocate="layer",
        scores=scaled_scores({"weight": layer}),
    )
    assert float(rates.penalty(layer).detach()) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        rates.popups["weight"].rate_score.fill_(100.0)  # rate 1, twice the target
    assert float(rates.penalty(layer).detach()) == pytest.approx(0.01)
    rates.after_epoch(layer, 4)
    assert float(rates.penalty(layer).detach()) == pytest.approx(0.05)
    with torch.no_grad():
        rates.popups["weight"].rate_score.fill_(-100.0)
    assert float(rates.penalty(layer).detach()) == 0.0
    assert float(rates.popups["weight"].rate().detach()) == pytest.approx(
        0.05
    )  # a tenth of the density


@pytest.mark.parametrize("method", ["hydra", "harp"])
def test_resuming_goes_on_alike(
    make_network: Make, batches: Batches, method: str, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(record: object) -> None:
        if record.epoch == 2:  # type: ignore[attr-defined]
            raise Stop

    model = pretrained(make_network, batches)
    straight = prune(model, batches, method)
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    with pytest.raises(Stop):
        prune(model, batches, method, checkpoint=place, on_epoch=stop)
    resumed = prune(model, batches, method, checkpoint=place)
    assert resumed.masks == straight.masks
    assert [r.loss for r in resumed.history] == [r.loss for r in straight.history]


def test_bad_arguments_are_refused(make_network: Make, batches: Batches) -> None:
    model = make_network()
    with pytest.raises(ValueError, match="unknown method 'hydrant'; choose one of hydra, harp"):
        prune(model, batches, "hydrant")
    with pytest.raises(ValueError, match="pattern '2:4' fixes it"):
        prune(model, batches, "harp", pattern="2:4", density=0.5)
    with pytest.raises(ValueError, match="harp takes its last epoch"):
        prune(model, batches, "harp", validation=Validation(loader=batches))


def test_asking_for_masks_changes_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
    layers = maskable_layers(network)
    rates = LearnedRates(
        layers, density=0.25, pattern="element", allocate="layer", scores=scaled_scores(layers)
    )
    with torch.no_grad():
        rates.popups["0.weight"].rate_score.add_(2.0)
    x = torch.randn(5, 8)
    answer = network(x)
    before = copy.deepcopy(network.state_dict())
    kept = {name: popup.kept for name, popup in rates.popups.items()}
    masks = rates.masks(network)
    assert masks.kept == count_kept(0.25, 80)
    assert {name: popup.kept for name, popup in rates.popups.items()} == kept
    assert torch.equal(network(x), answer)
    assert str(before) == str(network.state_dict())
    # the rate can still move what a forward pass keeps, until the search ends
    with torch.no_grad():
        rates.popups["0.weight"].rate_score.add_(2.0)
    network(x)
    assert rates.popups["0.weight"].kept > kept["0.weight"]
    masks = rates.masks(network)
    rates.settle()
    network(x)
    for name, popup in rates.popups.items():
        assert torch.equal(popup.mask(), masks[name])


def test_learned_scores_are_single_precision_over_half_weights() -> None:
    layer = nn.Linear(64, 4).bfloat16()
    scores = scaled_scores({"weight": layer})["weight"]
    assert scores.dtype == torch.float32
    expected = layer.weight.detach().float()
    assert torch.allclose(scores, math.sqrt(6 / 64) * expected / expected.abs().max())
