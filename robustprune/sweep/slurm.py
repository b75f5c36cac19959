"""Submit the runs of a sweep as one SLURM array, through submitit."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustprune.sweep.jobs import Job, run_job


def submit(
    jobs: Sequence[Job],
    folder: Path,
    *,
    at_once: int,
    threads: int,
    settings: Mapping[str, Any],
    cluster: str = "slurm",
) -> list[str]:
    """Submit the jobs as one array and return their ids, without waiting for them.

    The log of a job is written while it runs, so that the folder always shows the state of the
    sweep. submitit passes the job to the node as a pickle in `folder`. So everybody who may write
    to that folder can run code under the account of the jobs.

    Args:
        at_once: the largest number of tasks of the array that run at the same time.
        threads: the number of CPUs of each task.
        settings: parameters of `submitit.AutoExecutor`, such as {"slurm_partition": "gpu",
            "timeout_min": 600}.
        cluster: "slurm"; "local" and "debug" are replacements by submitit for tests.

    Raises:
        ValueError: submitit is missing, or it does not know a setting.
        OSError: there is no SLURM on this machine.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError(
            'SLURM needs submitit; install it with: pip install "robustprune[slurm]"'
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
        array = {"slurm_array_parallelism": at_once} if cluster == "slurm" else {}
        executor.update_parameters(cpus_per_task=threads, **array, **settings)
    except (NameError, TypeError) as error:  # submitit raises these for a parameter that it refuses
        raise ValueError(f"submitit refuses the settings: {error}") from error
    except RuntimeError as error:
        raise OSError(f"cannot submit to {cluster}: {error}") from error
    for job in jobs:
        job.write_config()
    submitted = executor.map_array(functools.partial(run_job, threads=threads), list(jobs))
    return [str(job.job_id) for job in submitted]
