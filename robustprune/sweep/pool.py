"""A local pool: so many runs at a time, each a process of its own."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from robustprune.sweep.jobs import Job, start

#: seconds between two looks at the running processes, and until a stopped one must be gone
_LOOK = 0.1
_GRACE = 20.0


def run_local(
    jobs: Sequence[Job],
    *,
    at_once: int,
    threads: int,
    devices: Sequence[str] = (),
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Job, int], None] = lambda job, status: None,
) -> dict[Job, int]:
    """Run every job, `at_once` at a time; one that fails does not stop the others.

    Args:
        threads: of each process.
        devices: given to the places of the pool in turn; none leaves the choice to the run.
        on_start, on_end: called as things happen; the latter with the exit status, negative for
            a signal.

    Returns:
        exit status of each.

    On KeyboardInterrupt, and on SIGTERM, which becomes one, all that run are stopped, then it is
    raised on: what they had done is kept, and the same sweep takes it up.

    Raises:
        ValueError: at_once or threads below 1.
    """
    if at_once < 1 or threads < 1:
        raise ValueError(f"jobs={at_once} and threads={threads} must be at least 1")
    waiting, ended = list(jobs), dict[Job, int]()
    places: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with _termination() as told_to_stop:
        try:
            while waiting or places:
                for place in range(at_once):
                    if place not in places and waiting:
                        job = waiting.pop(0)
                        on_start(job)
                        where = ("--device", devices[place % len(devices)]) if devices else ()
                        places[place] = (job, start(job, threads=threads, options=where))
                time.sleep(_LOOK)
                if told_to_stop():
                    raise KeyboardInterrupt
                for place, (job, process) in list(places.items()):
                    if process.poll() is not None:
                        del places[place]
                        ended[job] = process.returncode
                        on_end(job, process.returncode)
        finally:
            _stop([process for _, process in places.values()])
    return ended


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM only makes the returned function true: wherever it strikes, no process that
    has just been started is lost sight of, and stopping them is not itself cut short."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals come to that one alone
        yield told.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
