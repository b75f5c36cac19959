"""Save and load deployed networks as safetensors with a JSON description, without any code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.network import Network, Ref, Step, StepKind, tied_names
from robustprune.deploy.record import record
from robustprune.deploy.vocabulary import MODULE_NAMES, MODULES, arguments_of
from robustprune.run.checkpoint import load_tensors, save_tensors

_STRICT = ConfigDict(extra="forbid", strict=True)


class _StepText(BaseModel):
    model_config = _STRICT
    name: str
    kind: StepKind
    target: str
    args: list[Any]
    kwargs: dict[str, Any]


class _LayerText(BaseModel):
    model_config = _STRICT
    type: str
    arguments: dict[str, Any]


class _NetworkText(BaseModel):
    model_config = _STRICT
    format: Literal["robustprune.network"]
    version: Literal[1]
    steps: list[_StepText]
    layers: dict[str, _LayerText]
    tensors: dict[str, Literal["buffer", "parameter"]]
    tied: dict[str, str] = {}  # name of a shared parameter -> name under which the file holds it


def save_slim(path: Path | str, model: nn.Module) -> None:
    """Write `model` to one safetensors file, with its structure as JSON in the header.

    The file does not need the code that made it: `load_slim` builds the network from a closed list
    of torch layers and functions (`robustprune.deploy.vocabulary`).

    Args:
        model: the result of `slim` or `sparsify`, or any module that `record` accepts; masks are
            baked in, and the network is saved in eval mode.

    Raises:
        ValueError: a layer, function or argument is outside the list, forward can't be traced, or
            other code, such as a hook, runs beside it.
    """
    network = record(model)
    tied = tied_names(network)
    layers = {
        name: {"type": type(module).__name__, "arguments": arguments_of(module)}
        for name, module in network.named_modules()
        if type(module) in MODULES
    }
    state = {k: v for k, v in network.state_dict().items() if k not in tied}
    text: dict[str, Any] = {
        "format": "robustprune.network",
        "version": 1,
        "steps": [_encode_step(step) for step in network.steps],
        "layers": layers,
        "tensors": {
            step.target: "parameter"
            if step.target in dict(network.named_parameters())
            else "buffer"
            for step in network.steps
            if step.kind == "tensor"
        },
    }
    if tied:
        text["tied"] = tied
    save_tensors(Path(path), state, text)


def load_slim(path: Path | str, *, device: torch.device | str = "cpu") -> Network:
    """Read a file of `save_slim` and return the network in eval mode.

    No name in the file is imported or evaluated: types and functions come from a closed list, and
    sizes must be those of the stored tensors.

    Raises:
        ValueError: the file is damaged or has another format, a type or function is outside the
            list, the steps don't fit together, or the tensors don't fit the layers.
    """
    tensors, meta = load_tensors(Path(path))
    try:
        text = _NetworkText.model_validate(meta)
        steps = [
            Step(s.name, s.kind, s.target, tuple(map(_decode, s.args)), _decode_all(s.kwargs))
            for s in text.steps
        ]
        with torch.device("meta"):  # no memory is taken before the sizes are compared
            layers = {name: _build(name, layer) for name, layer in text.layers.items()}
        tensors = _with_tied(tensors, text.tied)
        owned = {name: _tensor(name, kind, tensors) for name, kind in text.tensors.items()}
        network = Network(steps, layers, owned)
        network.load_state_dict(tensors, assign=True)
        for name, held in text.tied.items():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, network.get_parameter(held))
        for module in network.modules():
            if isinstance(module, CSRLinear):
                module.check()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its header"
        raise ValueError(f"{path} is no saved network: {where}: {first['msg']}") from error
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no valid network: {error}") from error
    return network.eval().to(device)


def _with_tied(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Return all tensors, including those that the file holds under another name."""
    for name, held in tied.items():
        if name in tensors or held not in tensors:
            raise ValueError(f"{name!r} cannot be the same as {held!r}, which isn't there once")
    return {**tensors, **{name: tensors[held] for name, held in tied.items()}}


def _encode_step(step: Step) -> dict[str, Any]:
    fields = ("name", "kind", "target", "args", "kwargs")
    return {field: _encode(getattr(step, field)) for field in fields}


def _encode(value: Any) -> Any:
    """Return the JSON form of an argument: {"ref": name} for the result of a step."""
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, Mapping):
        return {key: _encode(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(part) for part in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) != {"ref"} or not isinstance(value["ref"], str):
            raise ValueError(f"an argument is {value!r}; expected {{'ref': name of a step}}")
        return Ref(value["ref"])
    if isinstance(value, list):
        return [_decode(part) for part in value]
    return value


def _decode_all(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _decode(value) for key, value in arguments.items()}


def _build(name: str, text: _LayerText) -> nn.Module:
    kind = MODULE_NAMES.get(text.type)
    if kind is None:
        raise ValueError(
            f"layer {name!r} is of the unknown type {text.type!r}; known are "
            f"{', '.join(sorted(MODULE_NAMES))}"
        )
    if set(text.arguments) != set(MODULES[kind]):
        raise ValueError(
            f"layer {name!r} has the arguments {', '.join(sorted(text.arguments))}; a {text.type} "
            f"has {', '.join(sorted(MODULES[kind]))}"
        )
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in text.arguments.items()}
    return kind(**arguments)


def _tensor(name: str, kind: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"the tensor {name!r} is missing")
    return nn.Parameter(tensors[name]) if kind == "parameter" else tensors[name]
