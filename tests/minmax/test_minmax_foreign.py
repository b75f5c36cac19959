"""Foreign networks train as plain ones, and numbers that are not finite stop a training."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batch_forms import SPEC, THREAT, examples, forms, go, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import FGSM, PGD, NotFinite, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Free,
    FreeLB,
    Gaussian,
    Mart,
    Natural,
    Objective,
    Repeated,
    StepResult,
    Trades,
    TrainingDiverged,
    Validation,
    pair_of,
    train,
)


class Out(dict):  # type: ignore[type-arg]
    """As transformers' ModelOutput: a mapping with attributes."""


RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda z: z,
    "tuple": lambda z: (z, z * 2),
    "dict": lambda z: {"hidden": z * 2, "logits": z},
    "output": lambda z: Out(logits=z),
    "attribute": lambda z: SimpleNamespace(logits=z),
}


class Foreign(nn.Module):
    """A network as others write them: works in place on its input, returns more than logits."""

    def __init__(self, returns: str, *, in_place: bool, norm: bool, aux: bool) -> None:
        super().__init__()
        self.body, self.returns = network(norm=norm), returns
        self.in_place, self.aux = in_place, aux

    def forward(self, x: Tensor) -> Any:
        if self.in_place:
            x -= 0.25
            z = self.body(x)
        else:
            z = self.body(x - 0.25)
        if self.aux and not self.training:  # an auxiliary head while training alone
            return z
        return RETURNS[self.returns](z)


PGD_1 = PGD(THREAT, steps=1, seed=0)
OBJECTIVES: dict[str, Callable[[str], Objective]] = {
    "natural": lambda mode: Natural(),
    "adversarial": lambda mode: Adversarial(PGD(THREAT, steps=1, seed=0, mode=mode)),
    "fgsm": lambda mode: Adversarial(FGSM(THREAT, mode=mode), warmup=1.0),
    "restarts": lambda mode: Adversarial(PGD(THREAT, steps=2, restarts=2, seed=0, mode=mode)),
    "early stop": lambda mode: Adversarial(PGD(THREAT, steps=2, early_stop=True, seed=0)),
    "trades": lambda mode: Trades(PGD(THREAT, steps=1, seed=0, mode=mode), 2.0),
    "smart": lambda mode: Trades(PGD(THREAT, steps=1, seed=0, mode=mode), 2.0, symmetric=True),
    "mart": lambda mode: Mart(PGD(THREAT, steps=1, seed=0, mode=mode), 2.0),
    "free": lambda mode: Free(THREAT),
    "freelb": lambda mode: FreeLB(PGD(THREAT, steps=2, seed=0)),
    "gaussian": lambda mode: Gaussian(0.1),
}


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(OBJECTIVES)),
    mode=st.sampled_from(["eval", "train"]),
    returns=st.sampled_from(sorted(RETURNS)),
    in_place=st.booleans(),
    norm=st.booleans(),
    aux=st.booleans(),
    form=st.sampled_from(sorted(forms(*examples(4)))),
    double=st.booleans(),
    average=st.sampled_from([None, 0.9]),
)
def test_a_foreign_network_trains_as_the_plain_one(
    name: str, mode: str, returns: str, in_place: bool, norm: bool, aux: bool, form: str,
    double: bool, average: float | None,
) -> None:  # fmt: skip
    """Two steps lead to the same weights and losses, bit for bit, as with the same function that
    leaves its input alone and returns a tensor; the batches stay as they were."""
    x, y = examples()
    dtype = torch.float64 if double else torch.float32
    x = x.to(dtype)
    ends = []
    for model, how in (
        (Foreign(returns, in_place=in_place, norm=norm, aux=aux), form),
        (Foreign("tensor", in_place=False, norm=norm, aux=False), "tuple"),
    ):
        loader = [forms(x[:6].clone(), y[:6])[how], forms(x[6:].clone(), y[6:])[how]]
        torch.manual_seed(0)
        history = train(
            model.to(dtype), loader, OBJECTIVES[name](mode), optimizer=SPEC, epochs=1, quiet=True,
            average=average, validation=Validation(loader=loader, attack=PGD_1),
        )  # fmt: skip
        record = history[-1]
        ends.append((record.loss, record.clean, record.robust, record.val_robust, model))
        for batch, rows in zip(loader, (x[:6], x[6:]), strict=True):
            assert torch.equal(pair_of(batch)[0], rows)
    (*figures, model), (*expected, plain) = ends
    assert figures == expected
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["natural", "adversarial", "trades", "mart"])
def test_the_first_loss_is_that_of_the_formula(name: str) -> None:
    """Against the losses written out, on the point that the attack gives."""
    x, y = examples()
    model = Foreign("tuple", in_place=True, norm=False, aux=False)
    body = lambda points: model.body(points - 0.25)  # noqa: E731
    objective = OBJECTIVES[name]("eval")
    seen: list[Tensor] = []
    torch.manual_seed(0)
    loss = float(objective(model, x, y, 1.0).loss.detach())
    model.body.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach() + 0.25))
    torch.manual_seed(0)
    objective(model, x, y, 1.0)
    x_adv = seen[-1]
    with torch.no_grad():
        p, q = body(x).softmax(1), body(x_adv).softmax(1)
    clean, attacked = p[torch.arange(12), y], q[torch.arange(12), y]
    divergence = (p * (p / q).log()).sum(1)
    other = q.clone()
    other[torch.arange(12), y] = 0
    expected = {
        "natural": -clean.log(),
        "adversarial": -attacked.log(),
        "trades": -clean.log() + 2 * divergence,
        "mart": -attacked.log() - (1 - other.amax(1)).log() + 2 * (1 - clean) * divergence,
    }[name]
    assert loss == pytest.approx(float(expected.mean()), rel=1e-4)
    assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6


def test_free_repeats_leave_foreign_batches_alone() -> None:
    x, y = examples()
    loader = Repeated([(x.clone(), y)], 2)
    model = Foreign("dict", in_place=True, norm=False, aux=False)
    go(loader, model, objective=Free(THREAT))
    assert torch.equal(loader.loader[0][0], x)


class Raising:
    """An attack that finds NaN by itself."""

    def __init__(self, from_call: int) -> None:
        self.left = from_call

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise NotFinite("the gradient is NaN")
        return x


def test_what_an_attack_finds_is_a_divergence_with_its_culprit() -> None:
    x, y = examples()
    model = network()
    before = copy.deepcopy(model.state_dict())
    named = "mine: the gradient with respect to the input became non-finite in epoch 1; the last"
    with pytest.raises(TrainingDiverged, match=f"{named} good state is kept; an operation of the"):
        go([(x[:6], y[:6]), (x[6:], y[6:])], model, objective=Adversarial(Raising(1)), title="mine")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])

    class Spoils:
        """Weights become NaN by the step, which the next attack is the first to see."""

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
            if bool(model[0].weight.isnan().any()):  # type: ignore[index, union-attr, operator]
                raise NotFinite("NaN logits")
            result = Natural()(model, x, y, epoch)
            model[0].weight.data[0, 0] = torch.nan  # type: ignore[index, union-attr, operator]
            return result

    with pytest.raises(TrainingDiverged, match=r"weight 0\.weight became non-finite in epoch 1"):
        go([(x[:6], y[:6]), (x[6:], y[6:])], network(), objective=Spoils())
    check = Validation(loader=[(x, y)], attack=Raising(1))
    named = "the gradient with respect to the input in validation became non-finite in epoch 2"
    with pytest.raises(TrainingDiverged, match=named):
        go([(x, y)], network(), validation=check, epochs=3)


class LogOfSoftmax(nn.Module):
    """Finite for all we see; its gradient is 0/0 where a probability underflows to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) * 1000).softmax(1).log()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"natural", "gaussian"}))
def test_a_gradient_that_is_nan_never_trains_on_in_silence(name: str, norm: Any) -> None:
    x, y = examples()
    model = LogOfSoftmax()
    y = model(x).argmax(1)  # so that the plain loss is 0
    made: Any = OBJECTIVES[name]("eval")
    threat = ThreatModel(norm, 0.05)
    if name in ("free", "freelb"):
        made = Free(threat) if name == "free" else FreeLB(PGD(threat, steps=2, seed=0))
    else:
        made = replace(made, attack=replace(made.attack, threat=threat))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingDiverged, match="became non-finite in epoch 1; the last good state"):
        go([(x, y)], model, objective=made)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    check = Validation(loader=[(x, y)], attack=PGD(threat, steps=1, seed=0))
    if name == "adversarial":
        with pytest.raises(NotFinite):
            check(model, torch.device("cpu"))
