"""A local pool that runs several jobs at a time, each in its own process."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from robustprune.sweep.jobs import Job, start

#: seconds between two checks of the processes, and until a stopped process is killed
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
    """Run every job, `at_once` at a time. A job that fails does not stop the others.

    Args:
        threads: the number of threads of each process.
        devices: devices that the places of the pool get in turn, such as ("cuda:0", "cuda:1"); ()
            lets each run choose.
        on_start, on_end: functions that are called when a job starts and ends; the second also gets
            the exit status, which is negative for a signal.

    Returns:
        The exit status of each job.

    On KeyboardInterrupt and on SIGTERM all running jobs are stopped, and then KeyboardInterrupt is
    raised. Their results so far are kept, and the same sweep continues from them.

    Raises:
        ValueError: `at_once` or `threads` is below 1.
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
    """Inside this context, SIGTERM only makes the returned function true. So it can't come between
    the start of a process and its entry in the list, and it can't interrupt the stopping."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
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
