"""Turn weights that parametrizations or hooks compute into plain Parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from attacks.network import unwrapped

Remove = Callable[[nn.Module, str], nn.Module]
#: hooks that compute a weight before each forward pass: the class, its attribute with the weight's
#: name, the function of torch that removes it, and its usual name
_HOOKS: tuple[tuple[type, str, Remove, str], ...] = (
    (WeightNorm, "name", remove_weight_norm, "weight_norm"),
    (SpectralNorm, "name", remove_spectral_norm, "spectral_norm"),
    (prune.BasePruningMethod, "_tensor_name", prune.remove, "torch.nn.utils.prune"),
)


def plain(model: nn.Module) -> nn.Module:
    """Copy the network so that every weight is a Parameter, with its value in eval mode.

    This replaces parametrizations, torch.nn.utils.prune, and the older weight_norm and
    spectral_norm, which are hooks. Wrappers of torch.compile and DataParallel are removed. Names,
    modes and requires_grad stay as they are. Later training does not keep up the norms, and pruned
    weights are ordinary zeros.

    Raises:
        ValueError: `model` is a TorchScript module, or it cannot be copied.
    """
    return bake(copy_of(model))


def copy_of(model: nn.Module) -> nn.Module:
    """Copy the network itself, without torch.compile or DataParallel around it.

    Raises:
        ValueError: `model` is a TorchScript module, or it cannot be copied.
    """
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{type(model).__name__} is a TorchScript module, whose layers cannot be changed; give "
            "the nn.Module that it was made of"
        )
    memo: dict[int, object] = {}
    for module in model.modules():
        for kept in vars(module).values():
            # a hook, or a recurrent layer with masks, left it in the last forward pass; torch can't
            # copy a tensor inside a graph
            for value in kept if isinstance(kept, list) else (kept,):
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        said = str(error).partition("\n")[0][:120]
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({said}), and the caller's network is never "
            "changed; remove what copy.deepcopy cannot copy"
        ) from error


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """Replace every computed weight in place by a plain Parameter with its value in eval mode.
    `plain` does the same on a copy."""
    with _evaluating(model):
        for module in list(model.modules()):
            if parametrize.is_parametrized(module):
                _bake_parametrizations(module)
            _bake_hooks(module)
    return model


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Return the names of weights that are no plain Parameters, and what computes each
    ("weight_norm")."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            for name, chain in _parametrizations(module).items():
                found[prefix + name] = ", ".join(_plain_name(one) for one in chain)
        for name, what, _ in _hooks_of(module):
            found[prefix + name] = what
    return found


def _parametrizations(module: nn.Module) -> Mapping[str, Iterable[nn.Module]]:
    return cast("Mapping[str, Iterable[nn.Module]]", module.parametrizations)


def _plain_name(parametrization: nn.Module) -> str:
    """Return the usual name of a parametrization, such as weight_norm for _WeightNorm."""
    known = {"_WeightNorm": "weight_norm", "_SpectralNorm": "spectral_norm"}
    name = type(parametrization).__name__
    return known.get(name, name.lstrip("_"))


def _hooks_of(module: nn.Module) -> list[tuple[str, str, Remove]]:
    """Return for each hook that computes a weight: the weight's name, the hook's name, its
    remover."""
    return [
        (str(getattr(hook, attribute)), what, remove)
        for hook in module._forward_pre_hooks.values()
        for kind, attribute, remove, what in _HOOKS
        if isinstance(hook, kind)
    ]


def _bake_hooks(module: nn.Module) -> None:
    # the last one first, because each uses the result of the one before
    for name, _, remove in reversed(_hooks_of(module)):
        made_of = {k: p for k, p in module._parameters.items() if k.startswith(f"{name}_")}
        trained = _requires_grad(made_of.values())
        for key, tensor in made_of.items():
            if tensor is not None:  # torch.nn.utils.prune writes into it, and others may share it
                module._parameters[key] = nn.Parameter(tensor.detach().clone())
        remove(module, name)
        _forget_loading(module, name)
        value = cast(Tensor, getattr(module, name)).detach().clone()
        setattr(module, name, nn.Parameter(value, requires_grad=trained))


def _forget_loading(module: nn.Module, name: str) -> None:
    """Remove the hook of the older spectral_norm on loading. torch does not find it, because it is
    wrapped, and it would look in every state for tensors that no longer exist."""
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        inner = getattr(hook, "hook", hook)
        if isinstance(inner, SpectralNormLoadStateDictPreHook) and inner.fn.name == name:
            del module._load_state_dict_pre_hooks[key]


def _bake_parametrizations(module: nn.Module) -> None:
    _own_class(module)
    for name, chain in list(_parametrizations(module).items()):
        originals = list(cast(nn.Module, chain).parameters(recurse=False))
        value = cast(Tensor, getattr(module, name)).detach().clone()
        single = cast(bool, getattr(chain, "is_tensor"))  # noqa: B009
        # a single original may be shared with another module, which keeps it as it is
        parametrize.remove_parametrizations(module, name, leave_parametrized=not single)
        delattr(module, name)
        if originals or not single:
            trained = _requires_grad(originals)
            # by setattr, which keeps the flat list of weights in a recurrent layer up to date
            setattr(module, name, nn.Parameter(value, requires_grad=trained))
        else:
            module.register_buffer(name, value)


def _requires_grad(tensors: Iterable[Tensor | None]) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own. torch makes a class for the module, with a
    property for each parametrized weight. Copies of the module share that class, so removing the
    parametrization from one copy would remove the property from all of them."""
    shared = type(module)
    content = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, content)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Use eval mode inside this context, in which spectral_norm makes no step of its power
    iteration."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
