"""Device, seeds and what must be known of the machine to repeat a run."""

from __future__ import annotations

import platform
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import robustprune


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the accelerator if there is one and the CPU if not.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu' or "
            "'auto'"
        ) from error
    return device


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
    }
