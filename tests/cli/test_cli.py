"""The command line: what a user's mistakes look like."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustprune import cli
from robustprune.cli import FIND_RST, Script, main, run_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "find_rst.py"
QUICK = [
    "model.options={widths: [4], kernels: [3]}",
    "natural.epochs=1",
    "adversarial.epochs=1",
    "search.epochs=1",
    "finetune.modes=[]",
    "inner.steps=1",
    "evaluation.steps=2",
    "evaluation.restarts=1",
    "evaluation.minimal=0",
]


def fails(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> str:
    """Run the command, expect exit status 2 and one line; return it."""
    assert run_script(FIND_RST, [*arguments, "--out", str(out), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "rst_ecg20"], "rst_ecg20 does not exist (did you mean 'rst_ecg200'?)"),
        (
            ["--density", "0"],
            "--density '0': a density is the share of weights that is kept",
        ),
        (["--density", "0.5", "50"], "did you mean 0.5?"),
        (["--density", "20%"], "did you mean 0.2?"),
        (["--density", "half"], "--density 'half'"),
        (["--set", "search.density=[0.5, 1.5]"], "override: search.density.1=1.5 is not valid"),
        (["--seed", "-1"], "--seed '-1' must be a whole number from 0"),
        (["--set", "treat.eps=0.1"], "override: unknown key 'treat' (did you mean 'threat'?)"),
        (["--set", "threat.norm=linff"], "(did you mean 'linf'?)"),
        (["--device", "gpu"], "did you mean 'cuda'?"),
        (["--set", "search.epoch=3"], "did you mean 'epochs'?"),
        (["--set", "model.name=fnc"], "did you mean 'fcn'?"),
        (["--set", "model.options.width=[4]"], "did you mean 'widths'?"),
        (["--set", "task.name=ecg20"], "did you mean 'ecg200'?"),
        (["--set", "search.dense=[first, last]", *QUICK[:1]], "nothing to mask"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["--set", "task.name=ucr:Beef", "--data-dir", "/nonexistent"], "/nonexistent"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, tmp_path / "runs", *arguments)
    assert not (tmp_path / "runs").exists()


def npz(path: Path, **changes: np.ndarray) -> str:
    generator = np.random.default_rng(0)
    arrays = {
        "x_train": generator.normal(size=(12, 1, 8)).astype(np.float32),
        "y_train": np.arange(12) % 2,
        "x_test": generator.normal(size=(4, 1, 8)).astype(np.float32),
        "y_test": np.arange(4) % 2,
    } | changes
    np.savez(path, **arrays)
    return f"task={{name: npz, path: {path}, batch_size: 4}}"


def test_bad_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spoilt = np.zeros((4, 1, 8), np.float32)
    spoilt[2, 0, 3] = np.nan
    task = npz(tmp_path / "nan.npz", x_test=spoilt)
    assert "non-finite" in fails(capsys, tmp_path / "runs", "--set", task)
    task = npz(tmp_path / "label.npz", y_test=np.array([0, 1, 5, 0]))
    assert "5" in fails(capsys, tmp_path / "runs", "--set", task)
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_explodes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    task = npz(tmp_path / "huge.npz", x_train=np.full((12, 1, 8), 3e38, np.float32))
    error = fails(capsys, tmp_path / "runs", "--set", task, *QUICK)
    assert "non-finite" in error
    assert not list(tmp_path.rglob("metrics.json"))


def test_an_unwritable_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    assert "cannot write the run to" in fails(capsys, tmp_path / "runs", "--set", *QUICK)


def test_the_script_runs_and_shows_its_table(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--density", "0.1", "0.5"]
    done = subprocess.run(
        [*command, "--set", *QUICK], env=environment, capture_output=True, text=True, check=True
    )
    # layer by layer in whole weights, 10% of 20 are 3
    names = ("natural dense", "adversarial dense", "RST, 0.1 asked, 0.15 kept", "RST, 0.5 kept")
    for text in (*names, "report:"):
        assert text in done.stdout
    again = subprocess.run(
        [*command, "--quiet", "--set", *QUICK], env=environment, capture_output=True, text=True
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_script(FIND_RST, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--density 0.05 0.1 0.2 0.5" in shown
    assert "rst_mnist" in shown


SCRIPTS = [value for value in vars(cli).values() if isinstance(value, Script)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_there_and_teaches(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (SCRIPT.parent / script.name).exists()
    with pytest.raises(SystemExit) as stopped:
        run_script(script, ["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for options, what in script.examples:
        assert f"{script.name} {options}".strip() in shown
        assert what in shown
    assert script.config in shown


def test_methods_and_objectives_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = fails(capsys, tmp_path / "runs", "--method", "hydro")
    assert "--method 'hydro' is not one of rst, admm" in error
    assert "(did you mean 'hydra'?)" in error
    error = fails(capsys, tmp_path / "runs", "--objective", "ipb")
    assert "--objective 'ipb' is not one of adversarial" in error
    assert "(did you mean 'ibp'?)" in error
    assert not (tmp_path / "runs").exists()


def test_run_and_report_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "rst_ecg200", "--out", str(tmp_path), "--quiet", "--set", *QUICK]
    assert main(command) == 0
    (report,) = tmp_path.rglob("report.html")
    before = report.read_text()
    report.unlink()
    assert main(["report", str(report.parent)]) == 0
    assert report.read_text() == before
    assert "report.html" in capsys.readouterr().out
    for parent in (tmp_path, report.parent.parent):
        assert main(["report", str(parent)]) == 2
        error = capsys.readouterr().err
        assert f"is no run directory, but holds 1: {report.parent}; give one of them" in error
    (report.parent / "metrics.json").unlink()
    for wrong, message in (
        (report.parent, "isn't finished (it has no metrics.json)"),
        (report, "is a file; give a run directory"),
        (report.parent / "models", "is no run directory (no metrics.json), and holds none"),
        (tmp_path / "nowhere", "there is no run directory"),
    ):
        assert main(["report", str(wrong)]) == 2
        assert message in capsys.readouterr().err


def test_verify_answers_by_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*QUICK, "certify={method: crown-ibp, examples: 3}"]
    command = ["run", "rst_ecg200", "--out", str(tmp_path), "--quiet", "--set", *quick]
    assert main(command) == 0
    (file,) = tmp_path.rglob("certificates.jsonl")
    capsys.readouterr()
    assert main(["verify", str(file.parent), "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "labels" in shown
    assert "weights" in shown
    lines = file.read_text().splitlines(keepends=True)
    label = '"label": 1' if '"label": 1' in lines[1] else '"label": 0'
    other = '"label": 0' if label.endswith("1") else '"label": 1'
    file.write_text("".join([lines[0], lines[1].replace(label, other), *lines[2:]]))
    assert main(["verify", str(file.parent), "--seed", "1"]) == 1
    assert "the data say another label" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "there is no run directory" in capsys.readouterr().err
