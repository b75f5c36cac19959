"""Two processes that work on one thing, as `torchrun` would start them, on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def launch(function: Callable[..., Any], arguments: tuple[Any, ...], log: Path, size: int) -> None:
    """Run `function(*arguments)` as `size` ranks; all have to end well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robustprune.pipeline", "torch._dynamo", "accelerate"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(function, arguments, rank, size, port, str(log)))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * size, Path(log).read_text()


def _rank(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    rank: int,
    size: int,
    port: int,
    log: str,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    import torch

    torch.set_num_threads(1)
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    function(*arguments)


def command(arguments: list[str]) -> None:
    """What `robustprune <arguments>` does."""
    from robustprune.cli import main

    sys.exit(main(arguments))
