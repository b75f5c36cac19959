"""Device, seeds and what must be known of the machine to repeat a run."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
import torch

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
