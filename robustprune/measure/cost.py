"""What a network costs: weights, multiplications, bytes, and measured time.

A mask removes no work. A masked network stores and multiplies all its weights, the zeros too, so
its `macs` and `latency` are those of the dense one. `nonzeros` and `effective_macs` say what is
left in principle; only the measured latency says what it brings on a machine. See docs/deploy.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.timing import time_in_turns
from robustprune.sparsity import MASKABLE, plain
from robustprune.sparsity.plain import computed_weights

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        name: the caller's.
        parameters: weights held and used: each dense weight, zero or not; of a CSR layer its
            stored ones.
        nonzeros: those of them that aren't zero (under the mask).
        macs: multiply-accumulates of one example in linear and convolution layers, as carried
            out: dense layers multiply by their zeros too.
        effective_macs: those with a weight that isn't zero.
        file_bytes: of the network's whole state as safetensors (a network whose masks aren't
            baked in holds those too).
        latency: median seconds of one batch.
        latency_quartiles: lower and upper quartile of the same.
        batch_size, threads, device: what the latency was measured with.
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


def compare_cost(
    models: Mapping[str, nn.Module], example: Tensor, *, repeats: int = 30, warmup: int = 3
) -> list[Cost]:
    """The cost of each model on the batch `example`, in eval mode, timed in turns.

    Latencies are of inference on this machine, its present load, batch size and number of
    threads (`torch.set_num_threads`); they compare models of one call with each other.

    Args:
        models: by the names that the result carries.
        example: (N, ...), on the models' device.
        repeats: timed calls of each model.
        warmup: calls of each before.

    Raises:
        ValueError: no models, an empty example, or fewer than one repeat.
    """
    if not models or not len(example):
        raise ValueError("give at least one model, and an example of at least one row")
    counts = {name: count_macs(model, example) for name, model in models.items()}
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
                macs=counts[name][0],
                effective_macs=counts[name][1],
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
    """Each parameter once, as the layers use it: masked, where something masks it."""
    if computed_weights(model):
        model = plain(model)
    yield from (parameter.detach() for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Multiply-accumulates of one example: (as carried out, with a non-zero weight).

    Counted are the calls of linear, CSR and (transposed) convolution layers; bias, batch norm and
    functional calls are not. A convolution's weight is used once at each output position, padding
    included, a transposed one's once at each input position.

    Args:
        example: a batch (N, ...) on the model's device.
    """
    counts = {"macs": 0, "effective": 0}

    def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, CSRLinear):
            positions = math.prod(output.shape[:-1])
            stored, nonzeros = layer.nonzeros, int(torch.count_nonzero(layer.values))
        else:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            if isinstance(layer, nn.Linear):
                positions = math.prod(output.shape[:-1])
            else:
                positions = _positions(args[0] if isinstance(layer, _TRANSPOSED) else output)
            stored, nonzeros = weight.numel(), int(torch.count_nonzero(weight))
        counts["macs"] += stored * positions
        counts["effective"] += nonzeros * positions

    layers = [m for m in model.modules() if isinstance(m, (*MASKABLE, CSRLinear))]
    handles: list[Any] = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return counts["macs"] // len(example), counts["effective"] // len(example)


def state_bytes(model: nn.Module) -> int:
    """Size of the model's state as a safetensors file, header included."""
    return len(save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}))


def _positions(tensor: Tensor) -> int:
    """Positions in space of (N, C, ...), over the batch."""
    return len(tensor) * math.prod(tensor.shape[2:])


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high
