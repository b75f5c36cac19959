"""Dry runs: what they count against what a run really does, and that they leave nothing."""

import json
from pathlib import Path

import pytest

from robustprune.cli import main
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.estimate import estimate
from robustprune.pipeline.plan import measuring_passes, planned_trainings
from robustprune.pipeline.prepare import planned_run
from robustprune.run.config import Config, parse_config
from robustprune.run.packaged import config_names, config_path

METHODS = ["rst", "admm", "hydra", "lottery", "snip", "magnitude"]


def many(small: Config, **evaluation: object) -> Config:
    tree = small.model_dump()
    tree["search"] |= {"methods": METHODS, "density": [0.3], "epochs": 2}
    for section in ("admm", "scores"):
        tree[section] |= {"epochs": 2}
    tree["admm"] |= {"every": 1}
    tree["lottery"] |= {"epochs": 1, "rounds": 2}
    tree["evaluation"] |= {"curve": False, **evaluation}
    return parse_config(tree)


def test_the_trainings_are_those_of_the_run(small: Config, tmp_path: Path) -> None:
    config = many(small)
    run = prepare(config, out=tmp_path, quiet=True)
    metrics = find_sparse_networks(run)
    planned = planned_trainings(config)
    assert [t.name for t in planned] == [m["name"] for m in metrics["models"]]
    for training in planned:
        lines = (run.folder.path / "models" / training.name / "history.jsonl").read_text()
        epochs = len(lines.splitlines())
        # of a lottery ticket the last training alone is in its history
        assert training.epochs == (3 * epochs if training.name == "lottery" else epochs)


def test_several_densities_and_a_single_l1(small: Config) -> None:
    tree = small.model_dump()
    tree["search"] |= {"methods": ["admm_l1", "magnitude"], "density": [0.1, 0.5]}
    tree["admm"] |= {"l1": 1e-4}
    names = [t.name for t in planned_trainings(parse_config(tree))]
    assert [n for n in names if "inherit" not in n] == [
        *("natural", "adversarial", "admm_l1-0.1", "magnitude-0.1", "magnitude-0.5"),
    ]


def test_trained_tickets_and_language_tickets_have_their_own_names() -> None:
    search = {"methods": ["rst", "language"], "weights": "adversarial"}
    planned = planned_trainings(parse_config({"search": search, "finetune": {"epochs": 3}}))
    found = {t.name: (t.kind, t.epochs, t.measured) for t in planned}
    assert found["rtt"] == ("robust", 100, True)
    assert found["language-drawn"] == ("robust", 20, False)
    assert found["language"] == found["language-reinit"] == ("natural", 3, True)


def test_passes_count_calls_of_the_network(small: Config) -> None:
    section = {"steps": 4, "restarts": 3, "minimal": 0}
    config = many(small, **section)
    one, two, three = (
        measuring_passes(config, models=models, n=10, classes=2, curve=0) for models in (1, 2, 3)
    )
    each = 10 * (1 + 4 * 3)
    assert three.gradient - two.gradient == each
    assert two.gradient - 2 * each == 2 * (one.gradient - each) > 0  # the sanity checks of two
    with_curve = many(small, **section | {"curve": True})
    curved = measuring_passes(with_curve, models=1, n=10, classes=2, curve=15)
    assert curved.gradient - one.gradient == 10 * 15 * 4
    more = measuring_passes(
        many(small, more=["apgd"], **section), models=1, n=10, classes=2, curve=0
    )
    assert more.gradient - one.gradient == 10 * 100


def test_an_estimate_leaves_nothing(small: Config, tmp_path: Path) -> None:
    tree = many(small).model_dump()
    tree["certify"] = {"method": "ibp", "examples": 3, "sigma": 0.1, "n": 50}
    config = parse_config(tree)
    found = estimate(planned_run(config, out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    steps = {stage.name: stage.steps for stage in found.stages}
    assert steps["natural"] == 2 * 2  # two epochs of 100 examples in batches of 50
    assert steps["lottery"] == 3 * 2
    assert steps["snip"] == 4
    assert steps["magnitude"] == 0
    assert steps["certifying, ibp"] == 3
    assert steps["certifying, smoothing"] == 3 * 150
    assert found.training_seconds == pytest.approx(
        sum(s.seconds for s in found.stages if not s.name.startswith(("meas", "cert")))
    )
    assert 0 < found.training_seconds < found.seconds
    assert found.step[0] < found.step[1]
    assert found.host_bytes is None or found.host_bytes > 50e6


def test_dry_run_prints_the_config_and_the_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["model.options={widths: [4], kernels: [3]}", "search.epochs=3"]
    command = ["run", "rst_ecg200", "--dry-run", "--out", str(tmp_path), "--set", *quick]
    assert main(command) == 0
    shown = capsys.readouterr().out
    printed = tmp_path / "printed.yaml"
    printed.write_text(shown)  # a config that can be given back
    assert main(["run", str(printed), "--dry-run", "--json", "--out", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["config"]["search"]["epochs"] == 3
    assert content["state"] == "new"
    assert content["seconds"] > 0
    assert "# time: about" in shown
    assert "(new), on" in shown
    assert f"{content['parameters']:,} parameters" in shown
    assert list(tmp_path.iterdir()) == [printed]


@pytest.mark.parametrize("name", config_names())
def test_every_packaged_config_has_a_plan(name: str) -> None:
    from robustprune.run.config import load_config

    config = load_config(config_path(name))
    names = [training.name for training in planned_trainings(config)]
    assert {"natural", "adversarial"} <= set(names)
    assert len(set(names)) == len(names)


def test_the_folder_is_where_the_run_lies(small: Config, tmp_path: Path) -> None:
    run = prepare(small, out=tmp_path, quiet=True)
    assert run.folder.path == small.folder(tmp_path)


def test_minimal_perturbation_of_headline_and_baselines(small: Config, tmp_path: Path) -> None:
    tree = small.model_dump()
    tree["evaluation"] |= {"curve": False, "minimal": 7, "more": ["apgd"]}
    tree["finetune"]["modes"] = ["inherit"]
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    metrics = find_sparse_networks(run)
    found = {m["name"]: m.get("minimal") for m in metrics["models"]}
    assert found.pop("rst-inherit") is None
    distances = json.loads((run.folder.path / "distances.json").read_text())
    assert set(found) == set(distances) == {"natural", "adversarial", "rst"}
    for name, summary in found.items():
        values = distances[name]
        assert len(values) == summary["n"] == 7
        assert summary["accuracy_at_eps"] == sum(v is None or v > 0.1 for v in values) / 7
    assert set(metrics["attacks"]) == {"fgsm", "pgd3", "apgd"}
    assert all("apgd" in m["robust"] for m in metrics["models"])
    assert find_sparse_networks(run) == metrics
