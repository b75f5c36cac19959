import pytest
import torch
from torch import nn

from attacks import (
    APGD,
    PGD,
    AutoAttack,
    EvaluationWarning,
    ThreatModel,
    Transfer,
    preset,
    robust_accuracy,
    worst_of,
)
from attacks.sanity import failed

SMALL = {"steps": 10, "queries": 30}
FINDINGS = ["randomised-forward", "probabilities", "zero-gradients"]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_never_weaker_than_any_of_its_attacks(trained, norm):
    model, x, y = trained
    threat = ThreatModel(norm, 0.2)
    protocol = AutoAttack(threat, **SMALL)
    result = protocol.evaluate(model, x, y)
    assert list(result.after) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    falling = [result.clean, *result.after.values()]
    assert falling == sorted(falling, reverse=True)
    assert result.robust_accuracy == falling[-1] == robust_accuracy(model, result.x_adv, y)
    assert threat.distance(x, result.x_adv).max().item() <= 0.2
    for attack in protocol.attacks().values():
        x_adv = attack(model, x, y)
        x_adv = torch.where((threat.distance(x, x_adv) <= 0.2)[:, None], x_adv, x)
        assert result.robust_accuracy <= robust_accuracy(model, x_adv, y) + 0.01
    assert 0.05 < result.robust_accuracy < result.clean
    assert torch.equal(protocol(model, x, y), result.x_adv)


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_any_number_of_classes(linear, classes):
    model, x, y = linear((6,), classes=classes)
    exact = model.nearest(x, y, "l2")
    eps = exact.median().item()
    result = AutoAttack(ThreatModel("l2", eps), steps=50, queries=20).evaluate(model, x, y)
    assert torch.equal(result.robust, exact > eps * 1.001) or torch.equal(
        result.robust, exact >= eps
    )


def test_certified_examples_are_not_attacked(trained):
    model, x, y = trained
    certified = torch.zeros(len(x), dtype=torch.bool)
    certified[::2] = True
    seen = []

    def counting(batch):
        seen.append(len(batch))
        return model(batch)

    protocol = AutoAttack(ThreatModel("linf", 0.3), batch_size=None, **SMALL)
    result = protocol.evaluate(counting, x, y, certified=certified)
    right = model(x).argmax(1) == y
    assert torch.equal(result.robust[certified], right[certified])
    assert result.skipped == (right & certified).sum()
    assert seen[0] == len(x)
    assert max(seen[1:]) == (right & ~certified).sum()
    assert torch.equal(result.x_adv[certified], x[certified])
    with pytest.raises(ValueError, match="certified has dtype"):
        protocol.evaluate(model, x, y, certified=certified.float())


def test_batches_change_nothing_but_the_draws(trained):
    model, x, y = trained
    threat = ThreatModel("linf", 0.2)
    whole = AutoAttack(threat, **SMALL).evaluate(model, x, y)
    parts = AutoAttack(threat, batch_size=37, **SMALL).evaluate(model, x, y)
    assert parts.clean == whole.clean
    assert parts.robust_accuracy == pytest.approx(whole.robust_accuracy, abs=0.01)


def test_edge_batches(linear):
    model, x, y = linear((3,), classes=3)
    protocol = AutoAttack(ThreatModel("linf", 0.1), **SMALL)
    nothing = protocol.evaluate(model, x, (y + 1) % 3)
    assert nothing.robust_accuracy == nothing.clean == 0
    assert torch.equal(nothing.x_adv, x)
    assert protocol(model, x[:1], y[:1]).shape == (1, 3)


def test_transfer(trained):
    model, x, y = trained
    torch.manual_seed(0)
    surrogate = nn.Sequential(*(model)).eval()
    threat = ThreatModel("linf", 0.2)
    moved = Transfer(APGD(threat, steps=10, seed=0), surrogate)
    stranger = Transfer(APGD(threat, steps=10, seed=0), nn.Linear(2, 3))
    same, other = moved(model, x, y), stranger(model, x, y)
    assert torch.equal(same, APGD(threat, steps=10, seed=0)(model, x, y))
    assert robust_accuracy(model, same, y) < robust_accuracy(model, other, y)
    joint = worst_of([moved, stranger])(model, x, y)
    assert robust_accuracy(model, joint, y) <= robust_accuracy(model, same, y)


def test_presets():
    protocol = preset("cifar10-linf", seed=3)
    assert protocol.threat == ThreatModel("linf", 8 / 255, (0.0, 1.0))
    assert (protocol.steps, protocol.queries, protocol.seed) == (100, 5000, 3)
    names = {"apgd-ce": 1, "apgd-t": 9, "fab-t": 9}
    for name, attack in protocol.attacks().items():
        assert name == "square" or attack.steps == 100
        if name in names and name != "apgd-ce":
            assert attack.targets == names[name]
    with pytest.raises(ValueError, match=r"preset 'cifar' is not known; choose one of .*mnist"):
        preset("cifar")


class Sequence(nn.Module):
    """Mean of the tokens, then a linear layer; the last feature of x is the mask."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        embeddings, mask = x[..., :-1], x[..., -1]
        total = (embeddings * mask[..., None]).sum(1)
        return self.head(total / mask.sum(1, keepdim=True))


def test_padded_sequences_keep_their_padding():
    torch.manual_seed(0)
    model, embeddings = Sequence(), torch.randn(6, 5, 4)
    mask = torch.arange(5)[None] < torch.tensor([5, 4, 3, 2, 1, 5])[:, None]
    packed = torch.cat((embeddings, mask[..., None]), dim=2)
    y = model(packed).argmax(1)
    threat = ThreatModel("l2", 1.0, support=lambda x: (x[..., -1:] == 1) & (torch.arange(5) < 4))
    for attack in (PGD(threat, restarts=2), AutoAttack(threat, **SMALL)):
        x_adv = attack(model, packed, y)
        out = x_adv[..., :-1]
        assert torch.equal(x_adv[..., -1].bool(), mask)
        assert torch.equal(out[~mask], embeddings[~mask])
        # Frobenius norm over the whole sequence
        assert (out - embeddings).flatten(1).norm(dim=1).max().item() <= 1
    # closed form: every token moves alike, the gain is ε‖w₁ − w₀‖/√T
    gap = (model(packed)[range(6), y] - model(packed)[range(6), 1 - y]).abs()
    weight = (model.head.weight[0] - model.head.weight[1]).norm()
    breakable = gap < 0.999 * weight / mask.sum(1).sqrt()
    assert torch.equal(AutoAttack(threat, **SMALL).evaluate(model, packed, y).robust, ~breakable)


def test_the_protocol_says_where_its_number_means_little(trained):
    """As the authors' code: random answers, probabilities, no gradient; each is a warning, too."""
    model, x, y = trained
    protocol = AutoAttack(ThreatModel("linf", 0.2), steps=3, queries=3, batch_size=50)
    honest = protocol.evaluate(model, x, y)
    assert [f.name for f in honest.findings] == FINDINGS
    assert all(finding.passed for finding in honest.findings)
    torch.manual_seed(0)
    for name, change in {
        "randomised-forward": lambda z: model(z + 0.01 * torch.randn_like(z)),
        "probabilities": lambda z: model(z).softmax(1),
        "zero-gradients": lambda z: model((z * 4).round() / 4 + 0 * z),
    }.items():
        with pytest.warns(EvaluationWarning, match=f"^{name}: "):
            result = protocol.evaluate(change, x, y)
        assert name in {finding.name for finding in failed(result.findings)}
    nothing = protocol.evaluate(model, x, (model(x).argmax(1) + 1) % 3)
    assert nothing.findings == ()


def test_saturated_probabilities_are_never_reported_in_silence(trained):
    """softmax(1000 z) has no gradient left: APGD stands still, and the number is too high."""
    model, x, y = trained
    protocol = AutoAttack(ThreatModel("linf", 0.3), steps=5, queries=2)

    def saturated(z):
        return (1000 * model(z)).softmax(1)

    with pytest.warns(EvaluationWarning) as caught:
        result = protocol.evaluate(saturated, x, y)
    said = {str(warning.message).split(":")[0] for warning in caught}
    assert said == {"zero-gradients", "probabilities"}
    assert result.robust_accuracy > protocol.evaluate(model, x, y).robust_accuracy


def test_certified_examples_are_left_out_of_the_checks_too(trained):
    model, x, y = trained
    protocol = AutoAttack(ThreatModel("linf", 0.2), steps=2, queries=2)
    everything = torch.ones(len(x), dtype=torch.bool)
    assert protocol.evaluate(model, x, y, certified=everything).findings == ()


def test_huge_logits_do_not_stop_the_attack(trained):
    """The cross-entropy of logits times 10⁴ has gradients of exactly 0; what is climbed has not."""
    model, x, y = trained
    threat = ThreatModel("linf", 0.3)
    loud = nn.Sequential(*model, Scale(1e4))
    (grad,) = torch.autograd.grad(
        nn.functional.cross_entropy(loud(leaf := x.clone().requires_grad_()), y), leaf
    )
    assert (grad == 0).all(1).float().mean() > 0.5
    for attack in (PGD(threat, seed=0), APGD(threat, steps=10, seed=0)):
        quiet = robust_accuracy(model, attack(model, x, y), y)
        assert robust_accuracy(loud, attack(loud, x, y), y) == pytest.approx(quiet, abs=0.02)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
