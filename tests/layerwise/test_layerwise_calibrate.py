"""The walk: order, what a layer sees, runs of single modules, and what is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layerwise_networks import IMAGES, TEXTS, data_for, made
from torch import Tensor, nn

from robustprune.layerwise.calibrate import Pair, layer_of, walk
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import Moments
from robustprune.layerwise.route import Route, find_route
from robustprune.layerwise.targets import TARGETS, TargetName
from robustprune.sparsity import group_weight, maskable_layers

pytest.importorskip("transformers")
NAMES = [*IMAGES, *TEXTS, "twice"]


def pair_of(name: str) -> tuple[Pair, Route]:
    network, data = made(name), [Batch(x, y) for x, y in data_for(name)]
    if name in TEXTS:
        network.config.use_cache = False
    layers = maskable_layers(network)
    route = find_route(network, layers, lambda: data[0].call(network, torch.device("cpu")))
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    pruned = copy.deepcopy(network)
    return Pair(network, pruned, groups, data, *2 * [torch.device("cpu")]), route


def halve(weight: Tensor) -> None:
    """Something like pruning: every other weight goes."""
    with torch.no_grad():
        weight.view(-1)[::2] = 0


def summed(
    name: str, target: TargetName, *, cached: bool
) -> tuple[dict[str, Moments], nn.Module, nn.Module]:
    pair, route = pair_of(name)
    found: dict[str, Moments] = {}
    for names, moments in walk(pair, route, target=target, cached=cached):
        for layer in names:
            found[layer] = moments
            weight = layer_of(pair.pruned, layer).weight
            assert isinstance(weight, Tensor)
            halve(weight)
    return found, pair.dense, pair.pruned


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS)
def test_modules_run_alone_give_what_the_whole_network_gives(name: str, target: TargetName) -> None:
    alone, dense, pruned = summed(name, target, cached=True)
    whole, _, _ = summed(name, target, cached=False)
    assert list(alone) == list(whole)
    for layer, moments in alone.items():
        other = whole[layer]
        assert moments.samples == other.samples
        assert torch.equal(moments.gram, other.gram)
        assert moments.cross.keys() == other.cross.keys()
        assert (target == "own") == (layer not in moments.cross)
        for key, cross in moments.cross.items():
            assert torch.equal(cross, other.cross[key])
    for network in (dense, pruned):
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_those_of_the_network_pruned_before(name: str) -> None:
    """Each Gram matrix is that of a hook on a network in which just the layers before are pruned,
    and each dense target that of a hook on the dense network."""
    found, dense, _ = summed(name, "dense", cached=True)
    so_far = copy.deepcopy(dense)
    order = list(found)
    for layer, moments in found.items():
        same = [other for other in order if found[other] is moments]
        if layer == same[0]:
            inputs = {id(net): seen(net, layer, name) for net in (so_far, dense)}
        x, was = inputs[id(so_far)], inputs[id(dense)]
        if isinstance(layer_of(dense, layer), nn.Linear):
            x, was = (t.flatten(0, -2).double() for t in (x, was))
            torch.testing.assert_close(moments.gram[0], x.T @ x)
            weight = layer_of(dense, layer).weight.detach().double()
            torch.testing.assert_close(moments.cross[layer][0], weight @ was.T @ x)
        halve(layer_of(so_far, layer).weight)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_after_a_block_its_own_layers_are_still_dense(name: str) -> None:
    """Each Gram matrix is that of a network in which the blocks before are pruned, and no more."""
    pair, route = pair_of(name)
    so_far, block = copy.deepcopy(pair.dense), ""
    within = "model.layers." if name == "llama" else "transformer.h."
    for names, moments in walk(pair, route, target="own", after="block"):
        own = names[0][: len(within) + 1] if names[0].startswith(within) else "head"
        if own != block:
            so_far, block = copy.deepcopy(pair.pruned), own
        x = seen(so_far, names[0], name).flatten(0, -2).double()
        torch.testing.assert_close(moments.gram[0], x.T @ x)
        for layer in names:
            halve(layer_of(pair.pruned, layer).weight)


def seen(network: nn.Module, layer: str, name: str) -> Tensor:
    """All inputs of a layer."""
    found: list[Tensor] = []
    handle = layer_of(network, layer).register_forward_pre_hook(
        lambda _, args: found.append(args[0].detach().clone())
    )
    with torch.no_grad():
        for x, _ in data_for(name):
            network(x)
    handle.remove()
    return torch.cat(found)


def test_the_order_is_that_in_which_the_network_runs() -> None:
    _, route = pair_of("pre-activation")
    assert list(route.calls) == ["stem.weight", "first.weight", "second.weight", "head.weight"]
    assert route.streams == {"second.weight"}  # the stem's output is the stream
    assert route.chains == ()
    _, route = pair_of("resnet")
    assert list(route.calls)[5:8] == [
        "layer2.0.downsample.0.weight", "layer2.0.conv1.weight", "layer2.0.conv2.weight",
    ]  # fmt: skip
    assert [chain.modules for chain in route.chains] == [
        ("layer1.0", "layer1.1"), ("layer2.0", "layer2.1"),
    ]  # fmt: skip
    assert route.streams == {
        "layer1.0.conv2.weight", "layer1.1.conv2.weight", "layer2.0.downsample.0.weight",
        "layer2.0.conv2.weight", "layer2.1.conv2.weight",
    }  # fmt: skip


def test_a_layer_called_twice_counts_both_calls() -> None:
    found, _, _ = summed("twice", "dense", cached=True)
    _, route = pair_of("twice")
    assert dict(route.calls)["again.weight"] == 2
    assert found["again.weight"].samples == 2 * 16
    assert found["left.weight"] is found["right.weight"]
    assert route.groups == (("again.weight",), ("left.weight", "right.weight"), ("out.weight",))


def test_sequences_in_sequences_are_one_chain() -> None:
    network = nn.Sequential(
        nn.Linear(5, 5),
        nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(5, 5), nn.ReLU()), nn.Linear(5, 5)),
        nn.Sequential(nn.Linear(5, 5)),
    )
    route = find_route(network, maskable_layers(network), lambda: network(torch.rand(4, 5)))
    assert [chain.modules for chain in route.chains] == [("0", "1.0", "1.1.0", "1.1.1", "1.2", "2")]
    assert len(route.chains[0].first) == 5


@pytest.mark.parametrize(("name", "ends"), [("llama", "o_proj"), ("gpt2", "attn.c_proj")])
def test_layers_of_transformers(name: str, ends: str) -> None:
    _, route = pair_of(name)
    assert len(route.chains) == 1
    assert len(route.chains[0].modules) == 2
    assert len([n for n in route.streams if ends in n]) == 2
    assert len(route.streams) == 4
    if name == "llama":
        assert [len(g) for g in route.groups[:4]] == [3, 1, 2, 1]


def test_streams_of_bert() -> None:
    _, route = pair_of("bert")
    assert sorted(route.streams) == sorted(
        f"bert.encoder.layer.{k}.{part}.dense.weight"
        for k in (0, 1)
        for part in ("attention.output", "output")
    )


class Skip(nn.Module):
    """Its second module is given something that the first one made."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Part(), Part(), Part()])

    def forward(self, x: Tensor) -> Tensor:
        h, memory = x, torch.zeros_like(x)
        for part in self.parts:
            h = part(h, memory)
            memory = h * 2
        return h


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)) + memory


class Outside(nn.Module):
    """The addition is outside of the sequence whose output goes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Early(nn.Module):
    """Runs its modules in another order than that of their list."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0](self.parts[1](x).relu())


class Written(nn.Module):
    """Something is added in place between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.parts[0](x)
        h += 1
        return self.parts[1](h)


@pytest.mark.parametrize("make", [Skip, Outside, Early, Written])
def test_what_is_no_chain(make: Callable[[], nn.Module]) -> None:
    network = make()
    route = find_route(network, maskable_layers(network), lambda: network(torch.rand(4, 5)))
    assert route.chains == ()


class Lengths(nn.Module):
    """Its modules are given a number that differs from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Length(), Length()])

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for part in self.parts:
            h = part(h, x.shape[0])
        return h


class Length(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor, number: int) -> Tensor:
        return self.inner(x).view(number, 5)


def test_batches_of_different_lengths() -> None:
    torch.manual_seed(0)
    network = Lengths()
    data = [Batch(torch.rand(n, 5)) for n in (4, 3)]
    layers = maskable_layers(network)
    device = torch.device("cpu")
    route = find_route(network, layers, lambda: data[0].call(network, device))
    assert len(route.chains) == 1
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    pair = Pair(network, copy.deepcopy(network), groups, data, device, device)
    found = list(walk(pair, route, target="residual"))
    assert [moments.samples for _, moments in found] == [7, 7]


class Sides(nn.Module):
    """Small batches go another way."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x) if len(x) > 3 else x


def test_modules_that_some_batches_do_not_call_are_named() -> None:
    network, device = Sides(), torch.device("cpu")
    data = [Batch(torch.rand(n, 5)) for n in (4, 3)]
    layers = maskable_layers(network)
    route = find_route(network, layers, lambda: data[0].call(network, device))
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    pair = Pair(network, copy.deepcopy(network), groups, data, device, device)
    with pytest.raises(ValueError, match=r"module 'parts\.0' is called in some batches"):
        list(walk(pair, route, target="own"))


@pytest.mark.parametrize("name", TEXTS)
def test_only_later_batches_are_padded(name: str) -> None:
    """Some networks give their modules no mask in the first batch, and one in the second."""
    network, (first, second) = made(name), [x for x, _ in data_for(name)]
    network.config.use_cache = False
    mask = torch.ones_like(first)
    padded = torch.where((torch.arange(len(mask)) < 4)[:, None] & (torch.arange(7) > 3), 0, mask)
    data = [
        Batch({"input_ids": ids, "attention_mask": known}, counted=known.bool())
        for ids, known in ((first, mask), (second, padded))
    ]
    layers, device = maskable_layers(network), torch.device("cpu")
    route = find_route(network, layers, lambda: data[0].call(network, device))
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    alone, whole = (
        [
            moments.gram
            for _, moments in walk(
                Pair(network, copy.deepcopy(network), groups, data, device, device),
                route, target="own", cached=cached,
            )
        ]
        for cached in (True, False)
    )  # fmt: skip
    assert all(map(torch.equal, alone, whole))


class Tuples(nn.Module):
    """Its modules return tuples and share a tensor and a dict, as those of older transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Tupled(), Tupled(), Tupled()])
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h, mask = x, (x.sum(1, keepdim=True) > 2.5).to(x.dtype)
        for part in self.parts:
            h = part(h, mask, extra={"bias": (mask + 1, None)}, cache=None)[0]
        return {"logits": self.head(h)}


class Tupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor, mask: Tensor, *, extra: Any, cache: None) -> tuple[Tensor, str]:
        y = self.two(torch.relu(self.one(x)) * mask + extra["bias"][0])
        x += y
        return x, "other"


@pytest.mark.parametrize("target", TARGETS)
def test_modules_that_return_tuples(target: TargetName) -> None:
    torch.manual_seed(0)
    network, device = Tuples(), torch.device("cpu")
    data = [Batch(torch.rand(n, 5)) for n in (4, 3)]
    layers = maskable_layers(network)
    route = find_route(network, layers, lambda: data[0].call(network, device))
    assert [(chain.first, chain.alone) for chain in route.chains] == [((True, True), False)]
    assert len(route.streams) == 3
    groups = {name: group_weight(layer) for name, layer in layers.items()}
    sums = []
    for cached in (True, False):
        pruned = copy.deepcopy(network)
        pair = Pair(network, pruned, groups, data, device, device)
        found = []
        for (name,), moments in walk(pair, route, target=target, cached=cached):
            found.append(moments.problem(name, groups[name], layers[name].weight, 1))
            halve(layer_of(pruned, name).weight)
        sums.append(found)
    for one, two in zip(*sums, strict=True):
        assert torch.equal(one.gram, two.gram)
        assert torch.equal(one.cross, two.cross)
        assert torch.equal(one.power, two.power)


def test_infinite_inputs_name_their_layer() -> None:
    pair, route = pair_of("cnn")
    with torch.no_grad():
        layer_of(pair.dense, "4.weight").bias.fill_(torch.inf)
        layer_of(pair.pruned, "4.weight").bias.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"inputs of layer '7\.weight' are NaN or infinite"):
        list(walk(pair, route, target="dense"))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in pair.pruned.modules())
