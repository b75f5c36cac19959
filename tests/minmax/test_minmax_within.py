"""State kept within an epoch: stopped after any step, the same training goes on bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    EpochRecord,
    Free,
    Natural,
    Objective,
    OnAttacked,
    OptimizerSpec,
    Repeated,
    StepResult,
    TrainingDiverged,
    Validation,
    train,
)
from robustprune.run.checkpoint import load_tensors
from robustprune.selection import (
    Pool,
    Random,
    Selection,
    Selective,
    select_adversarial_examples,
)
from robustprune.tasks import BatchLoader, Split

THREAT = ThreatModel("linf", 0.2)
PGD_2 = PGD(THREAT, steps=2)
EPOCHS, BATCHES = 3, 4
Loader = BatchLoader | Repeated


class Stop(Exception):
    pass


class Clock:
    """Shows an hour more after each step, so that state is kept after every one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        fake = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("robustprune.minmax.resume.time", fake)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def loader() -> BatchLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(18, 4, generator=generator)
    noisy = lambda x, generator: x + 0.1 * torch.randn(x.shape, generator=generator)  # noqa: E731
    return BatchLoader(Split(x, (x[:, 0] > 0).long()), 5, shuffle=True, seed=0, augment=noisy)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)]
    return nn.Sequential(*layers)


def adversarial() -> tuple[Objective, Loader]:
    return Adversarial(PGD_2), loader()


def free() -> tuple[Objective, Loader]:
    return Free(THREAT), Repeated(loader(), 3)


def selective() -> tuple[Objective, Loader]:
    batches = loader()

    def choose(model: nn.Module, pool: Pool, epoch: int) -> Selection:
        return select_adversarial_examples(model, pool, method=Random(seed=epoch), keep=0.5)

    x, y = batches.split.x, batches.split.y
    objective = Selective(batches, PGD_2, choose, x=x, y=y, every=1)
    return objective, batches


class Stopping:
    """An objective after whose n-th call, and the step that follows, the training is stopped."""

    def __init__(self, objective: Objective, clock: Clock, after: float) -> None:
        # under names of their own: when it stops is no option of the training, whose file says
        # what the objective was made with
        self.objective, self._clock, self._after, self.calls = objective, clock, after, 0
        for name in ("before_epoch", "state_dict", "load_state_dict"):
            if hasattr(objective, name):
                setattr(self, name, getattr(objective, name))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        if self.calls == self._after:
            raise Stop
        self.calls += 1
        self._clock.now += 3600
        return self.objective(model, x, y, epoch)


def go(
    make: Callable[[], tuple[Objective, Loader]],
    clock: Clock,
    place: Checkpoint | None,
    *,
    after: float = float("inf"),
) -> tuple[nn.Module, list[EpochRecord], int]:
    """The model, its history without times, and how many steps that took."""
    torch.manual_seed(1)
    model, (objective, batches) = network(), make()
    stopping = Stopping(objective, clock, after)
    history = train(
        model,
        batches,
        stopping,
        optimizer=OptimizerSpec(name="adam", lr=0.02, warmup=1),
        epochs=EPOCHS,
        validation=Validation(loader=list(loader()), attack=PGD_2),
        average=0.9,
        checkpoint=place,
        quiet=True,
    )
    return model, [replace(record, seconds=0.0) for record in history], stopping.calls


@pytest.mark.parametrize(("make", "every"), [(adversarial, 1), (free, 5), (selective, 3)])
def test_a_training_goes_on_from_any_step(
    tmp_path: Path, clock: Clock, make: Callable[[], tuple[Objective, Loader]], every: int
) -> None:
    """Every fifth of Free's takes in each of three repeats and both ends of an epoch of twelve."""
    straight, history, steps = go(make, clock, None)
    for after in range(1, steps, every):
        place = Checkpoint(tmp_path / f"{after}.safetensors")
        with pytest.raises(Stop):
            go(make, clock, place, after=after)
        resumed, same, left = go(make, clock, place)
        assert left == steps - after
        assert same == history
        for name, value in straight.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize(("after", "kept"), [(2, None), (3, 3), (5, 3), (6, 6)])
def test_state_is_kept_when_it_is_due(
    tmp_path: Path, clock: Clock, after: int, kept: int | None
) -> None:
    """Every three hours, with steps of an hour."""
    place = Checkpoint(tmp_path / "s.safetensors", seconds=3 * 3600)
    with pytest.raises(Stop):
        go(adversarial, clock, place, after=after)
    found = load_tensors(place.path)[1]["step"] if place.path.exists() else None
    assert found == kept


def test_it_takes_a_twentieth_of_the_time_at_most(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[float] = []

    def slow(*arguments: object, **options: object) -> None:
        clock.now += 720  # a fifth of a step
        saved.append(clock.now)

    monkeypatch.setattr("robustprune.minmax.resume.save_tensors", slow)
    x = torch.randn(200, 4)
    batches = BatchLoader(Split(x, (x[:, 0] > 0).long()), 5, shuffle=True, seed=0)
    objective = Stopping(Natural(), clock, float("inf"))
    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    train(network(), batches, objective, optimizer=OptimizerSpec(), epochs=1, checkpoint=place)
    gaps = [later - earlier for earlier, later in pairwise(saved)]
    assert len(gaps) == 10  # after steps 1, 5, ..., 37 and at the end
    assert all(gap >= 20 * 720 for gap in gaps[:-1])


class Plain:
    """A loader that has a length and keeps no place."""

    def __init__(self) -> None:
        self.batches = list(loader())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def test_a_loader_without_a_place_is_kept_between_epochs(tmp_path: Path, clock: Clock) -> None:
    make = lambda: (Adversarial(PGD_2), Plain())  # noqa: E731
    place = Checkpoint(tmp_path / "s.safetensors")
    straight, history, steps = go(make, clock, None)  # type: ignore[arg-type]
    with pytest.raises(Stop):
        go(make, clock, place, after=BATCHES + 2)  # type: ignore[arg-type]
    resumed, same, left = go(make, clock, place)  # type: ignore[arg-type]
    assert (left, same) == (steps - BATCHES, history)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_weights_that_a_finite_loss_made_infinite_are_not_kept(
    tmp_path: Path, clock: Clock
) -> None:
    place = Checkpoint(tmp_path / "s.safetensors")
    spec = OptimizerSpec(lr=1e39, momentum=0.0, schedule="constant")  # beyond float32
    objective = Stopping(Natural(), clock, float("inf"))
    with pytest.raises(TrainingDiverged, match="in epoch 1"):
        train(network(), loader(), objective, optimizer=spec, epochs=1, checkpoint=place)
    assert not place.path.exists()


def test_an_objective_with_a_state_cannot_follow_attacked_batches() -> None:
    with pytest.raises(ValueError, match="Free keeps a state from step to step"):
        OnAttacked(PGD_2, Free(THREAT))
