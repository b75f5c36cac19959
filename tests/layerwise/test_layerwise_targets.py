"""Targets, worked out by hand on small networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layerwise_networks import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.layerwise.calibrate import Pair, layer_of, observe, walk
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import Moments, as_matrices, outputs_of
from robustprune.layerwise.route import find_route
from robustprune.layerwise.targets import Stream, TargetName, watching
from robustprune.sparsity import group_weight, maskable_layers

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """h = U x; h + V relu(h)."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.u(x)
        return h + self.v(F.relu(h))


def gathered(
    network: nn.Module, x: Tensor, target: TargetName, name: str, pruned: nn.Module
) -> Moments:
    """The moments of one layer, of a given pair of networks."""
    layers = maskable_layers(network)
    data = [Batch(x, torch.zeros(len(x)).long())]
    route = find_route(network, layers, lambda: data[0].call(network, CPU))
    groups = {n: group_weight(layer) for n, layer in layers.items()}
    pair = Pair(network, pruned, groups, data, CPU, CPU)
    return next(m for names, m in walk(pair, route, target=target) if name in names)


def test_three_targets_of_a_residual_network() -> None:
    torch.manual_seed(0)
    net, x = Tiny().double(), torch.randn(9, 4).double()
    other = copy.deepcopy(net)
    nn.init.normal_(other.u.weight)
    h, h_hat = net.u(x).detach(), other.u(x).detach()
    weight, seen = net.v.weight.detach(), F.relu(h_hat)
    wanted = {
        "own": seen @ weight.T,
        "dense": F.relu(h) @ weight.T,
        "residual": F.relu(h) @ weight.T + h - h_hat,
    }
    for target, t in wanted.items():
        found = gathered(net, x, target, "v.weight", other)  # type: ignore[arg-type]
        problem = found.problem("v.weight", group_weight(net.v), weight, 25)
        torch.testing.assert_close(problem.cross[0], t.T @ seen)
        torch.testing.assert_close(problem.power, t.square().sum())
    # what the residual target minimises is the error of the stream after the layer
    problem = found.problem("v.weight", group_weight(net.v), weight, 25)
    any_weight = torch.randn_like(weight)
    bias = net.v.bias.detach()
    after = h_hat + seen @ any_weight.T + bias
    error = (after - net(x).detach()).square().sum() / problem.power
    assert problem.error(any_weight.unsqueeze(0)) == pytest.approx(float(error))


@pytest.mark.parametrize("name", ["conv2.weight", "downsample.0.weight"])
def test_batch_norm_before_the_addition_is_divided_out(name: str) -> None:
    torch.manual_seed(0)
    net = BasicBlock(3, 4, 2).double().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    other = copy.deepcopy(net)
    for conv in (other.conv1, other.conv2 if "down" in name else other.downsample[0]):
        nn.init.normal_(conv.weight)
    x = torch.randn(2, 3, 6, 6).double()

    def branches(of: nn.Module) -> tuple[Tensor, Tensor]:
        main = of.bn2(of.conv2(F.relu(of.bn1(of.conv1(x)))))
        return main, of.downsample(x)

    main_first = int("down" in name)
    stream, stream_hat = branches(net)[1 - main_first], branches(other)[1 - main_first]
    norm = net.downsample[1] if main_first else net.bn2
    a = norm.weight / (norm.running_var + norm.eps).sqrt()
    dense_in = x if main_first else F.relu(net.bn1(net.conv1(x)))
    t = layer_of(net, name)(dense_in) + (stream - stream_hat) / a.view(1, -1, 1, 1)
    found = gathered(net, x, "residual", name, other)
    torch.testing.assert_close(found.wanted[name][0], t.sum((0, 2, 3)))
    layer = layer_of(net, name)
    groups, weight = group_weight(layer), layer.weight.detach()
    plain = found.problem(name, groups, weight, 9, scaled=False)
    torch.testing.assert_close(plain.power, t.square().sum())
    # in the stream each output's squares count a² times
    problem = found.problem(name, groups, weight, 9)
    shown = a.view(1, -1, 1, 1) * t
    torch.testing.assert_close(problem.power, shown.square().sum())
    scale = found.row_scale(name)
    torch.testing.assert_close(scale[0, :, 0], a.abs())
    new = torch.randn_like(weight)
    seen_hat = x if main_first else F.relu(other.bn1(other.conv1(x)))
    given = outputs_of(layer, new, seen_hat)
    error = (a.view(1, -1, 1, 1) * given - shown).square().sum() / shown.square().sum()
    assert problem.error(as_matrices(groups, new) * scale) == pytest.approx(float(error))


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus": lambda y, s: y + s,
    "other way": lambda y, s: s + y,
    "in place": lambda y, s: y.add_(s),
    "into the stream": lambda y, s: s.clone().add_(y),
    "+=": lambda y, s: y.__iadd__(s),
    "torch.add": lambda y, s: torch.add(s, y),
    "dropout": lambda y, s: F.dropout(y, 0.5, training=False) + s,
    "module": lambda y, s: nn.Dropout(0.5).eval()(y) + s,
    "transposed": lambda y, s: y.transpose(0, 1) + s.transpose(0, 1),
    "several": lambda y, s: y.view(3, 2, 2).transpose(1, 2).clone() + s.view(3, 2, 2).mT,
    "permuted": lambda y, s: y.reshape(3, 2, 2).permute(2, 0, 1) + s.view(3, 2, 2).permute(2, 0, 1),
    "rolled": lambda y, s: torch.roll(y, 1, 1) + torch.roll(s, 1, 1),
    "half": lambda y, s: y.half() + s.half(),
}  # fmt: skip
NONE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "not linear": lambda y, s: F.relu(y) + s,
    "not linear, in place": lambda y, s: F.relu(y, inplace=True) + s,
    "scaled": lambda y, s: 2 * y + s,
    "scaled by data": lambda y, s: torch.full((4,), 2.0) * y + s,
    "alpha": lambda y, s: torch.add(y, s, alpha=2),
    "with itself": lambda y, s: y + y.square(),
    "what it was made into": lambda y, s: y + s * y.sum(),
    "dropped out": lambda y, s: F.dropout(y, 0.5, training=True) + s,
    "broadcast": lambda y, s: y + s[:1],
    "part": lambda y, s: y[:2] + s[:2],
    "never": lambda y, s: y,
}


@pytest.mark.parametrize("join", [*SHAPES, *NONE])
def test_additions_that_are_seen(join: str) -> None:
    torch.manual_seed(0)
    layer, found = nn.Linear(4, 4), []
    x, stream = torch.randn(3, 4), torch.randn(3, 4)
    before = stream.clone()

    def keep(name: str, stream: Stream) -> None:
        found.append((name, Stream(stream.value.clone(), stream.scale)))

    with torch.no_grad(), watching(layer, {"it": layer}, keep):
        {**SHAPES, **NONE}[join](layer(x), stream)
    assert len(found) == int(join in SHAPES)
    if found:
        name, one = found[0]
        assert (name, one.scale) == ("it", None)
        atol = 1e-2 if join == "half" else 0
        torch.testing.assert_close(one.value.float(), before, atol=atol, rtol=0)


@pytest.mark.parametrize("left", [True, False])
def test_a_scale_for_each_channel_is_divided_out(left: bool) -> None:
    torch.manual_seed(0)
    layer, gamma, found = nn.Conv1d(2, 3, 1), nn.Parameter(torch.randn(3, 1)), []
    x, stream = torch.randn(4, 2, 5), torch.randn(4, 3, 5)
    with torch.no_grad(), watching(layer, {"it": layer}, lambda name, s: found.append(s)):
        _ = (gamma * layer(x) if left else layer(x) * gamma) + stream
    assert torch.equal(found[0].value, stream)
    assert torch.equal(found[0].scale, gamma.expand(4, 3, 5))


def test_the_stream_is_that_before_an_addition_in_place() -> None:
    torch.manual_seed(0)

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x += self.v(x)
            return x

    net, x = InPlace(), torch.randn(3, 4)
    route = find_route(net, maskable_layers(net), lambda: net(x.clone()))
    with torch.no_grad():
        seen = observe(net, ["v.weight"], route, lambda: net(x.clone()), ["v.weight"])
    assert torch.equal(seen.streams["v.weight"][0].value, x)
    assert torch.equal(seen.inputs[0], x)


def test_channels_that_batch_norm_switches_off_have_no_share_in_the_stream() -> None:
    one = Stream(torch.ones(2), torch.tensor([0.0, 0.5]))
    two = Stream(torch.zeros(2), torch.tensor([0.0, 0.5]))
    assert one.minus(two, torch.float64).tolist() == [0, 2]
