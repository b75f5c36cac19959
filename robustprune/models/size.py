"""How large a network would be, before any of its memory is taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from robustprune.run.files import check_memory

#: tensors that a network may consist of; a thousand layers have some three thousand
_MOST_TENSORS = 20_000


def check_size(build: Callable[[], nn.Module], *, model: str, held: int = 0) -> None:
    """Build the network without memory, on torch's meta device, and stop where it grows too large.

    Torch's random numbers stay where they are.

    Args:
        model: what messages call it.
        held: bytes of the file that its weights are read from, where there is one.

    Raises:
        ValueError: its weights, as float32, would take more than `run.files.memory_limit`, they are
            more than 20,000 tensors, or they are too large to be counted.
    """
    count, tensors = 0, 0

    def add(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, tensors
        if parameter is None or parameter.device.type != "meta":
            return
        count, tensors = count + parameter.numel(), tensors + 1
        check_memory(4 * count, f"model '{model}': {count:,} weights or more", held=held)
        if tensors > _MOST_TENSORS:
            raise ValueError(
                f"model '{model}' would have more than {_MOST_TENSORS:,} tensors of weights; give "
                "it fewer layers"
            )

    hook = register_module_parameter_registration_hook(add)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build()
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"model '{model}' cannot be built: {reason}; give it smaller options"
        ) from error
    finally:
        hook.remove()
