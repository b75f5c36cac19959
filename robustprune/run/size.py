"""Find out how large a network would be before its memory is allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from robustprune.run.files import check_memory

#: the largest number of weight tensors; a network of 1000 layers has about 3000
_MOST_TENSORS = 20_000


def check_size(build: Callable[[], nn.Module], *, model: str, held: int = 0) -> None:
    """Build the network on torch's meta device, which takes no memory, and stop if it is too large.

    The state of torch's random generators does not change.

    Args:
        model: the name of the model, for messages.
        held: the size in bytes of the file that the weights are read from; 0 where there is none.

    Raises:
        ValueError: the weights, as float32, would take more memory than `run.files.memory_limit`,
            they are more than 20,000 tensors, or they are too large to be counted.
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
