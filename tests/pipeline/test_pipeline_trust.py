"""What `robustprune trust` writes about a small run, as a stage and as a command."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.cli import main
from robustprune.measure import calibration, mcnemar
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.networks import build_network
from robustprune.pipeline.prepare import task_of
from robustprune.pipeline.trust import groups_of
from robustprune.pipeline.trust_page import Asked
from robustprune.pipeline.trust_protocol import said_members
from robustprune.run.checkpoint import load_tensors
from robustprune.run.config import load_config, parse_config
from robustprune.tasks import load_task

SMALL: dict[str, Any] = {
    "name": "small",
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"name": "fcn", "options": {"widths": [4, 6], "kernels": [5, 3]}},
    "inner": {"steps": 2},
    "natural": {"epochs": 2},
    "adversarial": {"epochs": 2},
    "search": {"density": [0.5], "epochs": 2, "optimizer": {"lr": 0.5}},
    "finetune": {"modes": []},
    "evaluation": {"steps": 3, "restarts": 1, "curve": False},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the stage `trust`."""
    config = parse_config({**SMALL, "trust": {"examples": 60}})
    run = prepare(config, out=tmp_path_factory.mktemp("trust"), quiet=True)
    find_sparse_networks(run)
    return run.folder.path


def test_an_unset_stage_changes_no_digest() -> None:
    small = parse_config(SMALL)
    assert small.trust.examples is None
    assert parse_config({**SMALL, "trust": {"examples": None}}).digest() == small.digest()
    assert parse_config({**SMALL, "trust": {"examples": 5}}).digest() != small.digest()
    with pytest.raises(ValueError, match=r"trust.examples"):
        parse_config({**SMALL, "trust": {"examples": 1}})


def test_the_stage_writes_figures_that_the_stored_networks_have(finished: Path) -> None:
    content = json.loads((finished / "trust.json").read_text())
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (content["dense"], content["compressed"]) == ("adversarial", metrics["headline"])
    assert content["n"] == 60
    config = load_config(finished / "config.yaml")
    task = task_of(config, None)
    x, y = task.test.batch(slice(60))
    nets = []
    for name in (content["dense"], content["compressed"]):
        net = build_network(config.model, task)
        net.load_state_dict(load_tensors(finished / "models" / name / "model.safetensors")[0])
        nets.append(net.eval())
    rows = {row["name"]: row for row in content["changes"]}
    found = [calibration(net, x, y) for net in nets]
    assert rows["calibration error (ECE)"]["dense"] == pytest.approx(found[0].ece)
    assert rows["calibration error (ECE)"]["compressed"] == pytest.approx(found[1].ece)
    right = [(net(x).argmax(1) == y).tolist() for net in nets]
    assert rows["accuracy"]["p"] == mcnemar(*right).p
    assert rows["accuracy"]["n"] == 60
    classes = {one["name"]: one for one in content["disagreement"]["classes"]}
    assert set(classes) == set(task.class_names)
    lost = sum(before and not after for before, after in zip(*right, strict=True))
    assert content["disagreement"]["lost"] == lost == sum(c["lost"] for c in classes.values())
    assert {f"accuracy, {name}" for name in ("drift", "noise", "time warp")} <= set(rows)
    assert sum(bin["n"] for bin in content["reliability"]["attacked"]["dense"]) == 60
    ones = [float(labels[:60].double().mean()) for labels in (task.train.y, task.test.y)]
    apart = f"The classes of {100 * abs(ones[0] - ones[1]):.1f}% of them would have to change"
    assert apart in content["protocol"]["Members"]


def test_accuracy_under_attack_is_that_of_the_evaluation_of_the_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 100 examples, the same attacks, the same batches: the same worst case."""
    copy = tmp_path / "seed0"
    shutil.copytree(finished, copy)
    assert main(["trust", str(copy), "--device", "cpu", "--quiet", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    row = next(row for row in content["changes"] if row["name"] == "accuracy, attacked")
    models = {one["name"]: one for one in json.loads((copy / "metrics.json").read_text())["models"]}
    assert row["dense"] == models["adversarial"]["robust"]["worst"]["value"]
    assert row["compressed"] == models["rst"]["robust"]["worst"]["value"]
    said = content["protocol"]["Attacks"]
    assert said.startswith("the worst of 2 for each of the 100 examples")
    assert "fgsm: FGSM(" in said
    assert "pgd3: PGD(" in said


def test_the_pages_say_the_same(finished: Path) -> None:
    html, text = ((finished / f"trust.{kind}").read_text() for kind in ("html", "md"))
    content = json.loads((finished / "trust.json").read_text())
    for page in (html, text):
        for row in content["changes"]:
            assert row["name"] in page
        assert "no difference shown" in page
        assert "after Holm" in page
    assert html.count("<svg") == 3
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    plots = sorted(path.name for path in (finished / "plots").glob("trust*.svg"))
    assert plots == ["trust-calibration-0.svg", "trust-calibration-1.svg", "trust.svg"]
    assert all(f"plots/{name}" in text for name in plots)


def test_groups_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    """Where the run deals classes out, a group stays with its example."""
    for part, count in (("TRAIN", 20), ("TEST", 30)):
        rows = [f"{'ab'[i >= count // 3]},{i},{i * i}" for i in range(count)]
        (tmp_path / f"My_{part}.csv").write_text("\n".join(rows))
    task = load_task("csv", path=tmp_path / "My_TRAIN.csv", layout="flat")
    (tmp_path / "groups.txt").write_text("\n".join(str(i) for i in range(30)))
    groups = groups_of(tmp_path / "groups.txt", task)
    assert [int(group) for group in groups] == task.test.x[:, 0].tolist()
    assert sorted(groups, key=int) != list(groups)


def test_the_command_compares_what_is_named_with_groups(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "seed0"
    shutil.copytree(finished, copy)
    groups = tmp_path / "groups.txt"  # as some editors write it, with a byte order mark
    groups.write_text("\n".join("ab"[k % 2] for k in range(100)), encoding="utf-8-sig")
    words = ["trust", str(copy), "--network", "rst", "--against", "natural", "--device", "cpu"]
    words += ["--examples", "40"]
    assert main([*words, "--groups", str(groups), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["dense"], content["compressed"], content["n"]) == ("natural", "rst", 40)
    names = {row["name"] for row in content["changes"]}
    assert {"demographic parity difference", "accuracy of the worst group"} <= names
    assert {one["name"] for one in content["disagreement"]["groups"]} == {"a", "b"}
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "rst beside natural, worst first" in shown
    assert str(copy / "trust.html") in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network", "rsts"], "the run has no network rsts; choose one of natural, adversarial"),
        (["--network", "natural", "--against", "natural"], "natural is compared with itself"),
        (["--groups", "groups.txt"], "groups.txt has 3 lines for 100 test examples"),
        (["--groups", "none.txt"], "none.txt"),
        (["--groups", "one.txt"], "fairness needs at least two groups, got a"),
        (["--groups", "gap.txt"], "gap.txt, line 5 is empty; give one group a line"),
        (["--network", ""], "the run has no network"),
        (["--examples", "1"], "--examples 1 must be at least 2"),
    ],
)
def test_refusals_are_one_line(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("groups.txt").write_text("a\nb\na\n")
    Path("one.txt").write_text("a\n" * 100)
    Path("gap.txt").write_text("\n".join("" if k == 4 else "ab"[k % 2] for k in range(100)))
    assert main(["trust", str(finished), *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_foreign_folder_can_name_no_file_outside(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "seed0"
    shutil.copytree(finished, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["headline"] = metrics["models"][-1]["name"] = "../../../etc"
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert main(["trust", str(copy), "--device", "cpu"]) == 2


def test_torch_is_left_alone(finished: Path) -> None:
    before = torch.random.get_rng_state()
    assert main(["trust", str(finished), "--examples", "20", "--device", "cpu", "--quiet"]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_examples_show_nothing_and_say_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "seed0"
    shutil.copytree(finished, copy)
    assert main(["trust", str(copy), "--examples", "2", "--device", "cpu"]) == 0
    assert "no difference shown (too few examples)" in capsys.readouterr().out
    content = json.loads((copy / "trust.json").read_text())
    assert all(row["smallest"] is None for row in content["changes"])
    assert {row["verdict"] for row in content["changes"]} == {"no difference shown"}
    page = (copy / "trust.md").read_text()
    assert "no difference shown; these are too few to show any" in page
    assert "would have been |" not in page


def test_members_of_other_classes_and_of_a_selection_are_named() -> None:
    """Shares ½, ½, 0 and ¼, ¼, ½: half of them would have to change."""
    members, others = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 2])
    said = said_members(members, others, selected=False)
    assert "the first 4 training examples" in said
    assert "The classes of 50.0% of them would have to change" in said
    assert "some were not trained on" not in said
    assert said_members(members, others, selected=True).endswith("some were not trained on")


def test_the_command_can_be_given_to_a_shell() -> None:
    said = Asked(groups=Path("my files/sex of all.txt")).command(Path("runs/a b/seed0"), "x", "y")
    assert shlex.split(said) == [
        "robustprune", "trust", "a b/seed0", "--network", "y", "--against", "x", "--examples",
        "1000", "--groups", "sex of all.txt",
    ]  # fmt: skip
