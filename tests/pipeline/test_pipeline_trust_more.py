"""Measures of `robustprune trust` that are asked for by name, on small runs."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.cli import main
from robustprune.measure import backdoor_success, stamp
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.again import made_again, run_on
from robustprune.pipeline.networks import build_network
from robustprune.pipeline.prepare import planned_run
from robustprune.pipeline.trust_more import check_more, costs
from robustprune.pipeline.trust_page import Asked
from robustprune.run.checkpoint import load_tensors
from robustprune.run.config import load_config, parse_config
from robustprune.run.rundir import RunDir
from robustprune.tasks import task_names

SMALL: dict[str, Any] = {
    "name": "small",
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"name": "fcn", "options": {"widths": [4], "kernels": [5]}},
    "inner": {"steps": 1},
    "natural": {"epochs": 1},
    "adversarial": {"epochs": 2},
    "search": {"density": [0.5], "epochs": 1, "optimizer": {"lr": 0.5}},
    "finetune": {"modes": ["inherit"], "epochs": 1},
    "evaluation": {"steps": 1, "restarts": 1, "curve": False, "examples": 20},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = prepare(parse_config(SMALL), out=tmp_path_factory.mktemp("trust"), quiet=True)
    find_sparse_networks(run)
    return run.folder.path


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "seed0")
    return tmp_path / "seed0"


def trusted(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["trust", str(run), "--device", "cpu", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", ["natural", "adversarial", "rst", "rst-inherit"])
def test_the_same_examples_give_the_same_network_again(finished: Path, name: str) -> None:
    """Each network of the run, bit for bit, so that others are trained as it was."""
    run = planned_run(load_config(finished / "config.yaml"), out=finished, quiet=True)
    run = replace(run, folder=RunDir(finished))
    x, y = run.training.batch(slice(None))
    again = made_again(run_on(run, x, y, "the-same", made={}), name)
    stored = load_tensors(finished / "models" / name / "model.safetensors")[0]
    found = again.model.state_dict()
    assert set(found) == set(stored)
    assert all(torch.equal(found[key], value) for key, value in stored.items())
    shutil.rmtree(finished / "trust")


def test_unknown_names_and_other_examples_are_refused(copied: Path) -> None:
    run = planned_run(load_config(copied / "config.yaml"), out=copied, quiet=True)
    run = replace(run, folder=RunDir(copied))
    x, y = run.training.batch(slice(30))
    other = run_on(run, x, y, "few", made={})
    with pytest.raises(ValueError, match="hydra is none of the networks"):
        made_again(other, "hydra")
    with pytest.raises(ValueError, match="was made with other options; delete it"):
        run_on(run, x[:20], y[:20], "few", made={})
    shutil.rmtree(copied / "trust")
    (copied / "trust").symlink_to(copied.parent)
    with pytest.raises(ValueError, match="symbolic link"):
        run_on(run, x, y, "few", made={})


def test_lira_trains_shadows_on_complementary_halves_and_goes_on(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--with", "lira", "--shadows", "4", "--examples", "60")
    content = trusted(copied, capsys, *words)
    section = content["more"]["lira"]
    (row,) = section["changes"]
    assert row["name"] == "members found by LiRA, 4 shadows (AUROC)"
    assert row["n"] == 120
    assert "by chance about 1.6%" in section["text"]  # one of 61 places
    assert [one["network"] for one in section["figures"]] == [
        "adversarial dense", content["more"]["lira"]["figures"][1]["network"]
    ]  # fmt: skip
    assert section["figures"][0]["AUROC"] == f"{row['dense']:.1%}"
    shadows = sorted(path.name for path in (copied / "trust").iterdir() if path.is_dir())
    assert shadows == [f"shadow-{k}" for k in range(4)]
    made = copied / "trust" / "shadow-3" / "models" / "adversarial" / "model.safetensors"
    before = made.stat().st_mtime_ns
    shutil.rmtree(copied / "trust" / "shadow-0")  # as if it was stopped there
    again = trusted(copied, capsys, *words)
    assert made.stat().st_mtime_ns == before
    assert again["more"] == content["more"]
    for page in ("trust.html", "trust.md"):
        text = (copied / page).read_text()
        assert "Members found by shadow networks (LiRA)" in text
        assert "--with lira --shadows 4" in text


def test_the_backdoor_is_that_of_the_stored_networks(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = trusted(copied, capsys, "--with", "backdoor", "set-difference")
    section = content["more"]["backdoor"]
    config = load_config(copied / "config.yaml")
    run = planned_run(config, out=copied, quiet=True)
    x, y = run.task.test.batch(slice(None))
    value = float(run.training.x.max())
    models = []
    for name in (content["dense"], content["compressed"]):
        model = build_network(config.model, run.task)
        path = copied / "trust" / "backdoor" / "models" / name / "model.safetensors"
        model.load_state_dict(load_tensors(path)[0])
        models.append(model.eval())
    for place, model in enumerate(models):
        figures = section["figures"][2 + place]
        wanted = backdoor_success(model, x, y, target=0, value=value)
        assert figures["trigger obeyed"].startswith(f"{wanted.value:.1%} [")
        assert figures["n"] == str(wanted.n)
        assert figures["accuracy"] == f"{float((model(x).argmax(1) == y).float().mean()):.1%}"
    row = next(one for one in section["changes"] if one["name"].startswith("trigger"))
    asked = (y != 0) & (models[0](x).argmax(1) != 0) & (models[1](x).argmax(1) != 0)
    turned = models[0](stamp(x[asked], value=value)).argmax(1) == 0
    assert row["n"] == int(asked.sum())
    assert row["dense"] == pytest.approx(float(turned.float().mean()))
    assert set(content["more"]) == {"backdoor", "set-difference"}
    assert len(content["more"]["set-difference"]["changes"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--with", "leakage"], "leakage is no measure of classifiers; choose one of lira"),
        (["--with", "lira", "--shadows", "5"], "--shadows 5 must be an even number from 4"),
        (["--shadows", "6"], "--shadows has an effect only on --with lira"),
        (["--with", "set-difference", "--sets", "a", "b"], "two texts have an effect only on"),
        (["--with", "set-difference", "--examples", "2"], "needs two test examples of the first"),
    ],
)
def test_refusals_are_one_line(
    finished: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["trust", str(finished), *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_costs_are_said_first_and_another_process_is_kept_out(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = list(costs(RunDir(copied), Asked(more=("lira", "backdoor"), shadows=6), ("natural",)))
    assert re.match(r"lira: trains natural 6 more times \(about [\d.]+ s\); the same", lines[0])
    assert lines[1].startswith("backdoor: trains natural 1 more time (about ")
    words = ["trust", str(copied), "--device", "cpu", "--with", "backdoor", "--examples", "9"]
    code = (
        "import sys, pathlib; from robustprune.run.lock import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('inside', flush=True); sys.stdin.read()"
    )
    (copied / "trust").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copied / "trust")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"inside\n"
        assert main(words) == 2
        other.communicate(timeout=60)
    error = capsys.readouterr().err
    assert error.index("backdoor: trains adversarial and rst") < error.index("another process")


def test_what_a_config_may_ask_for() -> None:
    small = parse_config(SMALL)
    same = {**SMALL, "trust": {"more": [], "shadows": 8, "sets": None}}
    assert parse_config(same).digest() == small.digest()
    for trust, said in (
        ({"more": ["lira"]}, "more has no effect without examples"),
        ({"examples": 10, "shadows": 6}, "shadows has no effect without lira"),
        ({"examples": 10, "more": ["lira"], "shadows": 5}, "shadows"),
        ({"examples": 10, "more": ["fame"]}, "more"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_config({**SMALL, "trust": trust})
    wrong = parse_config({**SMALL, "trust": {"examples": 10, "more": ["leakage"]}})
    with pytest.raises(ValueError, match="leakage is no measure of classifiers"):
        planned_run(wrong, out=Path("nowhere"))
    assert "ecg200" in task_names()


def test_what_makes_no_sense_for_sentences_selections_and_language_models() -> None:
    config, selected = (
        parse_config(SMALL),
        parse_config({**SMALL, "selection": {"method": "random"}}),
    )
    for more, given, options, said in (
        ("lira", config, {"causal": False, "text": True}, "this run classifies sentences"),
        ("backdoor", selected, {"causal": False}, "this run selects examples"),
        ("lira", config, {"causal": True}, "lira is no measure of causal language models"),
        ("set-difference", config, {"causal": True}, "compares two texts; give --sets"),
    ):
        with pytest.raises(ValueError, match=said):
            check_more(Asked(more=(more,)), given, **options)
