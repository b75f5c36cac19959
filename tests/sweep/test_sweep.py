"""A grid of runs: what it expands to, and that one bad run does not spoil the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from robustprune.cli import main
from robustprune.run.config import parse_config
from robustprune.run.packaged import config_path
from robustprune.sweep import (
    Job,
    Point,
    jobs_of,
    load_sweep,
    points_of,
    run_local,
    status_of,
    statuses_of,
    submit,
)

QUICK = [
    "model.options={widths: [4], kernels: [3]}",
    "natural.epochs=1",
    "adversarial.epochs=1",
    "search.epochs=1",
    "finetune.modes=[]",
    "inner.steps=1",
    "evaluation={steps: 2, restarts: 1, curve: false}",
    "certify.method=none",
]
GRID = {"method": ["rst", "magnitude"], "density": [0.1, 0.5], "seed": [0, 1]}


def sweep_file(folder: Path, **changes: object) -> Path:
    tree = {"name": "small", "config": "rst_ecg200", "set": QUICK, "grid": GRID} | changes
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_grid_is_the_whole_product_in_order(tmp_path: Path) -> None:
    points = points_of(load_sweep(sweep_file(tmp_path)))
    found = [(p.config.search.methods, p.config.search.density, p.config.seed) for p in points]
    assert found == [
        ((method,), (density,), seed)
        for method in ("rst", "magnitude")
        for density in (0.1, 0.5)
        for seed in (0, 1)
    ]
    assert points[0].label == "method=rst, density=0.1, seed=0"
    assert all(p.config.finetune.modes == () for p in points)
    folders = {p.config.folder(Path("runs")) for p in points}
    assert len(folders) == 8
    assert len({folder.parent for folder in folders}) == 4  # seeds lie together


def test_any_field_and_the_short_names(tmp_path: Path) -> None:
    grid = {"attack": ["pgd", "fgsm_rs"], "threat.eps": [0.05, "8/255"], "objective": ["mart"]}
    points = points_of(load_sweep(sweep_file(tmp_path, grid=grid)))
    found = [(p.config.inner.attack, p.config.threat.eps, p.config.objective.name) for p in points]
    assert found == [
        (attack, eps, "mart") for attack in ("pgd", "fgsm_rs") for eps in (0.05, 8 / 255)
    ]


def test_a_config_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(config_path("rst_sony").read_text())
    points = points_of(load_sweep(sweep_file(tmp_path, config="mine.yaml", set=[])))
    assert points[0].config.task.name == "sony_aibo_1"


@pytest.mark.parametrize("path", sorted(config_path("rst_ecg200").parent.glob("sweeps/*.yaml")))
def test_packaged_sweeps_are_valid(path: Path) -> None:
    assert points_of(load_sweep(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {}}, "grid: Dictionary should have at least 1 item"),
        ({"grid": {"density": []}}, "grid.density has no values"),
        ({"grid": {"seed": [0, 1, 0]}}, "grid.seed has a value twice"),
        ({"grid": {"density": [0.1, [0.1]]}}, "density=0.1 and density=[0.1] are the same run"),
        (
            {"grid": {"density": [0.1, 0.2], "search.density": [[0.5]]}},
            "density=0.1, search.density=[0.5] and density=0.2, search.density=[0.5] are the same",
        ),
        ({"grid": {"seeds": [0]}}, "unknown key 'seeds' (did you mean 'seed'?)"),
        ({"grid": {"density": [0.1, 2]}}, "search.density.0=2 is not valid"),
        ({"config": "nowhere"}, "does not exist"),
        ({"grids": {}}, "a sweep has name, config, set, grid"),
        ({"name": "../up"}, "name: String should match pattern"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    path = sweep_file(tmp_path, **changes)
    assert main(["sweep", str(path), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_failures_are_listed_finished_runs_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    path = sweep_file(tmp_path, grid={"method": ["magnitude", "admm_l1"], "seed": [0]})
    command = ["sweep", str(path), "--out", str(out), "--json"]
    assert main([*command, "--status"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["waiting"] == 2
    assert main([*command, "--jobs", "2"]) == 1  # admm_l1 lacks its weight
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"finished": 1, "failed": 1, "begun": 0, "waiting": 0}
    good, bad = told["runs"]
    assert bad["reason"].startswith("method admm_l1 needs admm.l1")
    assert 0 <= good["figures"]["worst"] <= good["figures"]["clean"] <= 1
    written = json.loads((out / "sweeps" / "small" / "summary.json").read_text())
    assert written["runs"] == told["runs"]
    report = Path(good["run"]) / "report.html"
    before = report.stat().st_mtime_ns
    assert main(command) == 1
    assert report.stat().st_mtime_ns == before
    capsys.readouterr()
    assert main(["sweep", str(path), "--out", str(out), "--status"]) == 1
    shown = capsys.readouterr().out
    assert "failed    method=admm_l1, seed=0  method admm_l1 needs admm.l1" in shown
    assert "finished  method=magnitude, seed=0  clean" in shown


class Script(Job):
    """A job that runs Python code in place of a config."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.options[0]]


def scripts(folder: Path, *codes: str) -> list[Script]:
    folder.mkdir(exist_ok=True)
    point = Point({}, parse_config({}))
    return [
        Script(point, folder / f"{i}", folder / f"{i}.yaml", folder / f"{i}.log", (code,))
        for i, code in enumerate(codes)
    ]


def test_the_pool_runs_all_and_tells_how_each_ended(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    codes = ["import os; print(os.environ['OMP_NUM_THREADS'])", "raise SystemExit(3)", kill]
    jobs, order = scripts(tmp_path, *codes), []
    ended = run_local(jobs, at_once=2, threads=3, on_start=order.append)
    assert [ended[job] for job in jobs] == [0, 3, -signal.SIGKILL]
    assert order == jobs
    assert jobs[0].log.read_text().strip() == "3"
    with pytest.raises(ValueError, match="at least 1"):
        run_local(jobs, at_once=0, threads=1)


def test_a_killed_run_is_named_as_such(tmp_path: Path) -> None:
    (job,) = scripts(tmp_path, "pass")
    job.log.write_text("half a line")
    assert status_of(job).status == "begun"
    assert status_of(job, -9).reason == "stopped by SIGKILL; out of memory?"
    assert status_of(job, -40).reason == "stopped by signal 40"
    assert status_of(job, 7).reason == "exit status 7"
    job.log.write_text("Traceback (most recent call last):\n  ...\nTypeError: no\n")
    assert status_of(job).reason == "TypeError: no"


def finished(job: Job, *, constant: bool) -> Path:
    """A run directory with what the state of a sweep is read from."""
    job.run.mkdir(parents=True)
    share = {"value": 0.64, "n": 100, "ci95": [0.5, 0.7]}
    model = {"name": "rst", "density": 0.1, "clean": share, "robust": {"worst": share}}
    found = [{"name": "rst: a constant answer", "ok": False}] if constant else []
    metrics = {"headline": "rst", "models": [model], "findings": found}
    (job.run / "metrics.json").write_text(json.dumps(metrics))
    (job.run / "report.html").write_text("")
    return job.run


def test_the_state_is_read_once_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = sweep_file(tmp_path, grid={"seed": list(range(6))}), tmp_path / "runs"
    folder = out / "sweeps" / "small"
    jobs = jobs_of(points_of(load_sweep(path)), folder, out=out)
    for job in jobs[:3]:
        finished(job, constant=job is jobs[1])
    jobs[3].run.mkdir()
    jobs[4].log.parent.mkdir(parents=True)
    jobs[4].log.write_text("error: no\x1b[2K room\n")
    command = ["sweep", str(path), "--out", str(out), "--status"]
    assert main(command) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "finished  seed=0  clean 64.0%, worst case 64.0%"
    assert shown[1].endswith("worst case 64.0% (one class for everything)")
    assert [line.split()[0] for line in shown[:5]] == ["finished"] * 3 + ["begun", "failed"]
    assert r"no\x1b[2K room" in shown[4]
    assert shown[6].startswith("waiting")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["counts"] == {"finished": 3, "failed": 1, "begun": 1, "waiting": 1}

    read: list[Path] = []
    text = Path.read_text

    def watched(path: Path, **options: str) -> str:
        read.append(path)
        return text(path, **options)

    monkeypatch.setattr(Path, "read_text", watched)
    os.utime(jobs[2].run / "report.html", ns=(0, 1))  # written anew since
    before = [asdict(run) for run in statuses_of(jobs, tmp_path / "none")]
    read.clear()
    again = [asdict(run) for run in statuses_of(jobs, folder / "summary.json")]
    assert again == before
    assert [p for p in read if p.name == "metrics.json"] == [jobs[2].run / "metrics.json"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"headline": "x", "models": []}', "null"])
def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path, damage: str) -> None:
    jobs = jobs_of(points_of(load_sweep(sweep_file(tmp_path))), tmp_path / "s", out=tmp_path)[:2]
    for job in jobs:
        finished(job, constant=False)
    (jobs[0].run / "metrics.json").write_text(damage)
    bad, good = statuses_of(jobs, tmp_path / "none")
    assert (bad.status, good.status) == ("failed", "finished")
    assert "metrics.json is not as a finished run leaves it" in str(bad.reason)


def test_devices_go_round(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    jobs = scripts(tmp_path, code, code)
    run_local(jobs, at_once=1, threads=1, devices=["cuda:0", "cuda:1"])
    assert {job.log.read_text().strip() for job in jobs} == {"['--device', 'cuda:0']"}


def test_an_interrupt_stops_what_runs(tmp_path: Path) -> None:
    jobs = scripts(tmp_path, "import time; print('up', flush=True); time.sleep(600)")
    seen: list[int] = []

    def interrupted(job: Job) -> None:
        seen.append(1)
        if len(seen) == 2:
            deadline = time.monotonic() + 60
            while "up" not in jobs[0].log.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local([*jobs, *jobs], at_once=2, threads=1, on_start=interrupted)
    assert "print('up', flush=True); time.sleep(600)" not in listed()


def test_sigterm_leaves_no_process_and_a_sweep_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    path = sweep_file(tmp_path, grid={"method": ["rst"], "seed": [0, 1, 2]})
    command = [sys.executable, "-m", "robustprune", "sweep", str(path), "--out", str(out)]
    command += ["--jobs", "2", "--threads", "1", "--json"]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while sweep.poll() is None and not list(out.glob("*/seed*/log.jsonl")):
        time.sleep(0.01)
    assert str(out) in listed()
    sweep.send_signal(signal.SIGTERM)
    _, said = sweep.communicate()
    assert sweep.returncode == 130
    assert said == "interrupted; the same command goes on where it stopped\n"
    assert str(out) not in listed()
    summary = json.loads((out / "sweeps" / "small" / "summary.json").read_text())
    assert summary["counts"]["failed"] == 0
    assert summary["counts"]["begun"] >= 1

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["finished"] == 3


def listed() -> str:
    """The command lines of all processes."""
    return subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout


def test_a_jobs_config_is_the_runs_own(tmp_path: Path) -> None:
    points = points_of(load_sweep(sweep_file(tmp_path)))[:2]
    first, _ = jobs_of(points, tmp_path / "s", out=tmp_path / "runs", options=("--quiet",))
    assert first.command[3:] == [
        "run",
        str(tmp_path / "s" / "000.yaml"),
        *("--out", str(tmp_path / "runs"), "--quiet"),
    ]
    assert not first.config.exists()  # asking how a sweep stands writes no configs
    first.write_config()
    tree = yaml.safe_load(first.config.read_text())
    assert parse_config(tree) == points[0].config
    assert not first.finished


# submitit drops the processes that it has started, on which Popen comments
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_submitit_runs_the_same_commands(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    point = Point({}, parse_config({"search": {"methods": ["admm_l1"]}}))
    (job,) = jobs_of([point], tmp_path, out=tmp_path / "runs")
    with pytest.raises(ValueError, match="submitit refuses the settings"):
        submit([job], tmp_path, at_once=1, threads=1, settings={"nonsense": 1}, cluster="local")
    settings = {"timeout_min": 5}
    ids = submit([job], tmp_path, at_once=1, threads=2, settings=settings, cluster="local")
    assert len(ids) == 1
    deadline = time.monotonic() + 120
    while status_of(job).status != "failed" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status_of(job).reason.startswith("method admm_l1 needs admm.l1")


def test_a_named_pipe_is_waited_for_nowhere(tmp_path: Path) -> None:
    pipe = tmp_path / "sweep.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="is a named pipe, not a file"):
        load_sweep(pipe)
