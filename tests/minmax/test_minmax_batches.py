"""What loaders yield: taken apart, checked, and never changed."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from attacks import FGSM, PGD, NotFinite, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Free,
    FreeLB,
    Gaussian,
    Mart,
    Natural,
    Objective,
    OptimizerSpec,
    Repeated,
    StepResult,
    Trades,
    TrainingDiverged,
    Validation,
    pair_of,
    train,
)
from robustprune.minmax.batches import LabelCheck
from robustprune.minmax.finite import finite
from robustprune.search import prune_one_shot

SPEC = OptimizerSpec(lr=0.1)
THREAT = ThreatModel("linf", 0.1)
CLASSES = 3


def examples(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(n) % CLASSES


def network(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, CLASSES))


def go(loader: Iterable[Any], model: nn.Module | None = None, **options: Any) -> float:
    settings_ = {"optimizer": SPEC, "epochs": 1, "quiet": True, **options}
    objective = settings_.pop("objective", Natural())
    return train(model or network(), loader, objective, **settings_)[-1].loss


def forms(x: Tensor, y: Tensor) -> dict[str, Any]:
    """One batch as loaders of this world yield it."""
    index = torch.arange(len(y))
    return {
        "tuple": (x, y),
        "list": [x, y],
        "triple": (x, y, index),
        "names": (x, y, index, ["a"] * len(y)),
        "x and y": {"x": x, "y": y, "index": index},
        "transformers": {"pixel_values": x, "labels": y},
        "audio": {"input_values": x, "label": y, "path": ["a"] * len(y)},
    }


@pytest.mark.parametrize("form", forms(*examples()))
def test_every_form_is_the_same_training(form: str) -> None:
    x, y = examples()
    loader = [forms(x[:6], y[:6])[form], forms(x[6:], y[6:])[form]]
    plain = [(x[:6], y[:6]), (x[6:], y[6:])]
    assert go(loader) == go(plain)
    check = Validation(loader=loader, attack=FGSM(THREAT))
    model = network()
    assert check(model, torch.device("cpu")) == Validation(loader=plain, attack=FGSM(THREAT))(
        model, torch.device("cpu")
    )
    masks = [
        prune_one_shot(model, batches, density=0.5, criterion="snip").masks
        for batches in (loader, plain)
    ]
    assert masks[0] == masks[1]


X, Y = examples(4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input_ids": Y, "labels": Y}, "yields token ids .* robustprune.packing.pack_tokens"),
        ({"x": X}, "dict with the keys 'x'; let it have inputs under one of x, pixel_values"),
        ({"x": X, "images": X, "y": Y}, "dict with the keys 'x', 'images', 'y'"),
        ({}, "dict with the keys none"),
        ((X,), "yields a tuple of 1; let each batch be"),
        (X, "yields a Tensor; let each batch be"),
        ((X.numpy(), Y), "x of a batch is a ndarray; let the loader yield tensors"),
        ((X, Y.tolist()), "y of a batch is a list"),
        ((X.long(), Y), "inputs must be floating point, got torch.int64; an attack moves .* token"),
        ((X.byte(), Y), "inputs must be floating point, got torch.uint8; scale them first"),
        ((X.double(), Y), "inputs are float64 and the network's weights float32; give inputs as x"),
        ((X[:, :5], Y), r"does not take a batch of shape \(4, 5\): mat1 and mat2 shapes"),
        ((X, Y.int()), "labels must be int64"),
        ((X, Y[:, None]), "labels must be int64"),
        ((X, Y - 100), r"labels must lie in 0\.\.2 .*, got -100\.\.-98 \(-100 marks labels to ig"),
        ((X, Y + 1), r"labels must lie in 0\.\.2 for a model with 3 outputs, got 1\.\.3$"),
    ],
)
def test_what_is_no_batch_is_refused_in_one_line(batch: Any, message: str) -> None:
    for call in (
        lambda: go([batch]),
        lambda: prune_one_shot(network(), [batch], density=0.5, criterion="snip"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_a_wrong_label_in_a_later_batch_is_found(label: int) -> None:
    x, y = examples()
    wrong = y[6:].clone()
    wrong[2] = label
    loader = [(x[:6], y[:6]), (x[6:], wrong)]
    for objective in (Natural(), Adversarial(PGD(THREAT, steps=1))):
        with pytest.raises(ValueError, match=rf"labels must lie in 0\.\.2 .*{label}"):
            go(loader, objective=objective)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        go([(x, y)], validation=Validation(loader=loader))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        prune_one_shot(network(), loader, density=0.5, criterion="snip")


def test_labels_on_an_accelerator_are_looked_at_with_the_loss() -> None:
    """Without one here, its way by hand: clamped for the kernels, NaN in the one number read."""
    check, parameter = LabelCheck(), nn.Parameter(torch.zeros(2))
    check.like, parameter.grad = torch.zeros(1, 3, device="meta"), torch.ones(2)
    assert check.brought_inside(torch.tensor([0, 2]), 3).tolist() == [0, 2]
    assert finite(torch.tensor(1.0), [parameter], check.flag())
    check.complain()
    assert check.brought_inside(torch.tensor([-100, 7]), 3).tolist() == [0, 2]
    assert not finite(torch.tensor(1.0), [parameter], check.flag())
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2 .*, got -100\.\.7"):
        check.complain()


LONELY = "a single example .* batch norm has nothing to normalise by; give the loader drop_last"


class Unsized:
    """Says nothing of its last batch."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_a_last_batch_of_one_under_batch_norm_is_refused_before_the_first_step() -> None:
    x, y = examples(13)
    data = TensorDataset(x, y)
    whole = [(x[:12], y[:12]), (x[12:], y[12:])]
    for loader in (DataLoader(data, 12), DataLoader(data, 12, shuffle=True), whole):
        model = network(norm=True)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=f"the loader's last batch has {LONELY}"):
            go(loader, model)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match=f"a batch has {LONELY}"):
        go(Unsized(whole), network(norm=True))
    go(DataLoader(data, 12, drop_last=True), network(norm=True))
    go(DataLoader(data, 12))  # without batch norm one example is as good as any number


def test_one_image_is_enough_for_batch_norm_over_its_pixels() -> None:
    x, y = torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    go(DataLoader(TensorDataset(x, y), 4), model)


def test_looking_ahead_changes_no_random_number() -> None:
    """Of a network that drops in eval mode, too: a resumed training looks once more."""

    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True)

    x, y = examples()
    torch.manual_seed(3)
    expected = F.dropout(x, 0.5, training=True)
    seen: list[Tensor] = []
    spy = nn.Sequential(Always(), nn.Linear(6, CLASSES))
    spy[1].register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    torch.manual_seed(3)
    go([(x, y)], spy)
    assert torch.equal(seen[1], expected)  # seen[0] is the look, after which the draws begin anew


@pytest.mark.parametrize(
    "make", [iter, lambda batches: (b for b in batches), lambda b: map(tuple, b)]
)
def test_an_iterator_is_refused_where_it_would_be_empty(make: Callable[[Any], Any]) -> None:
    x, y = examples()
    assert go(make([(x, y)])) == go([(x, y)])
    with pytest.raises(ValueError, match="gone through once, and there are 2 epochs; give a DataL"):
        go(make([(x, y)]), epochs=2)
    with pytest.raises(ValueError, match="gone through once, and there are 2 epochs"):
        go([(x, y)], epochs=2, validation=Validation(loader=make([(x, y)])))
    used = make([(x, y)])
    list(used)
    with pytest.raises(ValueError, match=r"no batches: .* an iterator that is used up"):
        go(used)
    with pytest.raises(ValueError, match="the validation loader has no batches"):
        go([(x, y)], validation=Validation(loader=used))
    with pytest.raises(ValueError, match="has no batches"):
        prune_one_shot(network(), used, density=0.5, criterion="snip")


class Once:
    """Starts anew only the first time, as an iterator in other clothes does."""

    def __init__(self, batches: list[Any]) -> None:
        self.left = list(batches)

    def __iter__(self) -> Iterator[Any]:
        while self.left:
            yield self.left.pop()


def test_a_loader_that_is_empty_in_the_second_epoch_is_named() -> None:
    with pytest.raises(ValueError, match="no batches left in epoch 2; give one that starts anew"):
        go(Once([examples()]), epochs=2)


def test_a_stream_without_a_length_trains() -> None:
    class Lines(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return zip(*examples(), strict=True)

    x, y = examples()
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    spec = OptimizerSpec(lr=0.1, schedule="constant")  # the fraction of an epoch isn't known
    assert go(DataLoader(Lines(), 6), epochs=2, optimizer=spec) == go(
        batches, epochs=2, optimizer=spec
    )


def test_tensors_of_inference_mode_are_trained_on() -> None:
    x, y = examples()
    with torch.inference_mode():
        loader = [(x + 0, y + 0)]
    for objective in (Natural(), Adversarial(PGD(THREAT, steps=1, seed=0))):
        assert go(loader, objective=objective) == go([(x, y)], objective=objective)
    assert go(loader, objective=Free(THREAT)) == go([(x, y)], objective=Free(THREAT))
    model, again = network(), network()
    with torch.inference_mode():
        inside = go([(x + 0, y + 0)], model)
    with torch.no_grad():
        assert go([(x, y)], again) == inside
    with torch.inference_mode():
        frozen = network()
    with pytest.raises(ValueError, match=r"weights were made under torch\.inference_mode"):
        go([(x, y)], frozen)


def test_inputs_with_a_graph_of_their_own_train_nothing_else() -> None:
    x, y = examples()
    source = x.clone().requires_grad_()
    go([(source * 1, y)])
    assert source.grad is None


def test_pairs_are_views_of_what_was_given() -> None:
    x, y = examples()
    assert pair_of((x, y))[0].data_ptr() == x.data_ptr()


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
    form=st.sampled_from(sorted(forms(X, Y))),
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
