"""A process to kill: it runs one of the scripts, and may end itself at a chosen write."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

#: differ from run to run: times, and what is chosen by them
TIMED = {"cost.json", "env.json", "lock", "log.jsonl", "report.html", "report.md"}
TIMED |= {"slim.safetensors"}


def run(
    arguments: Sequence[str],
    die_at: int = 0,
    log: str = os.devnull,
    by: signal.Signals = signal.SIGKILL,
) -> None:
    """What `robustprune <arguments>` does, in a process of its own.

    Args:
        die_at: kill at this operation (from 1) on a file of the run, just before it if odd, just
            after if even; what others do meanwhile (coverage, say) does not count.
        log: file for stderr.
        by: the signal with which it is killed.
    """
    import torch

    from robustprune.cli import main

    torch.set_num_threads(1)
    # A shell's background jobs ignore it, and so would this process, as their descendant.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)  # a signal handler writes there
    left, own = [die_at], arguments[arguments.index("--out") + 1]

    def dying(name: str) -> None:
        real = getattr(os, name)

        def operation(*arguments: object, **options: object) -> object:
            if name != "fsync" and own not in str(arguments[0]):
                return real(*arguments, **options)
            left[0] -= 1
            if left[0] == 0 and die_at % 2:
                os.kill(os.getpid(), by)
            result = real(*arguments, **options)
            if left[0] == 0:
                os.kill(os.getpid(), by)
            return result

        setattr(os, name, operation)

    if die_at:
        for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
            dying(name)
    sys.exit(main(arguments))


def kept(out: Path) -> dict[str, bytes]:
    """The files of a run that must not differ; the seconds in histories are taken out."""
    (folder,) = out.glob("*/seed*")
    assert not list(folder.rglob(".*")), "something temporary is left"
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in TIMED:
            content = path.read_bytes()
            if path.name == "history.jsonl":
                lines = [json.loads(line) for line in content.splitlines()]
                content = json.dumps([{**line, "seconds": 0} for line in lines]).encode()
            files[str(path.relative_to(folder))] = content
    return files
