"""The training loop, its objectives and schedules."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    Constraint,
    Natural,
    OptimizerSpec,
    StepResult,
    TrainingDiverged,
    Validation,
    train,
)
from robustprune.minmax.compiled import compiled
from robustprune.run.runtime import warn_of_emulated_bfloat16
from robustprune.search import find_scratch_ticket
from robustprune.sparsity import MaskSet

THREAT = ThreatModel("linf", 0.2)


def data(n: int = 20) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(5), y.split(5), strict=True))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_training_minimises_the_objective() -> None:
    history = train(network(), data(), Natural(), optimizer=OptimizerSpec(lr=0.1), epochs=30)
    assert history[-1].loss < 0.2 * history[0].loss
    assert (history[-1].clean, history[-1].robust) == (1.0, None)
    assert [r.epoch for r in history] == list(range(30))
    assert history[-1].step == 30 * 4


def test_adversarial_training_is_more_robust_than_natural() -> None:
    """A weak feature (±0.1) is always right, a strong one (±1) nine times of ten. Clean training
    relies on the first, which eps = 0.2 turns round; training under attack on the second."""
    y = torch.arange(40) % 2
    sign = 2.0 * y - 1.0
    x = torch.stack([0.1 * sign, torch.where(torch.arange(40) % 20 < 2, -sign, sign)], 1)
    accuracy = {}
    for objective in (Natural(), Adversarial(PGD(THREAT, steps=3))):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        train(
            model,
            [(x, y)],
            objective,
            optimizer=OptimizerSpec(lr=5.0, weight_decay=0.0),
            epochs=400,
        )
        check = Validation(loader=[(x, y)], attack=PGD(THREAT, steps=20, seed=0))
        accuracy[type(objective).__name__] = check(model, torch.device("cpu"))
    assert accuracy["Adversarial"] == (0.9, 0.9)
    assert accuracy["Natural"][0] == 1.0
    assert accuracy["Natural"][1] == 0.0


def test_only_the_given_parameters_move() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(
        model,
        data(),
        Natural(),
        optimizer=OptimizerSpec(lr=0.1),
        epochs=1,
        parameters=[model[3].weight],  # type: ignore[list-item]
    )
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved == ["3.weight"]


def test_modes_are_kept_through_attack_and_looks() -> None:
    """A submodule that the user froze in eval mode trains on in train mode by `model.train()`
    alone; the attack and the clean accuracy must not leave anything in eval mode."""
    model, seen = network(), []

    def spy(model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        result = Adversarial(PGD(THREAT, steps=2))(model, x, y, epoch)
        seen.append(all(m.training for m in model.modules()))
        return result

    train(model, data(), spy, optimizer=OptimizerSpec(lr=0.1), epochs=2)
    assert seen == [True] * 8


def test_warmup_grows_eps_from_zero() -> None:
    sizes = []

    class Spy:
        threat = THREAT

    def forward(x: Tensor) -> Tensor:
        return x[:, :2]

    for epoch in (0.5, 1.0, 2.0, 9.0):
        objective = Adversarial(PGD(THREAT, steps=1, random_start=False, step_size=0.2), warmup=2.0)
        x, y = data()[0]
        seen: list[Tensor] = []

        class Probe(nn.Module):
            def forward(self, x: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(x.detach())
                return forward(x)

        objective(Probe(), x, y, epoch)
        sizes.append(float((seen[-1] - x).abs().max()))
    assert sizes == pytest.approx([0.05, 0.1, 0.2, 0.2])


@pytest.mark.parametrize(
    ("spec", "rates"),
    [
        (OptimizerSpec(lr=2.0, schedule="constant"), [2.0, 2.0, 2.0]),
        (OptimizerSpec(lr=2.0, schedule="cosine"), [2.0, 1.0, 0.0]),
        (OptimizerSpec(lr=2.0, schedule="step", milestones=(4, 8)), [2.0, 0.2, 0.02]),
        (OptimizerSpec(lr=2.0, schedule="constant", warmup=10), [0.0, 1.0, 2.0]),
    ],
)
def test_learning_rates(spec: OptimizerSpec, rates: list[float]) -> None:
    assert [spec.lr_at(epoch, 10) for epoch in (0, 5, 10)] == pytest.approx(rates)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_half_and_resume_equals_straight(tmp_path: Path, name: str) -> None:
    class Stop(Exception):
        pass

    def go(model: nn.Module, **options: object) -> list[float]:
        torch.manual_seed(1)
        spec = OptimizerSpec(name=name, lr=0.05, warmup=1)  # type: ignore[arg-type]
        objective = Adversarial(PGD(THREAT, steps=2))
        check = Validation(loader=data(10), attack=None, every=2)
        history = train(
            model,
            data(),
            objective,
            optimizer=spec,
            epochs=6,
            validation=check,
            **options,  # type: ignore[arg-type]
        )
        return [record.loss for record in history]

    def stop(record: object) -> None:
        if record.epoch == 2:  # type: ignore[attr-defined]
            raise Stop

    straight, resumed = network(), network()
    losses = go(straight)
    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    with pytest.raises(Stop):
        go(network(), checkpoint=place, on_epoch=stop)
    assert go(resumed, checkpoint=place) == losses
    for name_, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name_])


def test_a_damaged_checkpoint_costs_an_epoch_and_changes_nothing(tmp_path: Path) -> None:
    def go(model: nn.Module, epochs: int, checkpoint: Checkpoint | None) -> nn.Module:
        torch.manual_seed(1)
        spec = OptimizerSpec(lr=0.05, schedule="constant")
        objective = Adversarial(PGD(THREAT, steps=2))
        train(model, data(), objective, optimizer=spec, epochs=epochs, checkpoint=checkpoint)
        return model

    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    straight = go(network(), 5, None)
    go(network(), 3, place)
    place.path.write_bytes(place.path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"s\.safetensors is damaged"):
        resumed = go(network(), 5, place)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    spec = OptimizerSpec(lr=0.1)
    train(network(), data(), Natural(), optimizer=spec, epochs=1, checkpoint=place)
    with pytest.raises(
        ValueError,
        match="of another call: epochs is 1 there and 2 here; different, too: param",
    ):
        train(nn.Linear(4, 2), data(), Natural(), optimizer=spec, epochs=2, checkpoint=place)


def test_a_non_finite_loss_brings_the_last_good_epoch_back() -> None:
    model = network()
    calls, good = [], {}

    def explode(model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        if len(calls) == 4:
            good.update({n: v.clone() for n, v in model.state_dict().items()})
        calls.append(1)
        result = Natural()(model, x, y, epoch)
        scale = float("nan") if len(calls) > 6 else 1.0
        return StepResult(result.loss * scale, result.right, result.counted)

    with pytest.raises(TrainingDiverged, match="non-finite in epoch 2"):
        train(model, data(), explode, optimizer=OptimizerSpec(lr=0.1), epochs=3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, good[name])


class Stream:
    """A loader without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(data())


def test_a_loader_without_a_length_and_the_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    objective = Adversarial(PGD(THREAT, steps=1))
    spec = OptimizerSpec(lr=0.1)
    train(network(), Stream(), objective, optimizer=spec, epochs=2, title="mine", quiet=False)
    shown = capsys.readouterr().err
    for text in ("mine · epoch 2/2", "loss=", "clean=", "robust="):
        assert text in shown


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (network(), [], "no batches"),
        (nn.Flatten(), data(), "no parameter requires a gradient"),
        (
            nn.Linear(4, 2),
            [(torch.full((5, 4), torch.nan), torch.zeros(5).long())],
            "non-finite inputs",
        ),
        (nn.Linear(4, 2), [(torch.ones(5, 4), torch.zeros(5))], "labels must be int64"),
        (nn.Linear(4, 2), [(torch.ones(5, 4), torch.arange(5))], r"labels must lie in 0\.\.1"),
        (nn.Linear(4, 2), [(torch.ones(5, 4).long(), torch.arange(5))], "must be floating point"),
        (nn.Linear(4, 2), [(torch.ones(5, 3, 4), torch.zeros(5).long())], r"shape \(N, classes\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(model, batches, Natural(), optimizer=OptimizerSpec(), epochs=1)


def test_the_average_is_what_is_returned() -> None:
    """d = min(decay, (1 + t)/(10 + t)) of the weights after each step, by hand."""
    model, weights = nn.Linear(4, 2, bias=False), []

    class Keep(Constraint):
        def after_step(self, model: nn.Module, step: int) -> None:
            weights.append(model.weight.detach().clone())

        def masks(self, model: nn.Module) -> MaskSet:
            raise AssertionError

    expected = model.weight.detach().clone()
    spec = OptimizerSpec(lr=0.1)
    train(model, data(), Natural(), optimizer=spec, epochs=3, average=0.3, constraint=Keep())
    for t, weight in enumerate(weights, start=1):
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(model.weight, expected, atol=1e-6)
    assert not torch.allclose(model.weight, weights[-1], atol=1e-4)


def test_an_impossible_average_is_refused() -> None:
    with pytest.raises(ValueError, match=r"average=1\.0 must lie strictly between 0 and 1"):
        train(network(), data(), Natural(), optimizer=OptimizerSpec(), epochs=1, average=1.0)


def test_half_and_resume_equals_straight_with_an_average(tmp_path: Path) -> None:
    def go(model: nn.Module, epochs: int, **options: object) -> nn.Module:
        torch.manual_seed(1)
        spec = OptimizerSpec(lr=0.05, schedule="constant")
        settings: dict = {"optimizer": spec, "average": 0.9, **options}
        train(model, data(), Natural(), epochs=epochs, **settings)
        return model

    place = Checkpoint(tmp_path / "s.safetensors", seconds=0)
    straight = go(network(), 4)
    go(network(), 2, checkpoint=place)
    resumed = go(network(), 4, checkpoint=place)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_patience_stops_after_the_best_epoch() -> None:
    """Validation accuracy is perfect from some epoch on, so `>=` would move the best along; on a
    validation set that contradicts the training data it only falls."""
    contrary = [(x, 1 - y) for x, y in data()]
    check = Validation(loader=contrary, patience=3)
    history = train(
        network(), data(), Natural(), optimizer=OptimizerSpec(lr=0.5), epochs=50, validation=check
    )
    best = max(range(len(history)), key=lambda i: (history[i].val_clean or 0.0, i))
    assert len(history) == best + 1 + 3


def test_a_penalty_is_descended_and_figures_are_recorded() -> None:
    class Shrink(Constraint):
        def penalty(self, model: nn.Module) -> Tensor:
            return 100.0 * (model[0].weight ** 2).sum()  # type: ignore[index, operator]

        def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
            return {"epoch": float(epoch)}

        def masks(self, model: nn.Module) -> MaskSet:
            raise AssertionError

    model = network()
    spec = OptimizerSpec(lr=0.004, momentum=0.0)
    history = train(model, data(), Natural(), optimizer=spec, epochs=5, constraint=Shrink())
    assert float(model[0].weight.detach().abs().max()) < 0.05  # type: ignore[union-attr]
    assert [record.figures for record in history] == [{"epoch": float(e)} for e in range(1, 6)]


def test_bfloat16_without_the_hardware_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OptimizerSpec(lr=0.01)
    for capability, warned in (("AVX2", True), ("AVX512", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        with pytest.warns(UserWarning, match="leave out amp") if warned else nullcontext():
            train(network(), data(), Natural(), optimizer=spec, epochs=1, amp=True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    train(network(), data(), Natural(), optimizer=spec, epochs=1)  # float32 is none's concern
    warn_of_emulated_bfloat16(torch.device("cuda"))


@pytest.mark.filterwarnings("ignore:bfloat16 is not native")
def test_amp_trains_in_bfloat16() -> None:
    kinds = set()
    model = network()
    model[0].register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    objective = Adversarial(PGD(THREAT, steps=2))
    history = train(model, data(), objective, optimizer=OptimizerSpec(lr=0.1), epochs=20, amp=True)
    assert torch.bfloat16 in kinds
    assert history[-1].loss < history[0].loss
    assert all(p.dtype == torch.float32 for p in model.parameters())


def images() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 3, 6, 6, generator=generator), torch.arange(16) % 2
    return list(zip(x.split(8), y.split(8), strict=True))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


def searched(**how: bool) -> tuple[list[float], MaskSet]:
    """Losses and masks of a search without an attack, whose signs would magnify rounding."""
    ticket = find_scratch_ticket(
        convolutions(), images(), density=0.5, objective=Natural(), epochs=3, quiet=True, **how
    )
    return [record.loss for record in ticket.history], ticket.masks


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    layouts = set()

    def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        for tensor in (*inputs, output):
            layouts.add(tensor.is_contiguous(memory_format=torch.channels_last))

    model = convolutions()
    model[0].register_forward_hook(note)  # clean batches and attacked ones
    robust = Adversarial(PGD(THREAT, steps=2))
    spec = OptimizerSpec(lr=0.1)
    train(model, images(), robust, optimizer=spec, epochs=1, quiet=True, channels_last=True)
    assert layouts == {True}
    (losses, masks), (others, same) = searched(), searched(channels_last=True)
    assert others == pytest.approx(losses, abs=1e-5)
    assert all(torch.equal(mask, same[name]) for name, mask in masks.items())


@pytest.mark.slow
def test_a_compiled_search_finds_the_same() -> None:
    """torch.compile wants a C++ compiler and half a minute."""
    (losses, masks), (others, same) = searched(), searched(compile=True)
    assert others == pytest.approx(losses, abs=1e-4)
    assert all(torch.equal(mask, same[name]) for name, mask in masks.items())


def test_compiling_is_over_with_the_training() -> None:
    model = network()
    with compiled(model):
        assert model._compiled_call_impl is not None
    assert model._compiled_call_impl is None
