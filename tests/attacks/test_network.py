"""Calling somebody's network: what it may return, and what it may do to its input."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from attacks import logits_of, pick_logits, unwrapped
from attacks.network import check_no_hooks

Z = torch.tensor([[1.0, 2.0]])


@pytest.mark.parametrize(
    "output",
    [Z, (Z, Z + 1), [Z, None], {"logits": Z, "loss": Z + 1}, SimpleNamespace(logits=Z)],
    ids=["tensor", "tuple", "list", "dict", "object"],
)
def test_logits_are_found_in_whatever_a_network_returns(output: object) -> None:
    assert pick_logits(output) is Z


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "a NoneType"),
        ({"scores": Z}, "a dict with the keys 'scores'"),
        ({}, r"with the keys \(none\)"),
        ((), "a tuple of nothing"),
        (("a", Z), "a tuple of str, Tensor"),
        (SimpleNamespace(logits=3), "a SimpleNamespace"),
    ],
)
def test_an_output_without_logits_is_named(output: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pick_logits(output)


def test_a_network_that_works_in_place_changes_neither_input_nor_gradient() -> None:
    layer = nn.Linear(3, 2)

    def in_place(x: torch.Tensor) -> torch.Tensor:
        x -= 0.5
        return layer(x.relu_())

    x = torch.rand(4, 3)
    before = x.clone()
    leaf = x.clone().requires_grad_()
    logits = logits_of(in_place, leaf)
    assert torch.equal(logits, layer((before - 0.5).relu()))
    (grad,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    assert torch.equal(grad, layer.weight[0] * (before > 0.5))
    assert torch.equal(leaf.detach(), before)


def test_wrappers_are_taken_off() -> None:
    net = nn.Linear(3, 2)
    assert unwrapped(net) is net
    assert unwrapped(torch.compile(nn.DataParallel(net), backend="eager")) is net


def with_something(place: str, how: str) -> nn.Module:
    """A network of two layers with something beside a forward at the root or at a layer."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    module = model.get_submodule(place)
    if how == "pre-hook":
        module.register_forward_pre_hook(lambda _, args: (args[0] - 0.5,))
    elif how == "hook":
        module.register_forward_hook(lambda _, args, out: 2 * out)
    elif how == "hook with keywords":
        module.register_forward_hook(lambda _, args, kwargs, out: 2 * out, with_kwargs=True)
    elif how == "forward":
        module.forward = lambda x: x  # type: ignore[method-assign]
    else:

        class Called(type(module)):  # type: ignore[misc]
            def __call__(self, x: Tensor) -> Tensor:
                return -super().__call__(x)  # type: ignore[no-any-return]

        module.__class__ = Called
    return model


@pytest.mark.parametrize("place", ["", "1", "1.1"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pre-hook", "the forward pre-hook 'with_something.<locals>.<lambda>'"),
        ("hook", "the forward hook 'with_something.<locals>.<lambda>'"),
        ("hook with keywords", "the forward hook "),
        ("forward", "a forward of its own, set on the instance"),
        ("call", "a __call__ of its own class"),
    ],
)
def test_what_runs_beside_forward_is_named(place: str, how: str, message: str) -> None:
    where = f"module '{place}' (" if place else "the network ("
    with pytest.raises(ValueError, match=f"{re.escape(where)}.*{re.escape(message)}"):
        check_no_hooks(with_something(place, how))


def test_a_hook_for_all_modules_is_named() -> None:
    model = nn.Linear(3, 2)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out + 1)
    try:
        with pytest.raises(ValueError, match="a hook for all modules"):
            check_no_hooks(model)
    finally:
        handle.remove()
    check_no_hooks(model)


def test_what_leaves_answers_alone_is_not_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    model[2].register_full_backward_hook(lambda module, inputs, outputs: None)
    model.register_state_dict_post_hook(lambda *args: None)
    check_no_hooks(model)
    check_no_hooks(fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2))))
