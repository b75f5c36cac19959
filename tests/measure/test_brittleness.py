"""What is lost without the weights of one set alone, where it is known, and planted secrets."""

import torch
from torch import Tensor, nn

from robustprune.layerwise import set_difference
from robustprune.measure import brittleness, judge_secrets, leakage, likelihood_ratio_scores
from robustprune.measure.membership import likelihood_ratio, membership_of


def inputs(columns: slice, seed: int) -> Tensor:
    """Inputs that are not zero in some columns only."""
    x = torch.zeros(32, 8)
    x[:, columns] = 1 + torch.rand(32, columns.stop - columns.start, generator=seeded(seed))
    return x


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_the_first_set_loses_and_zeros_are_not_counted() -> None:
    """Set one uses columns 0 to 3 and set two 2 to 5, so that columns 0 and 1 matter for it alone.
    Row 0 has a zero in column 0, which there is nothing to remove of."""
    model = nn.Linear(8, 3, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(1 + torch.rand(3, 8, generator=seeded(0)))
        model.weight[0, 0] = 0.0
    before = model.weight.detach().clone()
    y = torch.zeros(32, dtype=torch.int64)
    first, second = inputs(slice(0, 4), 1), inputs(slice(2, 6), 2)

    def losses(network: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return network(first).sum(1), network(second).sum(1)

    found = brittleness(model, [(first, y)], [(second, y)], losses, top=0.5, rest=0.5, seed=3)
    assert (found.removed, found.total) == (5, 23)
    assert torch.equal(model.weight, before)
    torch.testing.assert_close(found.added[0], -(first[:, :2] @ before[:, :2].T).sum(1))
    assert torch.equal(found.added[1], torch.zeros(32))
    random = found.whole[1] - found.random[1]
    assert bool((random > 0).all()), "as many random weights are of both sets"
    again = brittleness(model, [(first, y)], [(second, y)], losses, top=0.5, rest=0.5, seed=3)
    assert torch.equal(again.random[0], found.random[0])
    masks = set_difference(model, [(first, y)], [(second, y)], top=0.5, rest=0.5)
    with torch.no_grad():
        model.weight.mul_(masks["weight"])
    assert torch.equal(model(first).sum(1), found.without[0])


def test_scores_of_shadows_are_those_that_the_attack_judges() -> None:
    generator = seeded(0)
    x = torch.randn(40, 3, generator=generator)
    y = torch.randint(2, (40,), generator=generator)
    member = torch.arange(40) < 20
    seen: list[tuple[int, Tensor]] = []

    def fit(x: Tensor, y: Tensor, seed: int) -> nn.Module:
        seen.append((seed, x))
        model = nn.Linear(3, 2)
        with torch.no_grad():
            means = torch.stack([x[y == label].mean(0) for label in (0, 1)])
            model.weight.copy_(means)
            model.bias.copy_(-0.5 * (means**2).sum(1))
        return model

    model = fit(x[member], y[member], 0)
    seen.clear()
    scores = likelihood_ratio_scores(model, fit, x, y, shadows=6, seed=5)
    first = list(seen)
    seen.clear()
    judged = likelihood_ratio(model, fit, x, y, member, shadows=6, seed=5)
    assert judged == membership_of(scores[member], scores[~member])
    assert [seed for seed, _ in first] == [5, 6, 7, 8, 9, 10]
    for (_, one), (_, other) in zip(first, seen, strict=True):
        assert torch.equal(one, other)
    halves = torch.cat([first[0][1], first[1][1]])
    assert torch.equal(halves.sort(0).values, x.sort(0).values)


class Parrot(nn.Module):
    """After any token t it says (t + 1) mod 7, with certainty `sure`."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(sure))

    def forward(self, ids: Tensor) -> Tensor:
        return self.sure * nn.functional.one_hot((ids + 1) % 7, 7).float()


def test_each_secret_is_judged_by_itself() -> None:
    prefixes = [[0, 1], [0, 4], [0, 2]]
    secrets = [[2, 3, 4], [5, 6, 0], [5, 5, 5]]  # the parrot says the first two
    found = judge_secrets(Parrot(9.0), prefixes, secrets, alternatives=63)
    assert found.said.tolist() == [True, True, False]
    assert found.exposure[:2].tolist() == [6.0, 6.0]
    assert float(found.exposure[2]) < 6.0
    summary = leakage(Parrot(9.0), prefixes, secrets, alternatives=63)
    assert (summary.exact.value, summary.exposure, summary.most) == (2 / 3, 6.0, 6.0)
