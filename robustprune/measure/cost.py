"""The cost of a network: weights, multiplications, bytes, and measured time.

A mask saves no work. A masked network stores and multiplies all its weights, also the zeros, so its
`macs` and `latency` are those of the dense one. `nonzeros` and `effective_macs` say what could be
saved in principle; only the measured latency says what is saved on a machine. See docs/deploy.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.deploy.copies import check_module
from robustprune.deploy.timing import time_in_turns
from robustprune.measure.work import count_work
from robustprune.sparsity import plain
from robustprune.sparsity.plain import computed_weights


@dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        name: the caller's name for it.
        parameters: the number of stored weights: each dense weight, zero or not, and the stored
            weights of a CSR layer.
        nonzeros: the number of those that aren't zero (under the mask).
        macs: the multiply-accumulates for one example that are carried out, see `count_work`;
            dense layers also multiply by their zeros.
        effective_macs: the number of those without a weight that is zero.
        file_bytes: the size of the network's whole state as safetensors (with the masks, if they
            aren't baked in).
        uncounted: the modules with matrix products that can't be counted, which `macs` leaves out.
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


def state_bytes(model: nn.Module) -> int:
    """Return the size of the model's state as a safetensors file, with its header."""
    return len(save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}))


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high
