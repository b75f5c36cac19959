"""Optimizers as `OptimizerSpec` builds them, and what the loop refuses of its options."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustprune.minmax import (
    Checkpoint,
    Natural,
    OptimizerSpec,
    TorchOptimizer,
    Validation,
    train,
)
from robustprune.search import find_scratch_ticket

PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_the_plain_optimizer_in_every_layout(
    name: str, layout: torch.memory_format
) -> None:
    spec = OptimizerSpec(name=name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 4, 3, 3, generator=generator).to(memory_format=layout)
    gradients = [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(5)]  # contiguous
    options = {"momentum": spec.momentum} if name == "sgd" else {}
    ends = []
    for build in (
        spec.build,
        lambda p: PLAIN[name](p, lr=0.01, weight_decay=0.1, fused=False, **options),
    ):
        weight = nn.Parameter(start.clone(memory_format=torch.preserve_format))
        optimizer = build([weight])
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()
        ends.append(weight.detach())
    assert not torch.allclose(ends[0], start, atol=0.01)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "rmsprop"}, r"name='rmsprop' is not known.*; choose one of sgd, adam, adamw$"),
        ({"name": "adamW"}, r"name='adamW' is not known \(did you mean 'adamw'\?\)"),
        ({"schedule": "cos"}, r"schedule='cos' is not known \(did you mean 'cosine'\?\); choose"),
        ({"schedule": None}, "schedule=None is not known"),
        ({"lr": -0.1}, "lr=-0.1 must be a number, at least 0 and finite"),
        ({"lr": math.nan}, "lr=nan must be"),
        ({"lr": "0.1"}, "lr='0.1' must be a number"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 must be"),
        ({"warmup": math.inf}, "warmup=inf must be"),
        ({"momentum": 1.0}, r"momentum=1.0 must lie in \[0, 1\)"),
        ({"momentum": math.nan}, "momentum=nan must lie"),
        ({"name": "adam", "momentum": 0.5}, "momentum=0.5 has no effect with 'adam'"),
        ({"milestones": (3,)}, r"milestones=\(3,\) and schedule='cosine' do not go together"),
        ({"schedule": "step"}, r"milestones=\(\) and schedule='step' do not go together"),
        ({"schedule": "step", "milestones": (-1,)}, "milestones=-1 must be"),
    ],
)
def test_what_would_be_another_optimizer_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSpec(**options)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05, momentum=0.8),
            r"holds parameters already.*partial\(torch.optim.SGD, lr=0.05, momentum=0.8\)",
        ),
        (
            torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3, weight_decay=0.01),
            r"give functools.partial\(torch.optim.AdamW, lr=0.001, weight_decay=0.01\)",
        ),
        (
            torch.optim.RMSprop([nn.Parameter(torch.zeros(1))]),
            r"partial\(torch.optim.RMSprop, lr=0.01",
        ),
        ("sgd", r"builtins.str; give its settings as OptimizerSpec\(lr=0.1\)"),
        (None, "NoneType"),
    ],
)
def test_a_torch_optimizer_is_told_how_it_is_given(optimizer: Any, message: str) -> None:
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    for call in (
        lambda: train(nn.Linear(2, 2), [(x, y)], Natural(), optimizer=optimizer, epochs=1),
        lambda: find_scratch_ticket(
            nn.Linear(2, 2), [(x, y)], density=0.5, objective=Natural(), optimizer=optimizer
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": []}, "nothing to train: `parameters` is empty"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": -3}, "epochs must be at least 1, got -3"),
        ({"epochs": 1.5}, "epochs must be at least 1, got 1.5"),
        ({"average": 0.0}, "average=0.0 must lie strictly between 0 and 1"),
        ({"average": 1.5}, "average=1.5 must lie strictly between 0 and 1"),
        ({"average": math.nan}, "average=nan must lie strictly between 0 and 1"),
    ],
)
def test_options_of_the_loop_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    settings = {"optimizer": OptimizerSpec(), "epochs": 1, "quiet": True, **options}
    with pytest.raises(ValueError, match=message):
        train(model, [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))], Natural(), **settings)
    assert torch.equal(model.weight, before)


def test_a_frozen_parameter_to_train_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="1 of the 2 parameters to train require no gradient"):
        train(
            model, [(torch.ones(2, 2), torch.tensor([0, 1]))], Natural(),
            optimizer=OptimizerSpec(), epochs=1, parameters=list(model.parameters()),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0 of a Validation must be at least 1"),
        ({"every": -1}, "every=-1 of"),
        ({"patience": 0}, "patience=0 of a Validation must be at least 1"),
        ({"loader": []}, "the validation loader has no batches; hold some"),
    ],
)
def test_a_validation_that_could_not_choose_is_refused(
    options: dict[str, Any], message: str
) -> None:
    loader = [(torch.ones(2, 2), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match=message):
        Validation(**{"loader": loader, **options})


def examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(6), (x[:, 0] > 0).long().split(6), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def by_hand(make: Any, scheduler: Any, each: str, epochs: int) -> tuple[list[float], nn.Module]:
    """The training loop of torch's tutorials; its learning rates, and the network."""
    model, rates = network(), []
    optimizer = make(model.parameters())
    schedule = None if scheduler is None else scheduler(optimizer)
    for _ in range(epochs):
        for x, y in examples():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule is not None and each == "step":
                schedule.step()
        if schedule is not None and each == "epoch":
            schedule.step()
    return rates, model


MultiStep = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 2], gamma=0.5)
OneCycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=17)


@pytest.mark.parametrize(
    ("given", "make", "scheduler", "each"),
    [
        (torch.optim.Adam, torch.optim.Adam, None, "epoch"),
        (SGD, SGD, None, "epoch"),
        (
            lambda p: torch.optim.RMSprop(p, lr=0.01),
            partial(torch.optim.RMSprop, lr=0.01),
            None,
            "",
        ),
        (TorchOptimizer(SGD, MultiStep), SGD, MultiStep, "epoch"),
        (TorchOptimizer(SGD, OneCycle, each="step"), SGD, OneCycle, "step"),
    ],
)
def test_torchs_own_optimizers_and_schedulers_do_what_they_do_elsewhere(
    given: Any, make: Any, scheduler: Any, each: str, tmp_path: Path
) -> None:
    """To the end, and where it is stopped in the middle and goes on."""
    _, expected = by_hand(make, scheduler, each, 4)
    model = network()
    train(model, examples(), Natural(), optimizer=given, epochs=4, quiet=True)
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    train(network(), examples(), Natural(), optimizer=given, epochs=2, checkpoint=place, quiet=True)
    resumed = network()
    train(resumed, examples(), Natural(), optimizer=given, epochs=4, checkpoint=place, quiet=True)
    for a, b, c in zip(
        expected.parameters(), model.parameters(), resumed.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(b, c)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: 3, "returned a int; let it return a torch.optim.Optimizer"),
        (lambda p: torch.optim.SGD(network().parameters()), "of other parameters"),
        (torch.optim.LBFGS, "LBFGS evaluates the loss several times a step"),
        (TorchOptimizer(SGD, torch.optim.lr_scheduler.ReduceLROnPlateau), "needs a measure"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_used_is_refused(optimizer: Any, message: str) -> None:
    for call in (
        lambda: train(network(), examples(), Natural(), optimizer=optimizer, epochs=1),
        lambda: find_scratch_ticket(
            network(), examples(), density=0.5, objective=Natural(), optimizer=optimizer
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"each": "batch"}, "each='batch'"), ({"each": "step"}, "no effect without a scheduler")],
)
def test_what_would_have_no_effect_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchOptimizer(SGD, **options)
