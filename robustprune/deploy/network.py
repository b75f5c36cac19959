"""A network as a list of steps from the closed vocabulary, which can be slimmed, saved and
loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from robustprune.deploy.attention import AttentionHeads
from robustprune.deploy.calls import kept_arguments, layer_arguments
from robustprune.deploy.vocabulary import FUNCTIONS, MODULES

StepKind = Literal["input", "tensor", "module", "function", "output"]

_PATH = re.compile(r"(?:[A-Za-z_]\w*|\d+)(?:\.(?:[A-Za-z_]\w*|\d+))*", re.ASCII)


@dataclass(frozen=True)
class Ref:
    """An argument that stands for the result of an earlier step."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call in a network.

    Attributes:
        name: the name of the result, for later steps.
        kind: "input" (the network's x), "tensor" (a buffer), "module", "function", "output".
        target: the path of the buffer or layer, or the name of the function; "" for input and
            output.
        args, kwargs: the arguments: `Ref`s, numbers, strings, None, and lists of them.
    """

    name: str
    kind: StepKind
    target: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refs(self) -> list[str]:
        """Return the names of the results that the step takes, in the order of its arguments."""
        return [ref.name for ref in _refs([*self.args, *self.kwargs.values()])]


class Network(nn.Module):
    """Run `steps` one after another on x, as a plain module with the state names of the original.

    Args:
        steps: the calls in their order; the first has the kind "input" and the last the kind
            "output".
        modules: the layers by their dotted path, of the types in `vocabulary.MODULES`.
        tensors: buffers (or parameters) that belong to no layer, by their dotted path.

    Raises:
        ValueError: a step refers to a later step, to nothing, or to what is not in the vocabulary;
            it has an argument that it can't keep; or a path is no dotted name or would hide a
            method.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        modules: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        _check_steps(steps, modules, tensors)
        self.steps = tuple(_with_kept_arguments(step, modules) for step in steps)
        for path, module in modules.items():
            if type(module) not in MODULES:
                raise ValueError(f"layer {path!r} is a {type(module).__name__}: not in vocabulary")
            parent, leaf = self._home(path)
            parent.add_module(leaf, module)
        for path, tensor in tensors.items():
            parent, leaf = self._home(path)
            if isinstance(tensor, nn.Parameter):
                parent.register_parameter(leaf, tensor)
            else:
                parent.register_buffer(leaf, tensor)
        self._spent = _last_uses(self.steps)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {}
        for step, spent in zip(self.steps, self._spent, strict=True):
            values[step.name] = self._run(step, values, x)
            for name in spent:  # frees activations as early as ordinary code would
                del values[name]
        logits: Tensor = values[self.steps[-1].name]
        return logits

    def all_values(self, x: Tensor) -> dict[str, Tensor]:
        """Return the result of each step by the name of the step."""
        values: dict[str, Tensor] = {}
        for step in self.steps:
            values[step.name] = self._run(step, values, x)
        return values

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the buffers and parameters that belong to no layer, by their dotted path."""
        paths = [step.target for step in self.steps if step.kind == "tensor"]
        return {path: _look_up(self, path) for path in paths}

    def layer(self, step: Step) -> nn.Module | None:
        """Return the layer that a step calls, or None for other steps."""
        return self.get_submodule(step.target) if step.kind == "module" else None

    def _run(self, step: Step, values: Mapping[str, Any], x: Tensor) -> Any:
        if step.kind == "input":
            return x
        if step.kind == "tensor":
            return _look_up(self, step.target)
        args = [resolve(arg, values) for arg in step.args]
        if step.kind == "output":
            return args[0]
        called = FUNCTIONS[step.target] if step.kind == "function" else _look_up(self, step.target)
        return called(*args, **{key: resolve(v, values) for key, v in step.kwargs.items()})

    def _home(self, path: str) -> tuple[nn.Module, str]:
        """Return the container of `path`, which is made if it is missing, and the last part of the
        path."""
        if not _PATH.fullmatch(path) or "__" in path:
            raise ValueError(f"{path!r} is no name of a layer or tensor")
        parent: nn.Module = self
        *containers, leaf = path.split(".")
        for part in containers:
            if part not in parent._modules:
                _check_free(parent, part, path)
                parent.add_module(part, nn.Module())
            child = parent._modules[part]
            if child is None or type(child) not in (
                nn.Module,
                AttentionHeads,
            ):  # beside heads lies their projection
                raise ValueError(f"{path!r} lies inside a {type(child).__name__} layer")
            parent = child
        _check_free(parent, leaf, path)
        return parent, leaf


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the names of parameters that are shared with an earlier one, and that one's name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def resolve(argument: Any, values: Mapping[str, Any]) -> Any:
    """Return `argument` with each `Ref` replaced by its value."""
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, (list, tuple)):
        return [resolve(part, values) for part in argument]
    return argument


def _look_up(module: nn.Module, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _check_free(parent: nn.Module, leaf: str, path: str) -> None:
    if hasattr(parent, leaf):
        raise ValueError(f"{path!r} is taken, or the name of a method; give it another name")


def _refs(arguments: Sequence[Any]) -> Iterator[Ref]:
    for argument in arguments:
        if isinstance(argument, Ref):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _refs(argument)


def _with_kept_arguments(step: Step, modules: Mapping[str, nn.Module]) -> Step:
    """Return the step with its arguments in one form, the tensors first; unknown ones are
    refused."""
    if step.kind == "function":
        args, kwargs = kept_arguments(
            step.target, step.args, step.kwargs, lambda value: isinstance(value, Ref)
        )
    elif step.kind == "module":
        kind = type(modules[step.target])
        args, kwargs = layer_arguments(kind, step.target, step.args, step.kwargs)
    else:
        return step
    return replace(step, args=args, kwargs=kwargs)


def _last_uses(steps: Sequence[Step]) -> list[list[str]]:
    """Return for each step the results that no later step takes."""
    last = {step.name: index for index, step in enumerate(steps)}
    for index, step in enumerate(steps):
        last.update(dict.fromkeys(step.refs, index))
    spent: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        if name != steps[-1].name:
            spent[index].append(name)
    return spent


def _check_steps(
    steps: Sequence[Step], modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> None:
    known = {"module": modules, "tensor": tensors, "function": FUNCTIONS}
    kinds = [step.kind for step in steps]
    if kinds[:1] != ["input"] or kinds[-1:] != ["output"] or len(steps[-1].refs) != 1:
        raise ValueError("the steps must start with one input and end with one output")
    if kinds.count("input") != 1 or kinds.count("output") != 1:
        raise ValueError("the steps must have exactly one input and one output")
    earlier: set[str] = set()
    for step in steps:
        if step.name in earlier:
            raise ValueError(f"two steps are named {step.name!r}")
        for name in step.refs:
            if name not in earlier:
                raise ValueError(f"step {step.name!r} takes {name!r}, which no earlier step gives")
        if step.kind in known and step.target not in known[step.kind]:
            raise ValueError(
                f"step {step.name!r} uses the unknown {step.kind} {step.target!r}"
                + (f"; known are {', '.join(FUNCTIONS)}" if step.kind == "function" else "")
            )
        earlier.add(step.name)
