import pytest
import torch

from attacks import APGD, PGD, ThreatModel, robust_accuracy
from attacks.losses import margin

NORMS = ("linf", "l2", "l1")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "targeted"])
def test_reaches_the_worst_case_of_a_linear_model(linear, norm, loss):
    """Two classes, a radius just too small and one just large enough for every example."""
    model, x, y = linear((2, 5), classes=2)
    exact = model.nearest(x, y, norm)
    for factor in (0.99, 1.01):
        threat = ThreatModel(norm, factor * exact)
        x_adv = APGD(threat, steps=100, loss=loss, seed=0)(model, x, y)
        assert (threat.distance(x, x_adv) <= factor * exact).all()
        assert robust_accuracy(model, x_adv, y) == (1.0 if factor < 1 else 0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_at_least_as_strong_as_pgd_at_equal_steps(trained, norm):
    model, x, y = trained
    threat = ThreatModel(norm, 0.25 if norm != "l1" else 0.4, (-4.0, 4.0))
    auto = APGD(threat, steps=20, seed=0)(model, x, y)
    plain = PGD(threat, steps=20, seed=0)(model, x, y)
    assert threat.distance(x, auto).max().item() <= threat.eps
    assert robust_accuracy(model, auto, y) <= robust_accuracy(model, plain, y) + 0.03


def test_targets_in_order_of_likelihood_and_broken_examples_leave(trained):
    model, x, y = trained
    threat = ThreatModel("linf", 0.3)
    seen = []

    def counting(batch):
        seen.append(len(batch))
        return model(batch)

    one = APGD(threat, steps=10, loss="targeted", targets=1, seed=0)(model, x, y)
    both = APGD(threat, steps=10, loss="targeted", targets=9, seed=0)(counting, x, y)
    broken = [model(x_adv).argmax(1) != y for x_adv in (one, both)]
    assert (broken[1] | ~broken[0]).all()
    right = (model(x).argmax(1) == y).sum().item()
    assert seen[:2] == [len(x), right]
    # 3 classes have 2 targets: the second run starts with what the first left
    assert seen[11:13] != [right, right]
    assert seen == [seen[0], *sorted(seen[1:12], reverse=True), *sorted(seen[12:], reverse=True)]


def test_what_it_cannot_break_is_left_at_its_highest_loss(trained):
    model, x, y = trained
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    threat = ThreatModel("l2", 0.05)
    x_adv = APGD(threat, steps=20, loss="margin", seed=0)(model, x, y)
    assert robust_accuracy(model, x_adv, y) > 0.9
    gain = margin(model(x_adv), y) - margin(model(x), y)
    assert (gain >= 0).all()
    assert (gain > 0).float().mean() > 0.95


@pytest.mark.parametrize("norm", NORMS)
def test_edge_cases(linear, norm):
    for classes in (2, 3, 5):
        for loss in ("ce", "dlr", "targeted"):
            model, x, y = linear((3,), classes=classes, examples=1)
            attack = APGD(ThreatModel(norm, 50.0), steps=30, loss=loss, seed=0)
            assert (model(attack(model, x, y)).argmax(1) != y).all()
            assert attack(model, x[:0], y[:0]).shape == (0, 3)
            wrong = (y + 1) % classes
            assert torch.equal(attack(model, x, wrong), x)
    with pytest.raises(ValueError, match="loss='hinge'"):
        APGD(ThreatModel(norm, 1.0), loss="hinge")
    with pytest.raises(ValueError, match="NaN logits"):
        attack(lambda z: model(z) * float("nan"), x, y)
