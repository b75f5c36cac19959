"""Selection inside the training loop: what is descended, when is selected, resume, planted ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, OptimizerSpec, train
from robustprune.selection import (
    DataShapley,
    KnnShapley,
    Method,
    Pool,
    Random,
    Selection,
    Selective,
    TracIn,
    last_layer_utility,
    penultimate_features,
    select_adversarial_examples,
)
from robustprune.tasks import BatchLoader, Split

THREAT = ThreatModel("linf", 0.2)
ATTACK = PGD(THREAT, steps=2, random_start=False)


def split(n: int = 20) -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return Split(x, (x[:, 0] > 0).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def given(weights: Tensor) -> Selection:
    return Selection(weights, weights.nonzero().flatten(), weights)


def selective(loader: BatchLoader, choose: object, **options: object) -> Selective:
    return Selective(
        loader,
        ATTACK,
        choose,  # type: ignore[arg-type]
        x=loader.split.x,
        y=loader.split.y,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("clean_rest", [True, False])
def test_the_loss_is_the_weighted_sum(clean_rest: bool) -> None:
    """Computed by hand, one example at a time, in eval mode so that batch norm can't mix them."""
    loader = BatchLoader(split(6), 6, shuffle=True, seed=3)
    weights = torch.tensor([0.0, 2.0, 0.5, 0.0, 1.0, 0.5])
    objective = selective(loader, lambda *_: given(weights), clean_rest=clean_rest)
    model = network().eval()
    objective.before_epoch(model, 0)
    x, y = next(iter(loader))
    expected = torch.zeros(())
    for row, index in enumerate(loader.indices.tolist()):
        one, label = loader.split.x[index : index + 1], loader.split.y[index : index + 1]
        assert torch.equal(one[0], x[row])
        if weights[index] > 0:
            attacked = ATTACK(model, one, label)
            expected = expected + weights[index] * F.cross_entropy(model(attacked), label) / 6
        elif clean_rest:
            expected = expected + F.cross_entropy(model(one), label) / 6
    torch.testing.assert_close(objective(model, x, y, 0.5).loss, expected)


def test_everything_chosen_is_adversarial_training() -> None:
    loader = BatchLoader(split(), 5, shuffle=True, seed=0)
    objective = selective(loader, lambda *_: given(torch.ones(20)), start=1)
    spec = OptimizerSpec(lr=0.1)
    here, there = network(), network()
    train(here, loader, objective, optimizer=spec, epochs=3)
    again = BatchLoader(split(), 5, shuffle=True, seed=0)
    train(there, again, Adversarial(ATTACK), optimizer=spec, epochs=3)
    for name, value in here.state_dict().items():
        torch.testing.assert_close(value, there.state_dict()[name])


@pytest.mark.parametrize(
    ("start", "every", "epochs", "expected"),
    [
        (0, None, 5, [0]),
        (2, None, 5, [2]),
        (1, 2, 6, [1, 3, 5]),
        (7, 1, 5, []),
        (0, 3, 7, [0, 3, 6]),
    ],
)
def test_when_is_selected(start: int, every: int | None, epochs: int, expected: list[int]) -> None:
    loader = BatchLoader(split(), 5, shuffle=True, seed=0)
    seen: list[int] = []

    def choose(model: nn.Module, pool: Pool, epoch: int) -> Selection:
        seen.append(epoch)
        return given(torch.ones(len(pool)))

    objective = selective(loader, choose, start=start, every=every)
    for _ in range(2):  # a second training with the same objective starts over
        train(network(), loader, objective, optimizer=OptimizerSpec(lr=0.1), epochs=epochs)
        assert objective.epochs == expected
    assert seen == 2 * expected


def test_candidates_are_made_of_the_network_as_it_is() -> None:
    loader, seen = BatchLoader(split(), 5, shuffle=True, seed=0), []

    def choose(model: nn.Module, pool: Pool, epoch: int) -> Selection:
        seen.append(pool.x_adv)
        torch.testing.assert_close(pool.x_adv, ATTACK(model, loader.split.x, loader.split.y))
        return given(torch.ones(len(pool)))

    objective = selective(loader, choose, every=1, batch_size=7)
    train(network(), loader, objective, optimizer=OptimizerSpec(lr=0.5), epochs=2)
    assert not torch.equal(*seen)


def by(name: str) -> object:
    def choose(model: nn.Module, pool: Pool, epoch: int) -> Selection:
        values = (pool.x_adv, pool.y)
        methods: dict[str, Method] = {
            "knn": KnnShapley(k=3),
            "data": DataShapley(last_layer_utility(model, pool, values), 2, seed=epoch),
            "tracin": TracIn([model.state_dict()], [1.0]),
            "random": Random(seed=epoch),
        }
        return select_adversarial_examples(model, pool, values, method=methods[name], keep=0.4)

    return choose


@pytest.mark.parametrize("name", ["knn", "data", "tracin", "random"])
@pytest.mark.parametrize("stop_at", [0, 1, 2, 4])
def test_half_and_resume_equals_straight(tmp_path: Path, name: str, stop_at: int) -> None:
    class Stop(Exception):
        pass

    def stop(record: object) -> None:
        if record.epoch == stop_at:  # type: ignore[attr-defined]
            raise Stop

    def go(model: nn.Module, **options: object) -> Selective:
        torch.manual_seed(1)
        loader = BatchLoader(split(), 5, shuffle=True, seed=0)
        pool_attack = PGD(THREAT, steps=2)  # its random starts come from torch's own generator
        objective = selective(loader, by(name), start=1, every=2, pool_attack=pool_attack)
        spec = OptimizerSpec(lr=0.1)
        train(model, loader, objective, optimizer=spec, epochs=6, **options)  # type: ignore[arg-type]
        return objective

    straight, resumed = network(), network()
    before = go(straight)
    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    with pytest.raises(Stop):
        go(network(), checkpoint=place, on_epoch=stop)
    after = go(resumed, checkpoint=place)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
    assert before.epochs == after.epochs == [1, 3, 5]
    for one, other in zip(before.selections, after.selections, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.chosen, other.chosen)
        assert torch.equal(one.weights, other.weights)
    assert before.pool is not None
    assert after.pool is not None
    assert torch.equal(before.pool.x_adv, after.pool.x_adv)


def test_refusals() -> None:
    loader = BatchLoader(split(), 5, shuffle=True, seed=0)
    with pytest.raises(ValueError, match="start=-1 must be at least 0 and every=None"):
        selective(loader, by("knn"), start=-1)
    with pytest.raises(ValueError, match="every=0 at least 1"):
        selective(loader, by("knn"), every=0)
    objective = selective(loader, by("random"))
    with pytest.raises(ValueError, match="expected epochs, scores, weights, x_adv"):
        objective.load_state_dict({"scores": torch.ones(1, 20)})
    objective.before_epoch(network(), 0)
    small = BatchLoader(split(10), 5, shuffle=True, seed=0)
    with pytest.raises(ValueError, match="is of 20 examples and there are 10"):
        selective(small, by("random")).load_state_dict(objective.state_dict())


def test_the_last_layer_is_ridge_regression() -> None:
    """Against numpy's least squares on the data with √(λN)·I written below them."""
    model, data = network().eval(), split(12)
    pool = Pool(data.x[:8], data.y[:8])
    held, base = (data.x[8:], data.y[8:]), (data.x[:2], data.y[:2])
    utility = last_layer_utility(model, pool, held, base=base, ridge=0.1)

    def features(x: Tensor) -> Tensor:
        return F.pad(penultimate_features(model, x).double(), (0, 1), value=1.0)

    scale = features(pool.x_adv).square().mean(0).sqrt()
    scale[scale == 0] = 1.0
    chosen = [1, 4, 6]
    rows = torch.cat((features(pool.x_adv[chosen]), features(base[0]))) / scale
    ones = F.one_hot(torch.cat((pool.y[chosen], base[1])), 2).double()
    lower = (0.1 * 10) ** 0.5 * torch.eye(rows.shape[1], dtype=torch.float64)
    stacked = torch.cat((rows, lower)).numpy(), F.pad(ones, (0, 0, 0, len(lower))).numpy()
    solution = torch.from_numpy(np.linalg.lstsq(*stacked, rcond=None)[0])
    gap = (features(held[0]) / scale) @ solution - F.one_hot(held[1], 2)
    assert utility(torch.tensor(chosen)) == pytest.approx(-float(gap.square().sum(1).mean()))
    with pytest.raises(ValueError, match="ridge=0 must be above 0"):
        last_layer_utility(model, pool, held, ridge=0)


def blobs(n: int, generator: torch.Generator) -> Split:
    y = torch.arange(n) % 2
    x = 0.7 * torch.randn(n, 4, generator=generator)
    x[:, 0] += 2.0 * (2 * y - 1)
    return Split(x, y)


@pytest.mark.parametrize("name", ["knn", "data", "tracin"])
@pytest.mark.parametrize("planted", ["mislabelled", "over-strong"])
def test_planted_bad_examples_are_ranked_worst(name: str, planted: str) -> None:
    """Six of 40 candidates carry the wrong label, or an attack so strong that they lie in the
    other class; they must be the six worst, with at most one exchanged."""
    generator = torch.Generator().manual_seed(0)
    data, held = blobs(40, generator), blobs(40, generator)
    model = network()
    train(
        model,
        BatchLoader(data, 10, shuffle=True, seed=0),
        Adversarial(PGD(THREAT, steps=3)),
        optimizer=OptimizerSpec(lr=0.05),
        epochs=20,
    )
    bad = torch.tensor([3, 8, 13, 21, 30, 36])
    x_adv, y = ATTACK(model, data.x, data.y), data.y.clone()
    if planted == "mislabelled":
        y[bad] = 1 - y[bad]
    else:
        strong = PGD(ThreatModel("linf", 4.0), steps=20, random_start=False)
        x_adv[bad] = strong(model, data.x[bad], data.y[bad])
    pool, values = Pool(x_adv, y, data.x), (ATTACK(model, held.x, held.y), held.y)
    methods: dict[str, Method] = {
        "knn": KnnShapley(k=5),
        "data": DataShapley(last_layer_utility(model, pool, values), 100, seed=0),
        "tracin": TracIn([model.state_dict()], [1.0]),
    }
    chosen = select_adversarial_examples(model, pool, values, method=methods[name], keep=1.0)
    assert len(set(chosen.chosen[-6:].tolist()) & set(bad.tolist())) >= 5
