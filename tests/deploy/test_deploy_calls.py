"""Functions with every argument that torch takes: kept to the last bit, or refused at recording."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.deploy import load_slim, record, save_slim
from robustprune.deploy.network import Network, Ref, Step


class Calls(nn.Module):
    """One call between two layers: of h, (N, 4, 6, 6), and of another tensor of that shape."""

    def __init__(self, call: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.one(x), self.other(x))


def kept_or_refused(call: Callable[[Tensor, Tensor], Any], folder: Path) -> bool:
    """Whether it is kept: then the saved and loaded network equals the model in every bit."""
    torch.manual_seed(0)
    model, x = Calls(call).eval(), torch.randn(3, 2, 6, 6)
    try:
        save_slim(folder / "network.safetensors", model)
    except ValueError as error:
        if "\n" in str(error):
            raise AssertionError("a refusal is one line") from error
        return False
    with torch.no_grad():
        expected = model(x)
        for network in (record(model), load_slim(folder / "network.safetensors")):
            got = network(x)
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    return True


OPTIONS: dict[str, tuple[Any, ...]] = {
    "alpha": (1, 1.0, 2, -0.3, True),
    "rounding_mode": (None, "floor", "trunc"),
    "dim": (1, -1, (2, 3), None),
    "axis": (1, -1),
    "keepdim": (True, False),
    "keepdims": (True,),
    "dtype": (None, torch.float32, torch.float64),
    "start_dim": (1, 2),
    "end_dim": (-1, 2),
    "inplace": (True, False),
    "negative_slope": (0.3, -0.1),
    "approximate": ("tanh", "none"),
    "kernel_size": (2, (2, 3)),
    "stride": (None, 1, (2, 1)),
    "padding": (0, 1),
    "dilation": (1, 2),
    "ceil_mode": (True, False),
    "return_indices": (True, False),
    "count_include_pad": (True, False),
    "divisor_override": (None, 3),
    "output_size": (1, (2, 3), (None, 2)),
    "p": (0.5,),
    "training": (True, False),
    "out": (None,),
}
_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
PAIRS = ("alpha", "rounding_mode", "out")
#: function, number of tensors that it takes, options that may be given
TRIED: list[tuple[Any, int, tuple[str, ...]]] = [
    *((getattr(torch, name), 2, PAIRS) for name in ("add", "sub", "mul", "div")),
    *((name, 2, PAIRS) for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")),
    (torch.cat, -1, ("dim", "axis", "out")),
    (torch.flatten, 1, ("start_dim", "end_dim")),
    ("flatten", 1, ("start_dim", "end_dim")),
    *(
        (which, 1, ("dim", "axis", "keepdim", "keepdims", "dtype"))
        for which in (torch.mean, "mean")
    ),
    *((function, 1, ("inplace",)) for function in (F.relu, F.silu)),
    *((which, 1, ()) for which in (torch.relu, "relu_", torch.tanh, F.sigmoid, "contiguous")),
    (F.leaky_relu, 1, ("negative_slope", "inplace")),
    (F.gelu, 1, ("approximate",)),
    (F.max_pool2d, 1, (*_POOL, "dilation", "return_indices")),
    (F.avg_pool2d, 1, (*_POOL, "count_include_pad", "divisor_override")),
    (F.adaptive_avg_pool2d, 1, ("output_size",)),
    (F.dropout, 1, ("p", "training", "inplace")),
]
#: without these there is no call
NEEDED = ("kernel_size", "output_size")


@st.composite
def calls(draw: st.DrawFn) -> Callable[[Tensor, Tensor], Any]:
    which, tensors, options = draw(st.sampled_from(TRIED))
    kwargs = {
        name: draw(st.sampled_from(OPTIONS[name]))
        for name in options
        if name in NEEDED or draw(st.booleans())
    }
    second = draw(st.sampled_from(["tensor", "number"]))
    by_name = draw(st.booleans())

    def call(h: Tensor, other: Tensor) -> Any:
        function = getattr(h, which) if isinstance(which, str) else which
        given = [] if isinstance(which, str) else [h]
        right = 0.7 if second == "number" else other
        if tensors == -1:
            given = [[h, other]]
        elif tensors == 2:
            if by_name:
                return function(*given, other=right, **kwargs)
            given.append(right)
        return function(*given, **kwargs)

    return call


def runs(call: Callable[[Tensor, Tensor], Any]) -> bool:
    try:
        call(torch.ones(1, 4, 6, 6), torch.ones(1, 4, 6, 6))
    except (TypeError, RuntimeError):
        return False
    return True


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls().filter(runs))
def test_a_call_is_kept_in_every_bit_or_refused(
    tmp_path: Path, call: Callable[[Tensor, Tensor], Any]
) -> None:
    kept_or_refused(call, tmp_path)


@pytest.mark.slow
@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls().filter(runs))
def test_many_calls_are_kept_in_every_bit_or_refused(
    tmp_path: Path, call: Callable[[Tensor, Tensor], Any]
) -> None:
    kept_or_refused(call, tmp_path)


KEPT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "alpha": lambda h, g: torch.add(h, g, alpha=2.5),
    "alpha of a method": lambda h, g: h.sub(g, alpha=0.5),
    "alpha in place": lambda h, g: h.sub_(g, alpha=0.5),
    "alpha of a number": lambda h, g: torch.sub(1, h, alpha=3),
    "rounding": lambda h, g: torch.div(h, 0.1, rounding_mode="floor"),
    "rounding of a number": lambda h, g: torch.div(3.0, h, rounding_mode="trunc"),
    "axis": lambda h, g: h.mean(axis=1, keepdims=True) + g,
    "joined by name": lambda h, g: torch.cat(tensors=[h, g], dim=-1),
    "input by name": lambda h, g: torch.add(input=F.relu(input=h), other=g, alpha=-1),
    "in place by position": lambda h, g: F.leaky_relu(h, 0.1, True) + g,
    "a number over a tensor": lambda h, g: 2.5 / h,
    "average with a divisor": lambda h, g: F.avg_pool2d(h, 2, divisor_override=3),
    "pool by position": lambda h, g: F.max_pool2d(h, 2, 1, 1, 1, True),
}


@pytest.mark.parametrize("name", KEPT)
def test_arguments_that_are_kept(name: str, tmp_path: Path) -> None:
    assert kept_or_refused(KEPT[name], tmp_path)


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "old alpha": (lambda h, g: h.add(2, g), "'add' is called with 3 arguments in a row"),
    "out": (lambda h, g: torch.add(h, 1, out=g), "'add' is called with out=.*can't keep"),
    "indices": (lambda h, g: F.max_pool2d(h, 2, return_indices=True)[0], "max_pool2d_with_ind"),
    "unknown": (lambda h, g: torch.cat([h, g], dim=1, out=h), "'cat' is called with out=.*can't"),
    "scale": (
        lambda h, g: torch.add(h, g, alpha=g.mean()),
        "a value of alpha that depends on the input",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_kept_are_named(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        record(Calls(call))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("a", "function", "relu", (Ref("x"),), {"slope": 1}), "slope=1, which can't be depl"),
        (Step("a", "function", "relu", (Ref("x"), 1, 2)), "3 arguments in a row"),
        (Step("a", "function", "add", (Ref("x"),)), "without other"),
        (Step("a", "function", "add", (Ref("x"), 1), {"other": 2}), "other=2, .* each once"),
        (Step("a", "module", "f", ()), "'f' is called without its input"),
        (Step("a", "module", "f", (Ref("x"), 2)), "takes input"),
        (Step("a", "module", "f", (), {"inputs": Ref("x")}), "takes input"),
    ],
)
def test_steps_of_a_file_are_called_as_their_functions_allow(step: Step, message: str) -> None:
    steps = [Step("x", "input"), step, Step("out", "output", "", (Ref("a"),))]
    with pytest.raises(ValueError, match=message):
        Network(steps, {"f": nn.ReLU()}, {})


def test_a_function_gives_what_torch_gives_when_it_is_bound() -> None:
    """The steps of a network are what was written, with defaults left out and tensors in front."""
    network = record(Calls(lambda h, g: torch.add(other=g, input=F.relu(h, True), alpha=1.0)))
    shown = [(s.target, s.args, dict(s.kwargs)) for s in network.steps if s.kind == "function"]
    assert shown == [
        ("relu", (Ref("one"),), {}),
        ("add", (Ref("relu"), Ref("other")), {}),
    ]


def test_layers_are_called_with_their_input_by_position() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(2, 3, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(input=x, output_size=[8])

    x, named = torch.randn(2, 2, 3), Named().eval()
    network = record(named)
    (step,) = (step for step in network.steps if step.kind == "module")
    assert (step.args, dict(step.kwargs)) == ((Ref("x"),), {"output_size": [8]})
    torch.testing.assert_close(network(x), named(x), rtol=0, atol=0)
