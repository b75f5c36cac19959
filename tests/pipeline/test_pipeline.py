"""A whole run: its files, its repeatability, and what it must not look at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.measure import signs_of
from robustprune.run.config import Config, parse_config
from robustprune.run.rundir import RunDir
from robustprune.sparsity import MaskSet
from robustprune.tasks import load_task


def run(config: Config, out: Path) -> dict:
    return find_sparse_networks(prepare(config, out=out, quiet=True))


def folder_of(config: Config, out: Path) -> Path:
    return out / f"{config.name}-{config.digest()}" / f"seed{config.seed}"


def with_(config: Config, **sections: dict) -> Config:
    tree = config.model_dump()
    for section, fields in sections.items():
        tree[section] = {**tree[section], **fields}
    return parse_config(tree)


def test_a_run_leaves_what_is_promised(small: Config, tmp_path: Path) -> None:
    metrics = run(small, tmp_path)
    folder = folder_of(small, tmp_path)
    promised = (
        *("config.yaml", "env.json", "log.jsonl", "metrics.json", "per_example.csv"),
        *("model.safetensors", "masks.safetensors", "report.html", "report.md"),
    )
    for name in promised:
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert [m["name"] for m in metrics["models"]] == [
        "natural",
        "adversarial",
        "rst",
        "rst-inherit",
    ]
    checked = {check["name"] for check in metrics["findings"]}
    for name in (metrics["headline"], "adversarial"):  # what is compared
        assert f"{name}: white-box-beats-black-box" in checked
    rst = metrics["models"][2]
    masks = MaskSet.load(folder / "masks.safetensors")
    assert (rst["density"], rst["kept"]) == (0.5, masks.kept)
    assert rst["robust"]["pgd3"]["n"] == 100
    low, high = rst["clean"]["ci95"]
    assert low <= rst["clean"]["value"] <= high
    assert rst["robust"]["worst"]["value"] <= rst["robust"]["fgsm"]["value"]
    assert [p["eps"] for p in rst["curve"][:2]] == [0.0, 0.025]
    assert rst["curve"][4]["value"] == rst["robust"]["worst"]["value"]
    rows = (folder / "per_example.csv").read_text().splitlines()
    assert rows[0] == "model,index,label,clean_correct,fgsm_correct,pgd3_correct,worst_correct"
    assert len(rows) == 1 + 4 * 100
    assert not list(folder.rglob(".*"))  # nothing temporary is left


def test_same_seed_same_bits_other_seed_other_result(small: Config, tmp_path: Path) -> None:
    one, two = run(small, tmp_path / "a"), run(small, tmp_path / "b")
    assert one == two
    for file in ("model.safetensors", "masks.safetensors", "per_example.csv"):
        first = (folder_of(small, tmp_path / "a") / file).read_bytes()
        assert first == (folder_of(small, tmp_path / "b") / file).read_bytes()
    other = small.model_copy(update={"seed": 1})
    run(other, tmp_path / "a")
    masks = [
        MaskSet.load(folder_of(c, tmp_path / "a") / "masks.safetensors") for c in (small, other)
    ]
    assert masks[0] != masks[1]


def test_a_finished_run_is_not_repeated(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(small, tmp_path)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("trained or measured again")

    monkeypatch.setattr("robustprune.pipeline.fit.train", forbidden)
    monkeypatch.setattr("robustprune.pipeline.searches.find_scratch_ticket", forbidden)
    monkeypatch.setattr("robustprune.pipeline.measure.evaluate", forbidden)
    assert run(small, tmp_path) == first


@pytest.mark.parametrize("stage", range(4))
def test_an_interrupted_run_goes_on_to_the_same_result(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    straight = run(small, tmp_path / "straight")
    save, calls = RunDir.save_model, []

    def die(self: RunDir, *arguments: object) -> None:
        if len(calls) == stage:
            raise KeyboardInterrupt
        calls.append(1)
        save(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RunDir, "save_model", die)
    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path / "broken")
    assert not (folder_of(small, tmp_path / "broken") / "metrics.json").exists()
    monkeypatch.setattr(RunDir, "save_model", save)
    assert run(small, tmp_path / "broken") == straight


def test_several_densities_give_a_switch(small: Config, tmp_path: Path) -> None:
    config = with_(small, search={"density": (0.2, 0.5)}, finetune={"modes": ()})
    metrics = run(config, tmp_path)
    assert [m["name"] for m in metrics["models"][2:]] == ["rst-0.2", "rst-0.5"]
    switch = metrics["r2s"]
    assert switch["headline"] in ("adaptive", "eot")
    assert switch[switch["headline"]]["value"] == min(
        switch["adaptive"]["value"], switch["eot"]["value"]
    )
    assert switch["worst"]["value"] <= switch[switch["headline"]]["value"]


@pytest.mark.parametrize("weights", ["natural", "adversarial"])
def test_trained_tickets_are_drawn_from_the_baselines(
    small: Config, tmp_path: Path, weights: str
) -> None:
    config = with_(small, search={"weights": weights}, finetune={"modes": ()})
    run(config, tmp_path)
    folder = RunDir(folder_of(config, tmp_path))
    source, _ = folder.load_model(weights)
    ticket, masks = folder.load_model("rtt")
    assert masks is not None
    for name, mask in masks.items():
        assert torch.equal(ticket[name], source[name] * mask)


def arrays(path: Path, *, flip_test_labels: bool = False) -> Path:
    task = load_task("ecg200")
    y_test = task.test.y.numpy()
    np.savez(
        path,
        x_train=task.train.x.numpy(),
        y_train=task.train.y.numpy(),
        x_test=task.test.x.numpy(),
        y_test=1 - y_test if flip_test_labels else y_test,
    )
    return path


def test_the_test_set_chooses_nothing(small: Config, tmp_path: Path) -> None:
    """With every test label wrong, training, search and choice of epoch give the same bits."""
    results = []
    for flip in (False, True):
        data = arrays(tmp_path / f"{flip}.npz", flip_test_labels=flip)
        config = with_(
            small, task={"name": "npz", "path": data, "validation": 0.2}, search={"epochs": 4}
        )
        metrics = run(config, tmp_path / "runs")
        folder = folder_of(config, tmp_path / "runs")
        results.append((metrics, (folder / "model.safetensors").read_bytes()))
    (right, kept), (wrong, kept_too) = results
    assert kept == kept_too
    assert right["models"][2]["clean"] != wrong["models"][2]["clean"]
    assert right["task"]["n_validation"] == 20
    assert right["task"]["n_train"] == 80


def test_a_changed_config_gets_its_own_folder_and_an_edited_one_is_refused(
    small: Config, tmp_path: Path
) -> None:
    prepare(small, out=tmp_path)
    other = with_(small, threat={"eps": 0.2})
    assert folder_of(small, tmp_path) != folder_of(other, tmp_path)
    (folder_of(small, tmp_path) / "config.yaml").write_text("name: edited\n")
    with pytest.raises(ValueError, match=r"config\.yaml does not belong to this run"):
        prepare(small, out=tmp_path)


def test_a_damaged_stage_is_named(small: Config, tmp_path: Path) -> None:
    run(small, tmp_path)
    weights = folder_of(small, tmp_path) / "models" / "rst" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"rst/model\.safetensors is damaged"):
        run(small, tmp_path)


@pytest.mark.parametrize(
    ("right", "worst", "end", "expected"),
    [
        (
            [1, 0, 1, 0],
            [1, 0, 1, 0],
            0.5,
            0,
        ),  # all of class 0, none of class 1
        ([0, 1, 0, 1], [0, 1, 0, 1], 0.5, 1),
        ([1, 0, 1, 0], [1, 0, 0, 0], 0.0, None),  # an attack changes it
        ([1, 0, 1, 0], [1, 0, 1, 0], 0.0, None),  # a larger one does
        ([1, 0, 0, 0], [1, 0, 0, 0], 0.25, None),  # some of class 0 get another answer
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0, None),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0, None),
    ],
)
def test_a_constant_answer_shows_in_what_is_right(
    right: list[int], worst: list[int], end: float, expected: int | None
) -> None:
    share, robust = {"value": sum(right) / 4}, {"value": sum(worst) / 4}
    entry = {
        "name": "rst",
        "clean": share,
        "robust": {"fgsm": share, "pgd3": robust, "worst": robust},
        "curve": [{"eps": 0.0, **share}, {"eps": 1.0, "value": end}],
        "per_example": {"clean": right, "worst": worst},
    }
    _, sign = signs_of(entry, [0, 1, 0, 1], "pgd3")
    what = "accuracy reaches zero as eps grows" if expected is None else "a constant answer"
    assert sign["name"] == f"rst: {what}"
    assert sign["ok"] == (expected is None and end == 0)
    assert expected is None or f"class {expected} " in sign["detail"]
