"""The device, the ranks, the seeds, and what must be known of the machine to repeat a run.

Several processes that `torchrun` or `accelerate launch` started can work on one run. Each is called
a rank. With one process, all functions about ranks do nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import robustprune
from robustprune.run.suggest import nearest

#: the usual kinds of device
DEVICES = ("cpu", "cuda", "mps", "xpu")


def warn_of_emulated_bfloat16(device: torch.device) -> None:
    """Warn if bfloat16 is much slower than float32, as on x86 processors without AVX-512."""
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX"):
        warnings.warn(
            "bfloat16 is not native to this processor and may be ten times slower than float32; "
            "leave out amp (loop.amp)",
            stacklevel=3,
        )


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; "auto" is the accelerator if there is one, otherwise the CPU.

    If `torchrun` or `accelerate launch` started several processes, they connect here, and each one
    gets the accelerator of its own number.

    Raises:
        ValueError: this machine has no such device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _join(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        kind = name.partition(":")[0]
        if kind not in DEVICES:
            near = "cuda" if kind.lower() in ("gpu", "nvidia", "rocm") else nearest(kind, DEVICES)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(
                f"device {name[:50]!r} cannot be used here: it is not one of auto, "
                f"{', '.join(DEVICES)}, or one of several such as cuda:1{hint}"
            ) from error
        raise ValueError(
            f"device {name[:50]!r} cannot be used here ({str(error).splitlines()[0][:200]}); try "
            "'cpu' or 'auto'"
        ) from error
    return device


def _join(name: str) -> torch.device:
    from accelerate import PartialState  # takes a second to import

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {name!r} is one of several; on several ranks take cpu or cuda")
    state = PartialState(cpu=name == "cpu" or not torch.cuda.is_available())
    return torch.device(state.device)


def leave() -> None:
    """Disconnect from the other ranks, at the end of a program."""
    if ranks() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def ranks() -> int:
    """Return the number of processes that work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """Return whether this is the process that writes files and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until all ranks are here."""
    if ranks() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first rank run the block alone, then the others. All leave it together."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
    wait()


def agreed(value: bool) -> bool:
    """Return the value of the first rank. (The ranks may see changes of files at different
    times.)"""
    return bool(summed(torch.tensor(float(value and is_first()))))


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, with the same bits on each."""
    if ranks() == 1:
        return tensor
    from accelerate import PartialState
    from accelerate.utils import reduce

    moved = tensor.to(PartialState().device, copy=True)
    total: Tensor = reduce(moved, reduction="sum")
    return total.to(tensor.device)


def merged(part: Tensor) -> Tensor:
    """Merge (N, ...) whose rows were computed on one rank each and are zero on the others."""
    if part.dtype == torch.bool:
        return summed(part.to(torch.uint8)).bool()
    return summed(part)


def own_batches(n: int, batch_size: int) -> list[slice]:
    """Return the rows of this rank if the batches of N examples are distributed in turn. Batches
    are the same for any number of ranks, and so are results."""
    starts = range(0, n, batch_size)[rank() :: ranks()]
    return [slice(start, min(start + batch_size, n)) for start in starts]


def own_part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return this rank's examples of a batch, and their share of its examples. If examples have
    several labels, it is their share of the labels other than −100. If there are more ranks than
    examples, some get the first one with a share of 0, because they must take part in the step."""
    n, here, number = len(y), rank(), ranks()
    first, last = (-(-n * k // number) for k in (here, here + 1))
    if first == last:
        return x[:1], y[:1], 0.0
    share = (last - first) / n
    if y.ndim > 1 and number > 1 and (whole := int((y != -100).sum())):
        share = int((y[first:last] != -100).sum()) / whole
    return x[first:last], y[first:last], share


def step_together(
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    model: nn.Module,
    share: float,
    *,
    others: Sequence[Tensor] = (),
) -> Tensor:
    """Average gradients and running statistics of normalisation over the ranks, in place.

    Each rank is weighted by its share of the batch, which gives the gradient of the mean loss over
    the whole batch.

    Args:
        others: other tensors that are averaged, in place.

    Returns:
        The loss over the whole batch.
    """
    if ranks() == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    statistics = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    tensors = [loss.detach().clone(), *gradients, *statistics, *others]
    double = any(t.dtype == torch.float64 for t in tensors)
    kind = torch.float64 if double else torch.float32
    flat = summed(torch.cat([t.detach().reshape(-1).to(kind) for t in tensors]) * share)
    for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
    return tensors[0]


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Inside this context, torch's global generators give each rank different random numbers.
    Afterwards they give the same numbers to all, whatever the block has drawn."""
    if ranks() == 1:
        yield
        return
    drawn = int(torch.randint(2**48, ()))
    torch.manual_seed(drawn + 1 + rank())
    yield
    torch.manual_seed(drawn)


def seed_everything(seed: int) -> None:
    """Seed torch's global generators, and use deterministic kernels where there are any.

    Everything else uses explicit generators. The same seed gives the same result bit for bit on
    the CPU with the same number of threads.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def seed_stage(seed: int, stage: str) -> None:
    """Call `seed_everything` with a seed from the run's seed and the stage's name. So a stage gives
    the same result whether or not the stages before it were skipped."""
    seed_everything(zlib.crc32(f"{seed}/{stage}".encode()))


def generator_named(name: str) -> torch.Generator:
    """Return a new generator on the CPU whose seed is a digest of a text. So texts that name a seed
    and a purpose or a step give independent streams, the same on every rank and after a resume."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def generator_states() -> dict[str, Tensor]:
    """Return the states of torch's global generators, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Restore a result of `generator_states`, without devices that this machine does not have."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name != "cpu" and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda")))


def environment(device: torch.device) -> dict[str, Any]:
    """Return everything besides the config on which the results may depend."""
    return {
        "robustprune": robustprune.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "ranks": ranks(),
    }
