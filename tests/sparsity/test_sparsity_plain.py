"""Weights that something computes become plain Parameters of the same value."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from robustprune.sparsity import MaskSet, apply_masks, plain

Wrap = Callable[[nn.Module], nn.Module]


def _by_hooks(name: str) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch calls them deprecated
            return getattr(nn.utils, name)(layer)

    return wrap


def _pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", amount=0.5)


def _pruned_twice(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(_pruned(layer), "weight", amount=3)


def _masked(layer: nn.Module) -> nn.Module:
    apply_masks(layer, MaskSet({"weight": torch.rand(layer.weight.shape) < 0.5}))
    return layer


def _both(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(_by_hooks("weight_norm")(layer), "weight_v", amount=4)


WRAPS: dict[str, Wrap] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm by hooks": _by_hooks("weight_norm"),
    "spectral_norm by hooks": _by_hooks("spectral_norm"),
    "torch.nn.utils.prune": _pruned,
    "pruned twice": _pruned_twice,
    "masks": _masked,
    "weight_norm, then pruned": _both,
    "nothing": lambda layer: layer,
}


def network(wrap: Wrap) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(wrap(nn.Linear(5, 5)), nn.Tanh(), wrap(nn.Linear(5, 3)))


def what_it_is(model: nn.Module) -> dict[str, object]:
    """All of a model's state that a careless copy could change."""
    state: dict[str, object] = {k: v.clone() for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        state[f"{name} mode"] = module.training
        state[f"{name} hooks"] = list(module._forward_pre_hooks)
        state[f"{name} class"] = type(module)
    state |= {f"{name} trains": p.requires_grad for name, p in model.named_parameters()}
    return state


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()
    )


@pytest.mark.parametrize("used", ["fresh", "after a forward pass", "and without gradients"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("what", WRAPS)
def test_plain_weights_are_parameters_of_the_same_value(what: str, frozen: bool, used: str) -> None:
    model = network(WRAPS[what]).requires_grad_(not frozen)
    x = torch.randn(7, 5)
    if used != "fresh":
        with torch.set_grad_enabled(used == "after a forward pass"):
            model(x)
    before = what_it_is(model)
    flat = plain(model)
    assert same(before, what_it_is(model))
    assert all(module.training for module in flat.modules())
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert dict(flat.named_parameters()).keys() == flat.state_dict().keys() == names
    assert not any(module._forward_pre_hooks for module in flat.modules())
    assert not any(parametrize.is_parametrized(module) for module in flat.modules())
    assert [p.requires_grad for p in flat.parameters()] == [not frozen] * 4
    torch.testing.assert_close(flat.eval()(x), model.eval()(x))
    flat.requires_grad_(True)
    flat(x).sum().backward()
    assert all(p.grad is not None for p in flat.parameters())
    flat.load_state_dict(flat.state_dict())
    own = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in own for p in flat.parameters())


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, _by_hooks("weight_norm"), _pruned])
def test_a_recurrent_layer_uses_its_plain_weight(wrap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4)
    if wrap is _pruned:
        prune.random_unstructured(layer, "weight_hh_l0", amount=0.5)
    elif wrap is parametrizations.weight_norm:
        parametrizations.weight_norm(layer, "weight_hh_l0")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(layer, "weight_hh_l0")
    x = torch.randn(6, 2, 3)
    flat = plain(layer)
    before = flat(x)[0]
    torch.testing.assert_close(before, layer(x)[0])
    with torch.no_grad():
        flat.get_parameter("weight_hh_l0").zero_()
    assert not torch.allclose(flat(x)[0], before)


def test_a_weight_that_another_module_shares_is_left_to_it() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    model = nn.Sequential(a, b)
    parametrize.register_parametrization(a, "weight", nn.Tanh(), unsafe=True)
    flat = plain(model)
    assert torch.equal(flat.get_parameter("0.weight"), b.weight.tanh())
    assert torch.equal(flat.get_parameter("1.weight"), b.weight)


def test_a_parametrized_buffer_stays_a_buffer() -> None:
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "running_mean", nn.Tanh(), unsafe=True)
    flat = plain(nn.Sequential(layer))
    assert "0.running_mean" in dict(flat.named_buffers())
    assert len(list(flat.parameters())) == 2


def test_wrapped_networks_are_taken_out_of_their_wrapping() -> None:
    model = network(lambda layer: layer)
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        assert isinstance(wrapped, nn.Module)
        flat = plain(wrapped)
        assert flat.state_dict().keys() == model.state_dict().keys()
        assert type(flat) is nn.Sequential


def test_what_cannot_be_copied_is_refused_in_a_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls TorchScript deprecated
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"TorchScript module.*give the nn\.Module"):
        plain(scripted)
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Linear cannot be copied .*lock"):
        plain(model)


def test_a_pruned_weight_leaves_the_one_it_is_tied_to_alone() -> None:
    """torch.nn.utils.prune keeps the shared parameter as it was in the other layer."""
    torch.manual_seed(0)
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    prune.l1_unstructured(one, "weight", 8)
    model, x = nn.Sequential(one, other).eval(), torch.randn(3, 4)
    made = plain(model)
    assert torch.equal(made(x), model(x))
    assert int((made.get_parameter("0.weight") == 0).sum()) == 8
    assert torch.equal(made.get_parameter("1.weight"), other.weight)
