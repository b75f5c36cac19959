"""Make many runs from one description: a grid of configs, each with its own run directory."""

from robustprune.sweep.grid import Point, Sweep, load_sweep, points_of
from robustprune.sweep.jobs import Job, jobs_of
from robustprune.sweep.pool import run_local
from robustprune.sweep.slurm import submit
from robustprune.sweep.summary import RunStatus, status_of, statuses_of, write_summary

__all__ = [
    "Job",
    "Point",
    "RunStatus",
    "Sweep",
    "jobs_of",
    "load_sweep",
    "points_of",
    "run_local",
    "status_of",
    "statuses_of",
    "submit",
    "write_summary",
]
