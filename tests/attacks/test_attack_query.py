import pytest
import torch
from torch import nn

from attacks import Square, ThreatModel, robust_accuracy
from attacks.query import window_share
from attacks.square_steps import next_point, pyramid, two_pyramids, window_side

NORMS = ("linf", "l2", "l1")
SHAPES = [(6,), (2, 20), (3, 8, 8), (1, 4, 4, 4), (7, 5, 3)]


def test_window_sides_and_schedule_of_the_paper():
    image = torch.zeros(1, 3, 32, 32)
    # s = round(sqrt(p h w)), p halved on the way
    assert [window_side(image, p, least=1) for p in (0.8, 0.4, 0.05)] == [29, 20, 7]
    assert window_side(torch.zeros(1, 2, 100), 0.3, least=1) == 30
    assert window_share(0, 0.8) == 0.8
    assert window_share(11, 0.8) == 0.4
    assert window_share(1001, 0.8) == pytest.approx(0.8 / 32)


def test_pyramids():
    centre = pyramid((5, 5), torch.zeros(1), 2)
    assert centre[2, 2].item() == pytest.approx(1 + 1 / 4 + 1 / 9)
    assert centre[0, 0].item() == pytest.approx(1 / 9)
    both = two_pyramids(4, torch.zeros(1, 1, 4, 4), 2, torch.Generator().manual_seed(0))
    assert both.sum().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
def test_any_shape_stays_in_ball_and_box_and_gets_somewhere(linear, norm, shape):
    model, x, y = linear(shape, classes=3, seed=2)
    x = x.clamp(-1, 1).float()
    model = model.float()
    y = model(x).argmax(1)
    exact = model.nearest(x, y, norm)
    threat = ThreatModel(norm, 4 * exact, (-1.0, 1.0))
    x_adv = Square(threat, queries=300, seed=0)(model, x, y)
    assert (threat.distance(x, x_adv) <= 4 * exact.double()).all()
    assert x_adv.abs().max().item() <= 1
    assert robust_accuracy(model, x_adv, y) <= 0.4


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_proposals_spend_the_whole_radius(norm):
    x = torch.rand(3, 2, 9, 9)
    threat = ThreatModel(norm, 0.7)
    generator = torch.Generator().manual_seed(0)
    point = next_point(x, threat.random_start(x, generator), threat, 0.1, generator)
    assert torch.allclose(threat.distance(x, point), torch.full((3,), 0.7), rtol=1e-5)


def test_needs_no_gradient_and_spends_no_query_on_broken_examples(trained):
    model, x, y = trained
    seen = []

    def blunt(batch):
        seen.append(len(batch))
        return model(batch).round(decimals=1).detach()

    threat = ThreatModel("linf", 0.3)
    x_adv = Square(threat, queries=40, seed=0)(blunt, x, y)
    assert len(seen) <= 41
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[1]
    assert robust_accuracy(blunt, x_adv, y) < 0.8


def test_edge_cases():
    x, y = torch.rand(1, 3), torch.tensor([0])
    model = nn.Linear(3, 2)
    attack = Square(ThreatModel("linf", 0.1), queries=3)
    assert attack(model, x[:0], y[:0]).shape == (0, 3)
    assert attack(model, x, y).shape == (1, 3)
    with pytest.raises(ValueError, match=r"share=0"):
        Square(ThreatModel("linf", 0.1), share=0.0)
    with pytest.raises(ValueError, match="NaN logits"):
        attack(lambda z: z[:, :2] * float("nan"), x, y)
