"""The worst of several attacks for each example, against `evaluate` and by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import FGSM, Square, ThreatModel
from robustprune.measure import attack_set, compare_trust, evaluate
from robustprune.measure.answers import adversarial_examples, worst_examples


@dataclass(frozen=True)
class Shift:
    """Adds the same vector to each example."""

    by: tuple[float, float]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + torch.tensor(self.by)


def sign_of_sum() -> nn.Linear:
    """Class 1 where x₀ + x₁ > 0."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    return model.eval()


def test_each_example_gets_the_shift_that_harms_it_most() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])
    y = torch.tensor([1, 0, 1, 1])
    up, down = Shift((0.0, 0.3)), Shift((-0.7, 0.0))
    found = worst_examples(sign_of_sum(), x, y, {"up": up, "down": down}, batch_size=3)
    # the first and the last lose by going down, the second by going up; the third is wrong already
    wanted = torch.tensor([[0.3, 0.0], [-1.0, 0.3], [-1.7, 0.0], [-0.2, 0.0]])
    torch.testing.assert_close(found, wanted)
    helped = worst_examples(sign_of_sum(), x[2:3], y[2:3], {"up": Shift((3.0, 0.0))})
    assert torch.equal(helped, x[2:3]), "what is wrong without an attack stays wrong"
    with pytest.raises(ValueError, match="attacks is empty"):
        worst_examples(sign_of_sum(), x, y, {})


def test_a_wrong_answer_is_worse_than_a_right_one_with_a_larger_loss() -> None:
    """Of 3 classes, p = (0.4, 0.3, 0.3) is right with loss 0.92 and (0.49, 0.5, 0.01) is wrong."""

    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.49, 0.5, 0.01]]).log()
            return rows[x[:, 0].long()]

    x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    attacks = {"right": Shift((1.0, 0.0)), "wrong": Shift((2.0, 0.0))}
    for order in (("right", "wrong"), ("wrong", "right")):
        found = worst_examples(Table(), x, y, {name: attacks[name] for name in order})
        assert found[0, 0] == 2.0


def test_the_worst_case_is_that_of_the_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(40, 2, 4)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    threat = ThreatModel("linf", 0.1)
    attacks = attack_set(threat, steps=3, restarts=2, more=("apgd",), seed=0)
    wanted = evaluate(model, x, y, attacks, batch_size=16)
    found = worst_examples(model, x, y, attacks, batch_size=16)
    right = model(found).argmax(1) == y
    assert torch.equal(right, wanted.worst)
    assert 0 < int(right.sum()) < int(wanted.clean.sum())
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
    single = adversarial_examples(model, x, y, attacks["fgsm"])
    standing = right.nonzero().flatten()  # of those, FGSM alone finds no larger loss
    theirs, own = (
        F.cross_entropy(model(points[standing]), y[standing], reduction="none")
        for points in (single, found)
    )
    assert bool((theirs <= own + 1e-5).all())


def test_where_gradients_are_hidden_the_comparison_takes_what_square_finds() -> None:
    """Rounded inputs have no gradient: PGD alone would credit the second network with too much."""

    class Rounded(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network((x * 50).round() / 50)

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 2, generator=generator) - 0.5
    model = sign_of_sum()
    y = model(x).argmax(1)
    threat = ThreatModel("linf", 0.2)
    fgsm, square = FGSM(threat), Square(threat, queries=100, seed=0)
    few = {"corruptions": (), "seed": 0}
    alone = compare_trust(model, Rounded(model), x, y, attack=fgsm, **few)
    both = compare_trust(model, Rounded(model), x, y, attack={"f": fgsm, "s": square}, **few)
    one, two = (
        next(row for row in found.changes if row.name == "accuracy, attacked")
        for found in (alone, both)
    )
    assert one.verdict == "better"
    assert two.compressed < one.compressed - 0.2
    assert two.verdict == "no difference shown"
