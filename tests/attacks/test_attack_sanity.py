import pytest
import torch
from torch import nn

from attacks import FGSM, PGD, ThreatModel, check_attacks, from_torchattacks, robust_accuracy
from attacks.sanity import Finding, failed, unbounded_attack

THREAT = ThreatModel("linf", 0.2)


def names(findings):
    return {finding.name for finding in failed(findings)}


def test_a_plain_network_passes(trained):
    model, x, y = trained
    findings = check_attacks(model, x, y, THREAT, surrogate=model, queries=100)
    assert names(findings) == set()
    assert len(findings) == 11
    assert all("%" in str(finding) or "passes" in str(finding) for finding in findings)


@pytest.mark.parametrize("spread", [0.0, 1e-6])  # without and with a gradient to climb
def test_a_constant_answer_is_called_one(trained, spread):
    _, x, y = trained
    head = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    nn.init.normal_(head[1].weight, std=spread)
    with torch.no_grad():
        head[1].bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    findings = check_attacks(head, x, y, THREAT, queries=20, steps=5)
    said = {finding.name: finding for finding in findings}
    share = (y == 1).double().mean().item()
    assert not said["constant-answer"].passed
    assert f"class, 1, a constant answer, right on {share:.1%}" in said["constant-answer"].message
    assert names(findings) - {"zero-gradients"} == {"constant-answer"}
    if spread:
        assert "zero-gradients" not in names(findings)
        assert "every example still gets class 1" in said["accuracy-reaches-zero"].message
    one_class = check_attacks(head, x[y == 1], y[y == 1], THREAT, queries=20, steps=5)
    assert "constant-answer" not in names(one_class)


class Wrapped(nn.Module):
    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.change(self.model, x)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f, x: f(x + 0.3 * torch.randn_like(x)), "randomised-forward"),
        (lambda f, x: f(x).softmax(1), "probabilities"),
        (lambda f, x: f((x * 4).round() / 4), "zero-gradients"),
        (lambda f, x: f((x * 4).round() / 4), "white-box-beats-black-box"),
        (lambda f, x: f(x)[:, [1, 2, 0]], "labels-fit"),
        (lambda f, x: f(x).detach() * 1 + 0 * x[:, :1], "zero-gradients"),
        (lambda f, x: f(x - x + x.detach()), "zero-gradients"),
    ],
)
def test_hidden_gradients_are_named(trained, change, expected):
    model, x, y = trained
    torch.manual_seed(0)
    findings = check_attacks(Wrapped(model, change), x, y, THREAT, queries=100)
    assert expected in names(findings)
    assert all(isinstance(finding.figure, float) for finding in findings)


def test_accuracy_that_never_falls_is_named(trained):
    model, x, y = trained

    def stubborn(f, z):  # says class 0, whatever the input adds to that
        return nn.functional.softsign(f(z)) + torch.tensor([3.0, 0.0, 0.0])

    findings = check_attacks(Wrapped(model, stubborn), x, 0 * y, THREAT, queries=20, steps=5)
    assert "accuracy-reaches-zero" in names(findings)


def two_logits(margin):
    return torch.stack((-margin / 2, margin / 2), 1)


def test_what_a_small_ball_breaks_is_broken_in_every_larger_one():
    """Each of two examples is wrong in a shell around it, one too thin for the steps of the ball
    that reaches the other's."""
    x, y = torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([1, 1])

    def shells(z):
        far = z[:, 0] > 50
        distance = (z - torch.where(far[:, None], x[1], x[0])).norm(dim=1)
        return two_logits((distance - torch.where(far, 3.0, 0.1)).abs() - far * 0.46 - 0.04)

    threat = ThreatModel("l2", 0.1)
    finding = unbounded_attack(shells, x, y, threat)
    assert finding.passed, finding
    wide = PGD(ThreatModel("l2", 3.2), steps=20, seed=0)
    assert robust_accuracy(shells, wide(shells, x, y), y) == 0.5


def test_finding_prints_its_figure():
    text = str(Finding("zero-gradients", False, 0.5, "50.0% of the input gradients are zero"))
    assert text == "WARN zero-gradients: 50.0% of the input gradients are zero"


def test_from_torchattacks_agrees_with_ours_and_refuses_what_it_cannot_do():
    pytest.importorskip("torchattacks")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).train()
    x, y = torch.rand(5, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    peer = from_torchattacks("FGSM", eps=0.1)
    ours = FGSM(ThreatModel("linf", 0.1, (0.0, 1.0)))
    assert torch.allclose(peer(model, x, y), ours(model, x, y), atol=1e-6)
    assert torch.allclose(peer(model.forward, x, y), ours(model, x, y), atol=1e-6)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert 0 <= robust_accuracy(model, peer(model, x, y), y) <= 1
    with pytest.raises(ValueError, match="bounds=None"):
        from_torchattacks("FGSM", bounds=None)
    with pytest.raises(ValueError, match=r"outside bounds=\(0\.0, 1\.0\)"):
        peer(model, 3 * x, y)
    with pytest.raises(ValueError, match=r"shape \(5, 36\)"):
        peer(model, x.flatten(1), y)
    with pytest.raises(ValueError, match="no attack 'Nothing'"):
        from_torchattacks("Nothing")
