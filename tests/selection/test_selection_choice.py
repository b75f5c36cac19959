"""From scores to a choice: what is kept, with which weights, and what is refused."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.selection import (
    BoundaryDistance,
    DataShapley,
    HighestLoss,
    KnnShapley,
    Pool,
    Random,
    TracIn,
    boundary_weights,
    knn_shapley,
    select_adversarial_examples,
    steps_to_break,
    tracin,
)


@dataclass(frozen=True)
class Given:
    """The scores that are written down."""

    scores: tuple[float, ...]
    signed: ClassVar[bool] = True

    def __call__(self, model, pool, validation):
        return torch.tensor(self.scores)


def pool_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 4, generator=generator)
    return Pool(x + 0.1, torch.arange(count) % 2, x)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def chosen_by(scores, **options):
    pool = pool_of(len(scores))
    return select_adversarial_examples(model(), pool, method=Given(tuple(scores)), **options)


def test_the_highest_scores_are_chosen_ties_in_order():
    selection = chosen_by([1.0, 3.0, 3.0, 2.0, -1.0], keep=0.6)
    assert selection.chosen.tolist() == [1, 2, 3]
    assert selection.weights.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert chosen_by([1.0, 2.0, 0.0], keep=0.01).chosen.tolist() == [1]
    assert chosen_by([1.0, 2.0, 0.0], keep=1).chosen.tolist() == [1, 0, 2]


def test_harmful_candidates_are_left_out():
    selection = chosen_by([0.5, -0.1, 0.0, 1.5], keep="positive")
    assert selection.chosen.tolist() == [3, 0]


def test_weights_are_in_proportion_and_one_on_average():
    selection = chosen_by([1.0, 3.0, -5.0], keep="positive", weighted=True)
    assert selection.weights.tolist() == [0.5, 1.5, 0.0]


@pytest.mark.parametrize(
    ("scores", "options", "match"),
    [
        ([1.0], {"keep": 0.0}, r"keep=0\.0 must be a fraction"),
        ([1.0], {"keep": "best"}, "keep='best' must be a fraction"),
        ([-1.0, 0.0], {"keep": "positive"}, r"none of the 2 candidates .*the highest is 0"),
        ([-1.0, 1.0], {"keep": 1.0, "weighted": True}, "these go from -1 to 1"),
        ([float("nan")], {"keep": 1.0}, "Given gave scores of shape .* not finite"),
    ],
)
def test_choices_that_mean_nothing_are_refused(scores, options, match):
    with pytest.raises(ValueError, match=match):
        chosen_by(scores, **options)


def test_a_method_without_a_sign_cannot_choose_by_it():
    for method in (Random(0), HighestLoss(), BoundaryDistance(ThreatModel("l2", 0.1))):
        with pytest.raises(ValueError, match=f"{type(method).__name__} has no sign"):
            select_adversarial_examples(model(), pool_of(3), method=method, keep="positive")


def test_pools_that_do_not_fit_are_refused():
    pool = pool_of(4)
    with pytest.raises(ValueError, match=r"the pool has x of shape \(4, 1, 4\) and y of shape \(3"):
        Pool(pool.x_adv, pool.y[:3])
    with pytest.raises(ValueError, match=r"x has shape \(3, 1, 4\) and x_adv \(4, 1, 4\)"):
        Pool(pool.x_adv, pool.y, pool.x[:3])
    with pytest.raises(ValueError, match="KnnShapley values candidates by validation"):
        select_adversarial_examples(model(), pool, method=KnnShapley(), keep=0.5)
    bare, method = Pool(pool.x_adv, pool.y), BoundaryDistance(ThreatModel("l2", 0.1))
    with pytest.raises(ValueError, match=r"give Pool\(x_adv, y, x\)"):
        select_adversarial_examples(model(), bare, method=method, keep=0.5)


def test_each_method_scores_with_its_own_function():
    network, pool, other = model(), pool_of(6), pool_of(3, seed=1)
    validation = (other.x_adv, other.y)
    threat = ThreatModel("l2", 2.0)
    states = [network.state_dict()]
    features = [network[:3](x) for x in (pool.x_adv, other.x_adv)]
    kappa = steps_to_break(network, pool.x, pool.y, threat, steps=10)
    assert 0 < kappa.float().mean() < 10
    worth = torch.arange(6.0)
    expected = {
        KnnShapley(k=2, batch_size=2): knn_shapley(features[0], pool.y, features[1], other.y, k=2),
        TracIn(states, [0.1], "all", batch_size=4): tracin(
            network,
            (pool.x_adv, pool.y),
            validation,
            checkpoints=states,
            learning_rates=[0.1],
            layers="all",
        ),
        BoundaryDistance(threat, batch_size=4): boundary_weights(kappa, steps=10),
        HighestLoss(batch_size=4): F.cross_entropy(
            network(pool.x_adv), pool.y, reduction="none"
        ).detach(),
        DataShapley(lambda s: worth[s].sum().item(), permutations=2): worth.double(),
    }
    for method, scores in expected.items():
        selection = select_adversarial_examples(network, pool, validation, method=method, keep=0.5)
        torch.testing.assert_close(selection.scores, scores.detach())
        assert len(selection.chosen) == 3


def test_random_is_the_seeds_alone():
    network, pool = model(), pool_of(40)
    first, again, other = (
        select_adversarial_examples(network, pool, method=Random(seed), keep=0.5).chosen.tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert set(first) != set(other)


def test_the_example_of_the_guide_runs(capsys):
    guide = Path(__file__).parents[2] / "docs" / "timeseries.md"
    for code in re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, str(guide), "exec"), {})
    assert "chosen" in capsys.readouterr().out


def test_balanced_takes_the_fraction_of_each_class() -> None:
    pool = Pool(torch.zeros(7, 2), torch.tensor([0, 0, 0, 0, 1, 1, 1]))
    method = Given((9.0, 8.0, 7.0, 6.0, 1.0, 3.0, 2.0))
    model = nn.Linear(2, 2)
    plain = select_adversarial_examples(model, pool, method=method, keep=0.5)
    assert plain.chosen.tolist() == [0, 1, 2, 3]
    halves = select_adversarial_examples(model, pool, method=method, keep=0.5, balanced=True)
    assert halves.chosen.tolist() == [0, 1, 5, 6]  # round(1.5) is 2
    few = select_adversarial_examples(model, pool, method=method, keep=0.01, balanced=True)
    assert few.chosen.tolist() == [0, 5]
    with pytest.raises(ValueError, match="leave out balanced"):
        select_adversarial_examples(model, pool, method=method, keep="positive", balanced=True)
