"""What can be recorded, and what is refused, by name."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import logits_of
from robustprune.deploy import record, slim
from robustprune.deploy.network import Network, Ref, Step
from robustprune.models import MLP


class Written(nn.Module):
    """A network with the forward under test around one convolution and one linear layer."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(12, 2)
        self.register_buffer("offset", torch.ones(3, 1))
        self.shift = nn.Parameter(torch.ones(1))
        self.written = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self, x)


ACCEPTED: dict[str, Callable[..., Tensor]] = {
    "view": lambda m, x: m.linear(m.conv(x).view(x.size(0), -1)),
    "reshape": lambda m, x: m.linear(m.conv(x).contiguous().reshape((x.shape[0], -1))),
    "in place": lambda m, x: m.linear(m.relu(m.conv(x)).flatten(1)),
    "methods": lambda m, x: m.linear(m.conv(x).relu().mul(0.5).add(1.0).flatten(start_dim=1)),
    "buffer": lambda m, x: m.linear(torch.flatten((m.conv(x) - m.offset) / 2, 1)),
    "max_pool": lambda m, x: F.max_pool1d(m.conv(x), 2).mean(dim=2),
    "dropout": lambda m, x: m.linear(F.dropout(m.conv(x), 0.9, m.training).flatten(1)),
    "logits first": lambda m, x: (m.conv(x).mean(2), x),
    "logits by name": lambda m, x: {"features": x, "logits": m.conv(x).mean(2)},
    "size of another": lambda m, x: m.linear(m.conv(x).mul(2).reshape(x.size(dim=0), -1)),
    "left number": lambda m, x: (1.0 - m.conv(x)).mean((2,)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_ways_to_write_a_network(name: str) -> None:
    torch.manual_seed(0)
    model = Written(ACCEPTED[name]).eval()
    x = torch.randn(5, 2, 6)
    network = record(model)
    torch.testing.assert_close(network(x), logits_of(model, x), rtol=0, atol=0)
    assert set(network.state_dict()) <= set(model.state_dict())
    with torch.no_grad():
        model.conv.weight[1] = 0.0
    small = slim(model, None, x)
    torch.testing.assert_close(small(x), logits_of(model, x), atol=1e-6, rtol=1e-6)


def branch_on_values(m: nn.Module, x: Tensor) -> Tensor:
    return m.conv(x) if x.sum() > 0 else x


def in_place_beside_a_reader(m: nn.Module, x: Tensor) -> Tensor:
    before = m.conv(x)
    return m.relu(before) + before


def in_place_on_a_view(m: nn.Module, x: Tensor) -> Tensor:
    before = m.conv(x)
    return m.linear(m.relu(before.flatten(1))) + before.mean(2)[:, :2]


def counts_its_calls(m: nn.Module, x: Tensor) -> Tensor:
    m.offset += 1
    return m.conv(x) * m.offset


REFUSED: dict[str, tuple[Callable[..., object], str]] = {
    "branch": (branch_on_values, "can't be traced.*must not branch"),
    "in place": (in_place_beside_a_reader, "changes 'conv' in place at 'relu' while"),
    "view in place": (in_place_on_a_view, "changes 'conv' in place"),
    "function": (lambda m, x: torch.softmax(m.conv(x), 1), "forward calls 'softmax'.*known"),
    "method": (lambda m, x: m.conv(x).roll(1, 2), "forward calls 'roll'"),
    "size": (lambda m, x: m.conv(x).view(-1, 12), r"write x\.flatten\(1\)"),
    "expand": (
        lambda m, x: m.conv(x).mean(2) + m.shift.expand(x.size(0), -1),
        "expands 'shift', of 1 dimensions, to 2",
    ),
    "use of size": (lambda m, x: m.conv(x) / x.size(0), "uses the size"),
    "weight": (lambda m, x: F.conv1d(x, m.conv.weight), r"reads 'conv\.weight' of a layer"),
    "no tensor": (lambda m, x: [3, m.conv(x)], "must return one tensor"),
    "no logits": (lambda m, x: {"scores": m.conv(x)}, "must return one tensor"),
    "rows": (
        lambda m, x: m.conv(x).flatten(0, 1).view(x.size(0), -1),
        r"which fixes a size; write x\.flatten",
    ),
    "joined rows": (lambda m, x: torch.cat([x, x]).view(x.size(0), -1), "which fixes a size"),
    "noise": (lambda m, x: m.conv(x) + torch.randn(1), "draws random numbers in its forward"),
    "counter": (counts_its_calls, "changes the buffer 'offset', so that answers may depend"),
    "own weight": (lambda m, x: m.shift.mul_(2) + x, "changes the network's own tensor 'shift'"),
    "dtypes": (
        lambda m, x: m.conv(x).add_(m.double_offset),
        "in a network of several dtypes, where that rounds",
    ),
    "number first": (lambda m, x: torch.div(2, m.conv(x)), "torch.div on the number 2"),
    "dropout": (lambda m, x: F.dropout(m.conv(x), 0.5), "drops out also in eval mode"),
    "dtype": (lambda m, x: torch.mean(m.conv(x), 2, dtype=torch.float64), "passes a dtype"),
    "slice": (lambda m, x: m.conv(x)[:, 1:], "forward calls 'getitem'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_deployed_is_refused_by_name(name: str) -> None:
    forward, message = REFUSED[name]
    model = Written(forward)  # type: ignore[arg-type]
    if name == "dtypes":
        model.register_buffer("double_offset", torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        record(model)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GroupNorm(1, 2), "layer '0' is a GroupNorm, which can't be deployed; known layers are"),
        (nn.MaxPool1d(2, return_indices=True), "layer '0' returns indices"),
        (nn.AvgPool2d(2, divisor_override=3), "layer '0' overrides its divisor"),
    ],
)
def test_layers_outside_the_vocabulary_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(nn.Sequential(layer))


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(ValueError, match="more than one input"):
        record(Two())


def test_another_function_than_the_traced_one_is_caught_by_the_check() -> None:
    calls = itertools.count()

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + next(calls)

    with pytest.raises(ValueError, match=r"outputs differ from the network.s by 1 on the example"):
        slim(Counting(), None, torch.ones(2, 3))


def test_recording_draws_no_random_numbers_and_leaves_the_model_alone() -> None:
    model = MLP((4,), 2, hidden=(3,)).train()
    before = torch.get_rng_state()
    network = record(model)
    slim(model, None, torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not network.training
    assert record(network) is not network


def test_steps_must_fit_together() -> None:
    x, out = Step("x", "input"), Step("out", "output", "", (Ref("x"),))
    cases = [
        ([x], "start with one input and end with one output"),
        ([x, x, out], "exactly one input"),
        ([x, Step("a", "function", "relu", (Ref("b"),)), out], "takes 'b', which no earlier step"),
        ([x, Step("a", "function", "exec", (Ref("x"),)), out], "unknown function 'exec'; known"),
        ([x, Step("a", "module", "gone", (Ref("x"),)), out], "unknown module 'gone'"),
        ([x, Step("x", "function", "relu", (Ref("x"),)), out], "two steps are named 'x'"),
    ]
    for steps, message in cases:
        with pytest.raises(ValueError, match=message):
            Network(steps, {}, {})


@pytest.mark.parametrize("name", ["forward", "a..b", "__class__", "a b", "steps", ""])
def test_layer_names_cannot_hide_methods(name: str) -> None:
    steps = [Step("x", "input"), Step("out", "output", "", (Ref("x"),))]
    with pytest.raises(ValueError, match=r"is no name of a layer|is taken"):
        Network(steps, {name: nn.ReLU()}, {})
