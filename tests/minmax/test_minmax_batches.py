"""What loaders yield: taken apart, checked, and never changed."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from batch_forms import CLASSES, THREAT, examples, forms, go, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from attacks import FGSM, PGD
from robustprune.minmax import (
    Adversarial,
    Free,
    Natural,
    OptimizerSpec,
    Validation,
    pair_of,
)
from robustprune.minmax.batches import LabelCheck
from robustprune.minmax.finite import finite
from robustprune.search import prune_one_shot


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
