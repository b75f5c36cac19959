"""Values of candidates by a network that works in place and returns more than its logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import OptimizerSpec, train
from robustprune.selection import (
    BoundaryDistance,
    HighestLoss,
    KnnShapley,
    Method,
    Pool,
    Selective,
    TracIn,
    last_layer_utility,
    penultimate_features,
    select_adversarial_examples,
)
from robustprune.tasks import BatchLoader, Split

THREAT = ThreatModel("linf", 0.1)
RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda z: z,
    "tuple": lambda z: (z, None),
    "dict": lambda z: {"logits": z},
}


class Foreign(nn.Module):
    """Subtracts a mean from its input, in place or not; its head works in place on what it sees."""

    def __init__(self, returns: str, *, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        self.returns, self.in_place = returns, in_place

    def forward(self, x: Tensor) -> Any:
        if self.in_place:
            x -= 0.5
        else:
            x = x - 0.5
        features = self.first(x).tanh()
        z = self.head(features)
        if self.in_place and not torch.is_grad_enabled():
            features.zero_()  # what the head saw is gone
        return RETURNS[self.returns](z)


def pool() -> tuple[Pool, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(12, 5, generator=generator), torch.arange(12) % 3
    return Pool(x[:8] + 0.05, y[:8], x[:8].clone()), (x[8:], y[8:])


METHODS: dict[str, Callable[[nn.Module], Method]] = {
    "knn": lambda model: KnnShapley(k=2),
    "tracin": lambda model: TracIn([model.state_dict()], [1.0], layers="all"),
    "boundary": lambda model: BoundaryDistance(THREAT, steps=3),
    "loss": lambda model: HighestLoss(),
}


@pytest.mark.parametrize("returns", RETURNS)
@pytest.mark.parametrize("name", METHODS)
def test_values_are_those_of_the_plain_network(name: str, returns: str) -> None:
    found = []
    for model in (Foreign(returns, in_place=True), Foreign("tensor", in_place=False)):
        candidates, validation = pool()
        before = [t.clone() for t in (candidates.x_adv, candidates.x, *validation)]  # type: ignore[union-attr]
        method = METHODS[name](model)
        found.append(
            select_adversarial_examples(model, candidates, validation, method=method, keep=0.5)
        )
        after = (candidates.x_adv, candidates.x, *validation)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # type: ignore[arg-type]
    torch.testing.assert_close(found[0].scores, found[1].scores)
    assert torch.equal(found[0].chosen, found[1].chosen)


def test_features_are_those_that_the_head_saw() -> None:
    model, (candidates, validation) = Foreign("dict", in_place=True), pool()
    features = penultimate_features(model, candidates.x_adv, batch_size=3)
    expected = model.first(candidates.x_adv - 0.5).tanh()
    torch.testing.assert_close(features, expected)
    plain = last_layer_utility(Foreign("tensor", in_place=False), candidates, validation)
    assert last_layer_utility(model, candidates, validation)(torch.arange(8)) == pytest.approx(
        plain(torch.arange(8))
    )


def test_training_on_chosen_examples_is_that_of_the_plain_network() -> None:
    ends = []
    for model in (Foreign("tuple", in_place=True), Foreign("tensor", in_place=False)):
        candidates, _ = pool()
        assert candidates.x is not None
        split = Split(candidates.x.clone(), candidates.y)
        loader = BatchLoader(split, 4, shuffle=True, seed=0)

        def choose(model: nn.Module, pool: Pool, epoch: int) -> Any:
            return select_adversarial_examples(model, pool, method=HighestLoss(), keep=0.5)

        attack = PGD(THREAT, steps=2, seed=0)
        objective = Selective(loader, attack, choose, x=split.x, y=split.y, every=1)
        history = train(
            model, loader, objective, optimizer=OptimizerSpec(lr=0.1), epochs=3, quiet=True
        )
        ends.append([record.loss for record in history])
        assert torch.equal(split.x, candidates.x)
    assert ends[0] == ends[1]
