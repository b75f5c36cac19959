"""The cost of a network: weights, multiplications, bytes, and measured time.

A mask saves no work. A masked network stores and multiplies all its weights, also the zeros, so its
`macs` and `latency` are those of the dense one. `nonzeros` and `effective_macs` say what could be
saved in principle; only the measured latency says what is saved on a machine. See docs/deploy.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attacks.modes import evaluating
from attacks.network import unwrapped
from robustprune.deploy.copies import check_module
from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.timing import time_in_turns
from robustprune.sparsity import is_single, plain
from robustprune.sparsity.plain import computed_weights

#: torch's operations that multiply matrices, and parts of names of those that do so internally
_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "_trilinear"))
_WORDS = ("convolution", "attention", "lstm", "gru", "rnn", "transformer")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        name: the caller's name for it.
        parameters: the number of stored weights: each dense weight, zero or not, and the stored
            weights of a CSR layer.
        nonzeros: the number of those that aren't zero (under the mask).
        macs: the multiply-accumulates for one example in linear and convolution layers that are
            carried out; dense layers also multiply by their zeros.
        effective_macs: the number of those with a weight that isn't zero.
        file_bytes: the size of the network's whole state as safetensors (with the masks, if they
            aren't baked in).
        uncounted: the modules with other matrix products, which `macs` leaves out: a recurrent or
            attention layer, or a matrix product in a forward.
        latency: the median seconds of one batch.
        latency_quartiles: the lower and the upper quartile of the same.
        batch_size, threads, device: the conditions of the latency.
    """

    name: str
    parameters: int
    nonzeros: int
    macs: int
    effective_macs: int
    file_bytes: int
    latency: float
    latency_quartiles: tuple[float, float]
    batch_size: int
    threads: int
    device: str
    uncounted: tuple[str, ...] = ()


def compare_cost(
    models: Mapping[str, nn.Module], example: Tensor, *, repeats: int = 30, warmup: int = 3
) -> list[Cost]:
    """Return the cost of each model on the batch `example`, in eval mode, timed in turns.

    Latencies are for inference on this machine, with its present load, batch size and number of
    threads (`torch.set_num_threads`). They compare the models of one call with each other.

    Args:
        models: the models by their names in the result.
        example: (N, ...), on the models' device.
        repeats: the number of timed calls of each model.
        warmup: the number of calls of each before.

    Raises:
        ValueError: there are no models, the example is empty, `repeats` is below 1, or a module is
            of TorchScript or torch.export, whose layers can't be read.
    """
    if not models or not len(example):
        raise ValueError("give at least one model, and an example of at least one row")
    for model in models.values():
        check_module(model)
    counts = {name: count_work(model, example) for name, model in models.items()}
    together = nn.ModuleList(models.values())
    with evaluating(together):
        times = time_in_turns(list(models.values()), example, repeats=repeats, warmup=warmup)
    costs = []
    for (name, model), seconds in zip(models.items(), times, strict=True):
        weights = list(used_weights(model))
        low, middle, high = _quartiles(seconds)
        costs.append(
            Cost(
                name=name,
                parameters=sum(weight.numel() for weight in weights),
                nonzeros=sum(int(torch.count_nonzero(weight)) for weight in weights),
                macs=counts[name].macs,
                effective_macs=counts[name].effective,
                uncounted=counts[name].uncounted,
                file_bytes=state_bytes(model),
                latency=middle,
                latency_quartiles=(low, high),
                batch_size=len(example),
                threads=torch.get_num_threads(),
                device=str(example.device),
            )
        )
    return costs


def used_weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield each parameter once, as the layers use it: masked, if something masks it."""
    if computed_weights(model):
        model = plain(model)
    yield from (parameter.detach() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Return the multiply-accumulates for one example: (carried out, with a non-zero weight).

    Calls of linear, CSR and (transposed) convolution layers are counted; bias, batch norm and
    functional calls are not (`count_work` names them). A weight of a convolution is used once at
    each output position, padding included, and that of a transposed one once at each input
    position.

    Args:
        example: a batch (N, ...) on the model's device.
    """
    work = count_work(model, example)
    return work.macs, work.effective


@dataclass(frozen=True)
class Work:
    """The multiply-accumulates for one example: those carried out, those with a non-zero weight,
    and the modules whose products neither number contains."""

    macs: int
    effective: int
    uncounted: tuple[str, ...]


@torch.no_grad()
def count_work(model: nn.Module, example: Tensor) -> Work:
    """Return what `count_macs` counts, and the names of what it can't, such as "LSTM 'encoder'"."""
    model = unwrapped(model)
    counts = {"macs": 0, "effective": 0}
    watch = _Products(model)

    def note(layer: nn.Module, args: tuple[Tensor, ...], kwargs: Any, output: Tensor) -> None:
        if isinstance(layer, CSRLinear):
            positions = math.prod(output.shape[:-1])
            stored, nonzeros = layer.nonzeros, int(torch.count_nonzero(layer.values))
        else:
            weight = cast(Tensor, layer.weight)
            if weight.ndim == 2:  # a linear layer
                positions = math.prod(output.shape[:-1])
            else:
                source = args[0] if args else kwargs["input"]
                positions = _positions(source if isinstance(layer, _TRANSPOSED) else output)
            stored, nonzeros = weight.numel(), int(torch.count_nonzero(weight))
        counts["macs"] += stored * positions
        counts["effective"] += nonzeros * positions
        watch.inside -= 1  # only now, because reading a weight may multiply matrices

    def enter(_: nn.Module, args: Any) -> None:
        watch.inside += 1

    handles: list[Any] = []
    try:
        for module in model.modules():
            if is_single(module) or isinstance(module, CSRLinear):
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(note, with_kwargs=True))
            else:
                handles.append(module.register_forward_pre_hook(watch.enter))
                handles.append(module.register_forward_hook(watch.leave))
        with evaluating(model), watch:
            model(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    size = len(example)
    return Work(counts["macs"] // size, counts["effective"] // size, tuple(watch.found))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note the modules in which matrices are multiplied outside of counted layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {module: name for name, module in model.named_modules()}
        self.stack: list[nn.Module] = []
        self.inside = 0
        self.found: dict[str, None] = {}

    def enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.partition(".")[0]
        if not self.inside and (name in _PRODUCTS or any(word in name for word in _WORDS)):
            module = self.stack[-1]
            kind, path = type(module).__name__, self.names[module]
            self.found[f"{kind} {path!r}" if path else f"the forward of {kind}"] = None
        return func(*args, **(kwargs or {}))


def state_bytes(model: nn.Module) -> int:
    """Return the size of the model's state as a safetensors file, with its header."""
    return len(save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}))


def _positions(tensor: Tensor) -> int:
    """Return the number of positions in space of (N, C, ...), over the whole batch."""
    return len(tensor) * math.prod(tensor.shape[2:])


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high
