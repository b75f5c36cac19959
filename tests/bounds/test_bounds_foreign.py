"""Somebody's network: wrapped, hooked, subclassed, with more than logits as its output."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.bounds import certified_radius, interval_margins, margin_bounds, trace

THREAT = ThreatModel("linf", 0.05)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def batch():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])


@pytest.mark.parametrize("where", ["", "1", "0"])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
@pytest.mark.parametrize("traced_before", [False, True])
def test_hooks_are_refused_by_name(where, kind, traced_before):
    model = network()
    graph = trace(model) if traced_before else model
    module = model.get_submodule(where)
    getattr(module, f"register_{kind}")(lambda module, args, *rest: None)
    named = f"module '{where}'" if where else "the network"
    for bound in (margin_bounds, certified_radius):
        with pytest.raises(ValueError, match=f"{named} .* has the forward (pre-)?hook"):
            bound(graph, *batch(), **({} if bound is certified_radius else {"threat": THREAT}))


def test_hooks_for_all_modules_and_forwards_of_instances_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        with pytest.raises(ValueError, match="hook for all modules"):
            margin_bounds(network(), *batch(), THREAT)
    finally:
        handle.remove()
    model = network()
    inner = model[0].forward
    model[0].forward = lambda z: inner(z) * torch.where(z.abs().amax() > 0.8, -1.0, 1.0)
    with pytest.raises(ValueError, match=r"module '0' .* forward of its own, set on the instance"):
        margin_bounds(model, *batch(), THREAT)


class OwnConvolution(nn.Conv1d):
    """Leaves `forward` alone and replaces what it calls."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, 2 * weight, bias)


def test_a_subclass_that_replaces_a_part_of_forward_is_followed():
    torch.manual_seed(0)
    model = nn.Sequential(OwnConvolution(1, 2, 3), nn.Flatten()).double()
    plain = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()).double()
    with torch.no_grad():
        plain[0].weight.copy_(2 * model[0].weight)
        plain[0].bias.copy_(model[0].bias)
    x, y = torch.randn(2, 1, 5).double(), torch.tensor([0, 1])
    got = margin_bounds(model, x, y, THREAT)
    torch.testing.assert_close(got, margin_bounds(plain, x, y, THREAT))


class Stubborn(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(True)


def turning(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0) up to 5, and −x beyond."""
    return torch.where(x > 5, -x, x.clamp(min=0))


def test_an_operator_with_the_name_of_one_of_torch_is_not_taken_for_it():
    """At the inputs themselves it is a ReLU, so that no comparison of logits can tell."""
    torch.library.custom_op("strangers::relu", turning, mutates_args=())
    model, (x, y) = Calls(torch.ops.strangers.relu), batch()
    assert torch.equal(model(x), Calls(torch.ops.aten.relu)(x))
    with pytest.raises(ValueError, match=r"no bounds for 'torch._ops.strangers.relu'"):
        margin_bounds(model, x, y, ThreatModel("linf", 9.0))
    margins = margin_bounds(Calls(torch.ops.aten.relu), x, y, THREAT)
    assert torch.equal(margins, margin_bounds(Calls(F.relu), x, y, THREAT))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.last = function, nn.Linear(4, 3)
        self.eval()

    def forward(self, x):
        return self.last(self.function(x))


def test_train_mode_that_stays_on_and_autocast_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), Stubborn(3))
    with pytest.raises(ValueError, match=r"module '1' .Stubborn. stays in train mode"):
        margin_bounds(model, *batch(), THREAT)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast is on"):
        margin_bounds(network(), *batch(), THREAT)


class Random(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1.0 if self.calls < 2 else -1.0)


def test_a_network_that_changes_from_call_to_call_is_noticed():
    with pytest.raises(ValueError, match="computes other logits than the model"):
        margin_bounds(Random(network()), *batch(), THREAT)


class OfTheBatch(nn.Module):
    """A network that answers otherwise where it is asked about more examples."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) * (2.5 - x.shape[0])


def test_a_network_that_counts_its_examples_is_noticed():
    with pytest.raises(ValueError, match="or with the number of examples"):
        margin_bounds(OfTheBatch(network()), *batch(), THREAT)


class Casting(nn.Module):
    """Its weights are float32, and it runs in bfloat16, in which 1.001 is 1."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(2))

    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x):
        return self.layer(x).float()


def test_autocast_inside_the_forward_is_refused():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.001, 1.0]])  # exact in bfloat16, but for the last
    assert Casting()(x)[2].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="the forward turns autocast on or off"):
        margin_bounds(Casting(), x, torch.zeros(3).long(), ThreatModel("linf", 1e-5))


class Bits(nn.Module):
    """Reads the bits of its values as integers: 0 at 0, and huge next to it."""

    def forward(self, x):
        z = (x - 0.5).relu().double().view(torch.int64).float() * 1e-15
        return torch.cat((-z, z), 1)


def test_a_view_as_another_type_is_refused():
    x, y = torch.full((2, 1), 0.4), torch.zeros(2).long()
    assert Bits()(torch.tensor([[0.6]])).argmax() == 1
    with pytest.raises(ValueError, match=r"no bounds for this use of 'view'.*another type"):
        margin_bounds(Bits(), x, y, ThreatModel("linf", 0.2))


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


class Returns(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, -z),
        lambda z: [z],
        lambda z: {"logits": z, "hidden": z.relu()},
        lambda z: Output(z),
    ],
)
def test_logits_are_found_in_what_the_network_returns(wrap):
    plain = margin_bounds(network(), *batch(), THREAT)
    got = margin_bounds(Returns(network(), wrap), *batch(), THREAT)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-12)


def test_wrapped_networks():
    plain = margin_bounds(network(), *batch(), THREAT)
    for wrapped in (nn.DataParallel(network()), torch.compile(network())):
        assert torch.equal(margin_bounds(wrapped, *batch(), THREAT), plain)
        assert interval_margins(wrapped, *batch(), THREAT).requires_grad
    in_place = network()
    in_place.compile()
    assert torch.equal(margin_bounds(in_place, *batch(), THREAT), plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_compiled_code_is_refused():
    x, _ = batch()
    scripted = torch.jit.trace(network(), x)
    exported = torch.export.export(network(), (x,))
    for model in (scripted, nn.Sequential(scripted), exported.module()):
        with pytest.raises(ValueError, match=r"code without readable layers; pass the nn.Module"):
            margin_bounds(model, *batch(), THREAT)
    with pytest.raises(ValueError, match="got ExportedProgram"):
        margin_bounds(exported, *batch(), THREAT)
    again = torch.fx.symbolic_trace(network())  # readable: the layers are still there
    plain = margin_bounds(network(), *batch(), THREAT)
    assert torch.equal(margin_bounds(again, *batch(), THREAT), plain)


class Fails(nn.Module):
    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return x


def test_what_a_forward_raises_is_one_line():
    with pytest.raises(ValueError, match="cannot trace Fails") as caught:
        margin_bounds(Fails(), *batch(), THREAT)
    assert "\n" not in str(caught.value)


def test_complex_weights_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))

        def forward(self, x):
            return F.linear(x, self.weight)

    with pytest.raises(ValueError, match="complex64"):
        margin_bounds(Complex(), *batch(), THREAT)


class Turning(torch.Tensor):
    """A weight whose layer turns the sign of inputs above 5, as one of 8 bits would cut them."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            x, weight, *others = args
            args = (torch.where(x > 5, -x, x), weight, *others)
        return super().__torch_function__(func, types, args, kwargs)


def test_weights_with_operations_of_their_own_are_refused():
    """At the inputs themselves they are plain ones, so that no comparison of logits can tell."""
    layer, (x, y) = nn.Linear(4, 3), batch()
    plain = [layer(x), layer(10 + x)]
    margin_bounds(layer, x, y, THREAT)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Turning))
    assert torch.equal(layer(x), plain[0])
    assert not torch.equal(layer(10 + x), plain[1])
    for bound in (margin_bounds, interval_margins):
        with pytest.raises(ValueError, match="weights of class Turning have no bounds"):
            bound(layer, x, y, ThreatModel("linf", 10.0))
