"""HARP with costs of layers: the penalty and the counts by hand, and what a dear layer keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.deploy import slim
from robustprune.minmax import OptimizerSpec
from robustprune.models import FCN
from robustprune.search import Ticket, prune_scores
from robustprune.search.popup import scaled_scores
from robustprune.search.scores import LearnedRates
from robustprune.sparsity import maskable_layers

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2)


def two_layers() -> nn.Sequential:
    """Layers of 4 and of 2 input channels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)).requires_grad_(False)


def rates(cost: dict[str, float] | None, *, density: float = 0.5) -> LearnedRates:
    layers = maskable_layers(two_layers())
    return LearnedRates(
        layers, density=density, pattern="channel", allocate="layer",
        scores=scaled_scores(layers), cost=cost,
    )  # fmt: skip


def penalty(constraint: LearnedRates) -> float:
    return float(constraint.penalty(nn.Identity()).detach())


def set_rates(constraint: LearnedRates, first: float, second: float) -> None:
    """Set the rates, in (0.1 · density, 1)."""
    for popup, rate in zip(constraint.popups.values(), (first, second), strict=True):
        share = torch.tensor((rate - popup.least) / (1 - popup.least), dtype=torch.float64)
        with torch.no_grad():
            popup.rate_score.copy_(share.logit())


def test_the_penalty_by_hand() -> None:
    # the whole cost is 4 · 1 + 2 · 3 = 10, and half of it is the target
    constraint = rates({"0.weight": 10.0, "2.weight": 30.0})
    for first, second, over in ((0.5, 0.9, 0.48), (0.9, 0.5, 0.32), (0.2, 0.6, 0.0)):
        set_rates(constraint, first, second)
        expected = 0.01 * over  # (4 · 0.5 + 6 · 0.9) / 5 − 1 = 0.48
        assert penalty(constraint) == pytest.approx(expected, abs=1e-8)
    constraint.after_epoch(nn.Identity(), 6)
    set_rates(constraint, 0.5, 0.9)
    assert penalty(constraint) == pytest.approx(0.07 * 0.48)


def test_the_counts_at_the_end_reach_the_share_of_the_cost() -> None:
    # shares in proportion to 4 · 0.9 and 2 · 0.3; the target is 5 of 4 · 1 + 2 · 3
    constraint = rates({"0.weight": 1.0, "2.weight": 3.0})
    set_rates(constraint, 0.9, 0.3)
    assert constraint._counts() == {"0.weight": 2, "2.weight": 1}  # 2 + 3 = 5
    constraint = rates({"0.weight": 1.0, "2.weight": 1.0})
    set_rates(constraint, 0.9, 0.3)
    assert constraint._counts() == {"0.weight": 2, "2.weight": 1}  # 3 of 6
    constraint = rates({"0.weight": 1.0, "2.weight": 0.1})
    set_rates(constraint, 0.3, 0.9)
    assert constraint._counts() == {"0.weight": 2, "2.weight": 2}  # 2.2 of 4.2
    constraint.settle()
    kept = constraint.after_epoch(nn.Identity(), 2)["kept / target"]
    assert kept == pytest.approx(2.2 / 4.2 / 0.5)


def test_with_an_equal_pull_the_dear_layer_keeps_less() -> None:
    cost = {"0.weight": 1.0, "2.weight": 20.0}
    constraint = rates(cost)
    scores = [popup.rate_score for popup in constraint.popups.values()]
    for _ in range(200):
        pull = sum(popup.rate() for popup in constraint.popups.values())
        assert isinstance(pull, Tensor)
        (100 * constraint.penalty(nn.Identity()) - 0.2 * pull).backward()
        with torch.no_grad():
            for score in scores:
                assert score.grad is not None
                score -= 0.5 * score.grad
                score.grad = None
    cheap, dear = (float(popup.rate().detach()) for popup in constraint.popups.values())
    assert cheap > 0.9
    assert dear < 0.55


def series() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    x = torch.randn(64, 1, 24, generator=generator) + (2 * y - 1).view(-1, 1, 1)
    return list(zip(x.split(16), y.split(16), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return FCN(1, 2, widths=(12, 12, 12), kernels=(3, 3, 3))


def search(**options: object) -> Ticket:
    torch.manual_seed(0)
    settings: dict = {
        "density": 0.5, "attack": ATTACK, "method": "harp", "pattern": "channel", "epochs": 12,
        "dense": "first", "optimizer": OptimizerSpec(lr=0.5), "quiet": True,
    } | options  # fmt: skip
    return prune_scores(network(), series(), **settings)


NAMES = ("blocks.1.conv.weight", "blocks.2.conv.weight", "classifier.weight")


@pytest.mark.parametrize("pattern", ["channel", "element"])
def test_equal_costs_are_none_bit_for_bit(pattern: str) -> None:
    plain = search(pattern=pattern, epochs=4)
    equal = search(pattern=pattern, epochs=4, cost=dict.fromkeys(NAMES, 0.3))
    assert plain.masks == equal.masks
    assert [r.loss for r in plain.history] == [r.loss for r in equal.history]
    assert [r.figures for r in plain.history] == [r.figures for r in equal.history]
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            plain.model.state_dict().values(), equal.model.state_dict().values(), strict=True
        )
    )


def widths(ticket: Ticket) -> list[int]:
    """How many input channels each layer keeps."""
    return [int(ticket.masks[name].flatten(2).any(2).any(0).sum()) if name != NAMES[2]
            else int(ticket.masks[name].any(0).sum()) for name in NAMES]  # fmt: skip


def test_the_layer_that_keeps_most_loses_channels_when_it_is_made_dear() -> None:
    even = widths(search(cost=dict.fromkeys(NAMES, 1.0)))
    assert even == sorted(even)
    assert sum(even) == 18  # half of all
    dear = widths(search(cost=dict.fromkeys(NAMES, 1.0) | {NAMES[2]: 30.0}))
    assert dear[2] < even[2]
    assert dear[0] + dear[1] + 30 * dear[2] >= 0.5 * (24 + 30 * 12)


def test_the_slimmed_network_has_these_widths_and_the_same_answers() -> None:
    ticket = search(cost=dict(zip(NAMES, (1.0, 2.0, 3.0), strict=True)))
    x = torch.cat([x for x, _ in series()])
    small = slim(ticket.model, None, x[:4])
    kept = widths(ticket)
    assert [len(small.get_parameter(f"blocks.{i}.conv.weight")) for i in range(3)] == kept
    assert sum(kept) < 36
    with torch.no_grad():
        for inputs in (x, 3.0 * torch.randn(x.shape), torch.zeros_like(x)):
            answers = ticket.model.eval()(inputs)
            torch.testing.assert_close(small(inputs), answers, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cost": {NAMES[0]: 1.0, NAMES[1]: 1.0}},
            "no cost is given for layer 'classifier.weight'",
        ),
        (
            {"cost": dict.fromkeys((*NAMES, "blocks.0.conv.weight"), 1.0)},
            "a cost is given for 'blocks.0.conv.weight', which is no masked layer",
        ),
        ({"cost": dict.fromkeys(NAMES, 0.0)}, "the cost 0.0 of 'blocks.1.conv.weight' must be"),
        ({"cost": dict.fromkeys(NAMES, float("nan"))}, "must be positive and finite"),
        ({"cost": dict.fromkeys(NAMES, 1.0), "method": "hydra"}, "cost=.* has no effect"),
    ],
)
def test_costs_that_fit_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)
