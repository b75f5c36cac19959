"""Calling somebody's network: what it may return, and what it may do to its input."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attacks import logits_of, pick_logits, unwrapped

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
