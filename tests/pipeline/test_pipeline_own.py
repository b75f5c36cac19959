"""A whole run of the user's own network on the user's own arrays."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from robustprune.cli import main
from robustprune.pipeline.moved import with_data
from robustprune.pipeline.prepare import planned_run
from robustprune.pipeline.verify import verify_run
from robustprune.run.config import load_config, parse_config
from robustprune.run.naming import data_label, kind_of_data
from robustprune.run.packaged import config_path
from robustprune.run.rundir import RunDir
from robustprune.sparsity import maskable_layers
from robustprune.sweep import jobs_of
from robustprune.sweep.grid import Point

CODE = """
import torch
from torch import nn

def build(width=3, activation="relu"):
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    return nn.Sequential(nn.Conv1d(1, width, 5), act(), nn.Flatten(), nn.Linear(width * 20, 2))

SAME = build()
def same(): return SAME

def unseeded():
    model = build()
    generator = torch.Generator()
    generator.seed()
    with torch.no_grad():
        model[0].weight.copy_(torch.rand(3, 1, 5, generator=generator))
    return model

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)
    def forward(self, x):
        hidden, _ = self.gru(x.transpose(1, 2))
        return {"logits": self.out(hidden[:, -1]), "hidden": hidden}

def flat(): return nn.Linear(24, 2)
def one(): return nn.Sequential(nn.Flatten(), nn.Linear(24, 1))
"""
QUICK = (
    *("natural.epochs=1", "adversarial.epochs=1", "search.epochs=1", "finetune.modes=[]"),
    *("evaluation={steps: 2, restarts: 1, curve: false}", "task.batch_size=20"),
    *("certify.method=ibp", "certify.examples=3", "model.options.width=4"),
)


def arrays(path: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 1, 24)).astype("float32"), np.arange(60) % 2
    x[y == 1] += 0.5
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's module, the user's arrays and a finished run of both."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pipe_nets.py").write_text(CODE)
    arrays(folder / "mine.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(command("pipe_nets:build")) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder, as the current one."""
    shutil.copytree(made, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    sys.modules.pop("pipe_nets", None)
    yield tmp_path / "own"
    sys.modules.pop("pipe_nets", None)


def command(model: str, *more: str) -> list[str]:
    base = ["run", "rst_ecg200", "--data", "mine.npz", "--model", model, "--quiet"]
    return [*base, "--device", "cpu", "--set", *QUICK, *more]


def the_run(root: Path = Path("runs")) -> Path:
    (found,) = root.glob("*/seed0")
    return found


def test_the_run_is_named_after_its_data_and_says_where_it_is_from(here: Path) -> None:
    run = the_run()
    assert run.parent.name.startswith("mine-")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["task"]["n_test"] == 20
    assert metrics["models"][0]["total"] == 4 * 5 + 80 * 2  # weights that can be masked
    assert "mine.npz" in (run / "report.md").read_text()
    assert set(json.loads((run / "origin.json").read_text())) == {"network", "data"}


def test_a_run_on_a_file_that_lists_class_after_class(here: Path) -> None:
    """It measures and certifies examples of both classes, and says where they are in the file."""
    with np.load("mine.npz") as arrays:
        parts = dict(arrays)
    for part in ("train", "test"):
        order = parts[f"y_{part}"].argsort(kind="stable")
        parts |= {f"{axis}_{part}": parts[f"{axis}_{part}"][order] for axis in "xy"}
    np.savez("listed.npz", **parts)
    again = command("pipe_nets:build", "evaluation.examples=6", "--out", "listed")
    again[again.index("--data") + 1] = "listed.npz"
    again[again.index("--set") : again.index("--set")] = again[-2:]
    assert main(again[:-2]) == 0
    run = the_run(Path("listed"))
    with open(run / "per_example.csv", encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["model"] == "natural"]
    assert [int(line["label"]) for line in lines] == [0, 1, 0, 1, 0, 1]
    assert [int(line["place"]) for line in lines] == [0, 10, 1, 11, 2, 12]
    certified = [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]
    assert {one["label"] for one in certified if "label" in one} == {0, 1}
    assert all(found.ok for found in verify_run(run, network="pipe_nets:build"))
    assert "the classes are dealt out in turn" in (run / "report.md").read_text()


def test_the_same_command_goes_on_and_another_network_or_file_does_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (the_run() / "metrics.json").read_bytes()
    Path("pipe_nets.py").write_text(f"# a comment\n{CODE}")  # the same code
    assert main(command("pipe_nets:build")) == 0
    assert (the_run() / "metrics.json").read_bytes() == before
    Path("pipe_nets.py").write_text(CODE.replace("nn.ReLU,", "nn.ELU,"))
    sys.modules.pop("pipe_nets")
    assert main(command("pipe_nets:build")) == 2
    assert "began, its network changed under the same name" in capsys.readouterr().err
    Path("pipe_nets.py").write_text(CODE)
    arrays(Path("mine.npz"), seed=1)
    assert main(command("pipe_nets:build")) == 2
    assert "began, its data changed under the same name" in capsys.readouterr().err


def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real, saved = the_run(), RunDir.save_model, []
    again = command("pipe_nets:build", "--out", "again")
    again[again.index("--set") : again.index("--set")] = again[-2:]
    del again[-2:]

    def dying(self: RunDir, name: str, *arguments: Any) -> None:
        real(self, name, *arguments)
        saved.append(name)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "save_model", dying)
    assert main(again) == 130
    assert main(again) == 0
    other = the_run(Path("again"))
    for name in ("metrics.json", "model.safetensors", "masks.safetensors", "config.yaml"):
        assert (other / name).read_bytes() == (whole / name).read_bytes(), name


def test_code_is_imported_only_if_the_command_line_names_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pipe_nets.py").write_text("open('ran', 'w')\n" + CODE)
    config = the_run() / "config.yaml"
    assert main(["run", str(config), "--quiet", "--out", "other"]) == 2
    assert "whose module would be imported" in capsys.readouterr().err
    assert main(["run", str(config), "--dry-run", "--quiet"]) == 2
    capsys.readouterr()
    assert main(["verify", str(the_run()), "--quiet"]) == 2
    assert "name it yourself: --model" in capsys.readouterr().err
    sweep = {"name": "s", "config": str(config.resolve()), "grid": {"seed": [0, 1]}}
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert main(["sweep", "sweep.yaml", "--status", "--quiet"]) == 2
    assert "whose module would be imported" in capsys.readouterr().err
    # another module whose name ends in the same letters is not this one
    assert main(["run", str(config), "--quiet", "--set", "model.options.x=my.pipe_nets:build"]) == 2
    assert not Path("ran").exists()
    named = ["--model", "pipe_nets:build"]
    assert main(["sweep", "sweep.yaml", "--status", "--quiet", *named]) == 0


def test_a_sweep_names_the_function_to_its_runs() -> None:
    config = parse_config({"model": {"name": "nets:build"}})
    (job,) = jobs_of([Point({}, config)], Path("s"), out=Path("runs"))
    at = job.command.index("--model")
    assert job.command[at + 1] == "nets:build"


def test_certificates_of_the_run_are_verified(here: Path) -> None:
    run = the_run()
    assert main(["verify", str(run.parent), "--model", "pipe_nets:build", "--quiet"]) == 0
    assert main(["verify", str(run), "--model", "pipe_nets:same", "--quiet"]) == 2
    Path("pipe_nets.py").write_text(CODE.replace("def flat", "def flat2"))
    sys.modules.pop("pipe_nets")
    bad = [f for f in verify_run(run, network="pipe_nets:build") if not f.ok]
    assert [finding.name for finding in bad] == ["origin, network"]
    Path("mine.npz").unlink()
    assert main(["verify", str(run), "--model", "pipe_nets:build", "--quiet"]) == 2


def test_a_run_whose_data_were_moved_is_told_where_they_are(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, named = str(the_run()), ["--model", "pipe_nets:build", "--quiet"]
    Path("elsewhere").mkdir()
    Path("mine.npz").rename("elsewhere/yours.npz")
    arrays(Path("other.npz"), seed=1)
    trust = ["trust", run, "--against", "natural", "--examples", "20", *named]
    for asked in (["verify", run, *named], trust):
        assert main(asked) == 2
        assert "mine.npz are not there" in (said := capsys.readouterr().err)
        assert "--data PATH" in said
        assert main([*asked, "--data", "nowhere.npz"]) == 2
        assert "there is no file or folder nowhere.npz" in capsys.readouterr().err
        assert main([*asked, "--data", "elsewhere/yours.npz"]) == 0
    assert main(["verify", run, *named, "--data", "other.npz"]) == 1
    capsys.readouterr()
    assert main([*trust, "--data", "other.npz"]) == 2
    assert "other.npz does not hold the data of this run" in capsys.readouterr().err


def test_a_packaged_data_set_is_not_moved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this one read ecg200; leave it out"):
        with_data(load_config(config_path("rst_ecg200")), tmp_path)


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("pipe_nets:unseeded", ["model.options={}"], "gives other weights at each call"),
        ("pipe_nets:flat", ["model.options={}"], "returned shape (3, 1, 2) for 3 examples"),
        ("pipe_nets:one", ["model.options={}"], "returned shape (3, 1) for 3 examples"),
        ("pipe_nets:build", ["model.options.widht=4"], "no argument 'widht' (did you mean"),
        ("pipe_nets:build", ["model.options.activation=gelu"], "failed: KeyError: 'gelu'"),
    ],
)
def test_a_network_that_cannot_be_used_stops_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], model: str, more: Sequence[str], message: str
) -> None:
    shutil.rmtree("runs")
    assert main(command(model, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_function_may_return_one_network_again_and_again(here: Path) -> None:
    task, model = {"name": "npz", "path": "mine.npz"}, {"name": "pipe_nets:same"}
    config = parse_config({"task": task, "model": model})
    run = planned_run(config, out=Path("r"), network="pipe_nets:same")
    first, second = run.fresh_model(), run.fresh_model()
    with torch.no_grad():
        next(first.parameters()).add_(1)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_a_recurrent_network_is_prepared_with_each_of_its_matrices(here: Path) -> None:
    tree = {
        "task": {"name": "npz", "path": "mine.npz"},
        "model": {"name": "pipe_nets:Recurrent"},
        "search": {"methods": ["hydra"], "pattern": "row"},
    }
    run = planned_run(parse_config(tree), out=Path("r"), network="pipe_nets:Recurrent")
    assert set(maskable_layers(run.fresh_model())) == {
        "gru.weight_ih_l0", "gru.weight_hh_l0", "out.weight",
    }  # fmt: skip


@pytest.mark.slow
def test_whole_runs_of_a_recurrent_network_and_of_a_table_are_compared(here: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 24))
    rows = [",".join([*map(str, row), "ab"[int(row.sum() > 0)]]) for row in x]
    Path("table.csv").write_text("\n".join(rows))
    recurrent = command("pipe_nets:Recurrent", "model.options={}", "certify.method=none")
    table = [*recurrent, "task.label=last", "task.test=0.25"]
    table[table.index("--data") + 1] = "table.csv"
    assert main(recurrent) == 0
    assert main(table) == 0
    assert len(list(Path("runs").glob("*/seed0/report.html"))) == 3
    assert main(["compare", "runs", "--out", "compared", "--quiet"]) == 0
    said = Path("compared/compare.csv").read_text()
    assert {"mine", "table"} <= {line.split(",")[0].strip('"') for line in said.splitlines()}


@pytest.mark.parametrize(
    ("overrides", "name", "options"),
    [
        (["task.name=sony_aibo_1"], "sony_aibo_1", True),
        (["task.name=ucr:Coffee"], "Coffee", True),
        (["task={name: npz, path: a/My data.npz}"], "My-data", True),
        (["task.name=ucr:Coffee", "name=mine"], "mine", True),
        (["seed=3", "task.batch_size=7"], "rst_ecg200", True),
        (["model.name=lenet"], "rst_ecg200", False),
        (["model.name=fcn"], "rst_ecg200", True),
    ],
)
def test_runs_are_named_after_their_task(overrides: list[str], name: str, options: bool) -> None:
    config = load_config(config_path("rst_ecg200"), overrides)
    assert config.name == name
    assert bool(config.model.options) is options


def test_data_are_named_after_their_path(tmp_path: Path) -> None:
    assert data_label(tmp_path / "Coffee_TRAIN.ts") == "Coffee"
    (tmp_path / "cats.and.dogs").mkdir()
    assert data_label(tmp_path / "cats.and.dogs") == "cats.and.dogs"
    assert data_label(tmp_path / "...npz") == "data"
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        kind_of_data(tmp_path / "nothing.npz")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"suffix \.txt; give a file with \.npz, \.csv"):
        kind_of_data(tmp_path / "a.txt")
