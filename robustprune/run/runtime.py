"""Device, ranks, seeds and what must be known of the machine to repeat a run.

Several processes that `torchrun` or `accelerate launch` started work on one run: each is a rank.
With one process, every function here that is about ranks does nothing.
"""

from __future__ import annotations

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

#: the kinds of device that people mean
DEVICES = ("cpu", "cuda", "mps", "xpu")


def warn_of_emulated_bfloat16(device: torch.device) -> None:
    """Warn where bfloat16 is many times slower than float32: x86 processors without AVX-512."""
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX"):
        warnings.warn(
            "bfloat16 is not native to this processor and may be ten times slower than float32; "
            "leave out amp (loop.amp)",
            stacklevel=3,
        )


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the accelerator if there is one and the CPU if not.

    Where `torchrun` or `accelerate launch` started this process among others, they meet here, and
    each has the accelerator of its own number.

    Raises:
        ValueError: no such device here.
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
    """Part from the other ranks, at the end of a program."""
    if ranks() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def ranks() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and talks to people."""
    return rank() == 0


def wait() -> None:
    """Until all ranks are here."""
    if ranks() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first rank goes through the block alone, then the others; all leave it together."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
    wait()


def agreed(value: bool) -> bool:
    """What the first rank says: of files, whose state the others may see earlier or later."""
    return bool(summed(torch.tensor(float(value and is_first()))))


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the ranks, the same bits on each."""
    if ranks() == 1:
        return tensor
    from accelerate import PartialState
    from accelerate.utils import reduce

    moved = tensor.to(PartialState().device, copy=True)
    total: Tensor = reduce(moved, reduction="sum")
    return total.to(tensor.device)


def merged(part: Tensor) -> Tensor:
    """(N, ...) whose rows were computed on one rank each and are zero on the others."""
    if part.dtype == torch.bool:
        return summed(part.to(torch.uint8)).bool()
    return summed(part)


def own_batches(n: int, batch_size: int) -> list[slice]:
    """The rows of this rank when batches of N examples are dealt out in turn. Batches are the
    same for any number of ranks, so that what is computed of them is, too."""
    starts = range(0, n, batch_size)[rank() :: ranks()]
    return [slice(start, min(start + batch_size, n)) for start in starts]


def own_part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """This rank's examples of a batch and their share of it: of its examples, or where they have
    several labels each, of the labels other than −100. Where there are more ranks than examples,
    some get the first example with a share of 0: they have to go through the step."""
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
    """Make the gradients, and the running statistics of normalisation, the mean over the ranks,
    each weighted by its share of the batch: the gradient of the mean loss over the whole batch.

    Args:
        others: what else is made such a mean, in place.

    Returns:
        the loss over the whole batch.
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
    """Inside, torch's global generators give each rank other numbers; afterwards all the same
    ones again, wherever the block left them."""
    if ranks() == 1:
        yield
        return
    drawn = int(torch.randint(2**48, ()))
    torch.manual_seed(drawn + 1 + rank())
    yield
    torch.manual_seed(drawn)


def seed_everything(seed: int) -> None:
    """Seed torch's global generators and ask for deterministic kernels where there are any.

    Everything else draws from explicit generators. The same seed gives the same result bit for
    bit on the CPU with the same number of threads.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def seed_stage(seed: int, stage: str) -> None:
    """`seed_everything` from the run's seed and the stage's name, so that a stage gives the same
    result whether or not the ones before it were skipped."""
    seed_everything(zlib.crc32(f"{seed}/{stage}".encode()))


def generator_states() -> dict[str, Tensor]:
    """Where torch's global generators stand, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Put back what `generator_states` gave; of devices that are not here nothing is."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name != "cpu" and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda")))


def environment(device: torch.device) -> dict[str, Any]:
    """What the results may depend on besides the config."""
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
