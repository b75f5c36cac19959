"""How long it takes to say how a sweep stands: `robustprune sweep --status` of many runs.

    python -m benchmarks.sweep_status --runs 10000

Invents the folder of a sweep over RST, magnitude, HYDRA, HARP and ADMM: half of its runs finished,
a quarter failed, a quarter waiting. Then asks twice, the second time with the summary of the first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robustprune.sweep import jobs_of, load_sweep, points_of

_DENSITIES = 20


def invent(folder: Path, runs: int) -> Path:
    """Write a sweep's file and what its runs have left; returns the file."""
    file, out = folder / "sweep.yaml", folder / "runs"
    densities = [round(0.01 * (k + 1), 2) for k in range(_DENSITIES)]
    methods = ["rst", "magnitude", "hydra", "harp", "admm"]
    seeds = list(range(max(1, runs // (_DENSITIES * len(methods)))))
    grid = {"method": methods, "density": densities, "seed": seeds}
    file.write_text(json.dumps({"name": "many", "config": "rst_ecg200", "grid": grid}))
    share = {"value": 0.7, "n": 100, "ci95": [0.6, 0.8]}
    model = {"name": "x", "density": 0.1, "clean": share, "robust": {"worst": share}}
    layers = [{"name": f"layer{k}.weight", "kept": 1, "total": 2} for k in range(200)]
    models = [{**model, "layers": layers}, *({**model, "name": f"y{k}"} for k in range(9))]
    metrics = json.dumps({"headline": "x", "models": models, "findings": []})
    (out / "sweeps" / "many").mkdir(parents=True)
    for number, job in enumerate(
        jobs_of(points_of(load_sweep(file)), out / "sweeps" / "many", out=out)
    ):
        if number % 4 == 3:
            continue
        job.run.mkdir(parents=True)
        job.log.write_text("error: it failed\n" if number % 4 == 2 else "")
        if number % 4 < 2:
            (job.run / "metrics.json").write_text(metrics)
            (job.run / "report.html").write_text("")
    return file


def children() -> float:
    """Seconds of a CPU that all ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = invent(Path(folder), options.runs)
        command = [sys.executable, "-m", "robustprune", "sweep", str(file), "--status"]
        command += ["--out", str(Path(folder) / "runs")]
        for time_of in ("first", "second"):
            start, busy = time.perf_counter(), children()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds, busy = time.perf_counter() - start, children() - busy
            last = done.stdout.splitlines()[-1]
            print(f"{time_of} time: {seconds:.1f} s ({busy:.1f} s of a CPU); {last}")


if __name__ == "__main__":
    main()
