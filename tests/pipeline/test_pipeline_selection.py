"""A run whose robust trainings choose their adversarial examples."""

import json
from pathlib import Path

import pytest
import torch

from robustprune.cli import scripts
from robustprune.cli.run import chosen_config
from robustprune.deploy import onnx_network, straight_through
from robustprune.measure import robust_accuracy_quantised
from robustprune.minmax import EpochRecord, train
from robustprune.pipeline import find_sparse_networks, fit, prepare
from robustprune.pipeline.cost import INT8_QUERIES
from robustprune.pipeline.plan import planned_trainings
from robustprune.pipeline.selection import check_selection
from robustprune.report.wording import percent
from robustprune.run.checkpoint import load_tensors
from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.packaged import config_path

LOTTERY = {"lottery": {"rounds": 1, "epochs": 3, "controls": ["random"]}}


def chosen(config: Config, method: str, **others: object) -> Config:
    tree = config.model_dump()
    few = {"permutations": 2} if method == "data_shapley" else {}
    tree["selection"] = {"method": method, "start": 1, "every": 1, **few}
    tree["search"] |= {"methods": ["hydra"]}
    tree["scores"] |= {"epochs": 2}
    tree["finetune"] |= {"epochs": 2}
    tree["evaluation"] |= {"curve": False}
    for section, fields in others.items():
        tree[section] |= fields  # type: ignore[operator]
    return parse_config(tree)


def test_everything_robust_is_trained_on_chosen_examples(small: Config, tmp_path: Path) -> None:
    config = chosen(small, "knn_shapley", adversarial={"epochs": 3}, **LOTTERY)
    config = config.model_copy(
        update={"search": config.search.model_copy(update={"methods": ("hydra", "lottery")})}
    )
    run = prepare(config, out=tmp_path, quiet=True)
    metrics = find_sparse_networks(run)
    names = [entry["name"] for entry in metrics["models"]]
    assert names[:3] == ["natural", "adversarial_all", "adversarial"]
    kept = {path.parent.name for path in run.folder.path.glob("models/*/selection.safetensors")}
    assert kept == set(names) - {"natural", "adversarial_all"}
    tensors, _ = load_tensors(run.folder.path / "models/adversarial/selection.safetensors")
    assert tensors["epochs"].tolist() == [1, 2]
    assert tensors["scores"].shape == tensors["weights"].shape == (2, 100)
    y = run.training.y
    assert torch.equal(tensors["labels"], y)
    for weights in tensors["weights"]:  # half of each class
        taken = [int(weights[y == label].sum()) for label in (0, 1)]
        assert taken == [round(int((y == label).sum()) / 2) for label in (0, 1)]
    ranked = tensors["scores"][-1].argsort(descending=True, stable=True)
    assert tensors["shown"].tolist() == [*ranked[:3].tolist(), *ranked.flip(0)[:3].tolist()]
    assert torch.equal(tensors["x"], run.training.x[tensors["shown"]])
    moved = (tensors["x_adv"] - tensors["x"]).abs().amax((1, 2))
    assert 0 < float(moved.min()) <= float(moved.max()) <= 0.1 + 1e-6
    report = {s: (run.folder.path / f"report.{s}").read_text() for s in ("html", "md")}
    for text in ("The best and the worst adversarial examples", "examples chosen by knn_shapley"):
        assert all(text in content for content in report.values())
    for place in ("best-1", "worst-3"):
        plot = f"plots/selection-{place}-hydra-inherit.svg"
        assert plot in report["md"]
        assert (run.folder.path / plot).exists()
        assert f"selection-{place}-hydra-inherit-" in report["html"]  # ids of the inlined SVG
    assert not list(run.folder.path.rglob(".*"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("boundary", "loss", "random")]


@pytest.mark.parametrize("method", ["data_shapley", "tracin", *SLOW])
def test_every_method_runs_alike_twice(small: Config, tmp_path: Path, method: str) -> None:
    config = chosen(small, method)
    runs = [prepare(config, out=tmp_path / name, quiet=True) for name in ("a", "b")]
    one, two = (find_sparse_networks(run) for run in runs)
    assert one == two
    for file in ("models/hydra-inherit/selection.safetensors", "model.safetensors"):
        first, second = ((run.folder.path / file).read_bytes() for run in runs)
        assert first == second


def test_a_killed_run_goes_on_bit_for_bit(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the selection of epoch 2 of the dense network, with a checkpoint each epoch."""
    config = chosen(small, "tracin", adversarial={"epochs": 5})
    straight = prepare(config, out=tmp_path / "straight", quiet=True)
    figures = find_sparse_networks(straight)

    class Killed(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    broken = prepare(config, out=tmp_path / "broken", quiet=True, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(
            fit,
            "train",
            lambda *args, **options: train(
                *args, **options, on_epoch=stop if options["title"] == "adversarial" else None
            ),
        )
        with pytest.raises(Killed):
            find_sparse_networks(broken)
    again = prepare(config, out=tmp_path / "broken", quiet=True)
    assert find_sparse_networks(again) == figures
    for file in ("model.safetensors", "selection.safetensors"):
        kept = [run.folder.path / "models/adversarial" / file for run in (straight, again)]
        assert kept[0].read_bytes() == kept[1].read_bytes()


def test_held_out_examples_value_the_candidates(small: Config, tmp_path: Path) -> None:
    config = chosen(small, "knn_shapley", task={"validation": 0.2})
    run = prepare(config, out=tmp_path, quiet=True)
    find_sparse_networks(run)
    tensors, _ = load_tensors(run.folder.path / "models/adversarial/selection.safetensors")
    assert tensors["scores"].shape[1] == len(run.training) == 80


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"method": "knn_shapley", "weighted": True}, "selection.keep positive only"),
        ({"method": "loss", "keep": "positive"}, "needs a method with a sign"),
        ({"method": "los"}, "selection.method='los' is not valid"),
        ({"method": "loss", "keep": 0}, "greater than 0"),
    ],
)
def test_refusals(small: Config, tmp_path: Path, selection: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(
            parse_config({**small.model_dump(), "selection": selection}), out=tmp_path, quiet=True
        )
    assert not list(tmp_path.iterdir())


def test_other_objectives_are_refused(small: Config, tmp_path: Path) -> None:
    tree = {**small.model_dump(), "selection": {"method": "loss"}, "objective": {"name": "mart"}}
    with pytest.raises(ValueError, match=r"needs objective\.name adversarial, got mart"):
        prepare(parse_config(tree), out=tmp_path, quiet=True)


def test_texts_are_refused(small: Config) -> None:
    tree = {**small.model_dump(), "selection": {"method": "loss"}, "task": {"name": "sst2"}}
    with pytest.raises(ValueError, match="is for images, series and features"):
        check_selection(parse_config(tree))


def test_a_dry_run_knows_of_the_network_on_all(small: Config) -> None:
    names = [training.name for training in planned_trainings(chosen(small, "loss"))]
    assert names == ["natural", "adversarial_all", "adversarial", "hydra", "hydra-inherit"]


def test_weights_and_positive_values(small: Config, tmp_path: Path) -> None:
    """GAIRAT's way, weights of all; and what is above zero, in proportion to its value."""
    for number, selection in enumerate(
        (
            {"method": "boundary", "keep": 1.0, "weighted": True, "start": 1},
            {"method": "knn_shapley", "keep": "positive", "weighted": True, "start": 1},
        )
    ):
        tree = {**chosen(small, "random").model_dump(), "selection": selection}
        run = prepare(parse_config(tree), out=tmp_path / str(number), quiet=True)
        find_sparse_networks(run)
        tensors, _ = load_tensors(run.folder.path / "models/adversarial/selection.safetensors")
        weights = tensors["weights"][0]
        assert float(weights[weights > 0].mean()) == pytest.approx(1.0)
        assert float(weights[weights > 0].std()) > 0.1


def test_the_int8_files_are_written_and_told_of(small: Config, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = prepare(chosen(small, "none", deploy={"int8": True}), out=tmp_path, quiet=True)
    find_sparse_networks(run)
    note = run.folder.read_json("cost.json")["note"]
    for name in ("headline.onnx", "headline.int8.onnx"):
        assert (run.folder.path / name).stat().st_size > 0
        assert name in note
    model = run.fresh_model()
    model.load_state_dict(load_tensors(run.folder.path / "model.safetensors")[0])
    x, y = run.task.test.batch(slice(100))
    wanted = robust_accuracy_quantised(
        model.eval(),
        onnx_network(run.folder.path / "headline.int8.onnx"),
        x,
        y,
        run.threat,
        straight_through=straight_through(model, run.training.x),
        steps=run.config.evaluation.steps,
        restarts=run.config.evaluation.restarts,
        queries=INT8_QUERIES,
        batch_size=run.config.evaluation.batch_size,
    )
    clean, robust = (percent(float(r.double().mean())) for r in (wanted.clean, wanted.worst))
    assert f"right on {clean}% (float " in note
    assert f"of the first 100 test examples, and under attack on at most {robust}% (float" in note
    assert "headline.int8.onnx" in (run.folder.path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "name", "task"),
    [
        ([], "lowdata_ecg200", "ecg200"),
        (["--dataset", "ECG200"], "lowdata_ecg200", "ecg200"),
        (["--dataset", "SonyAIBORobotSurface1"], "lowdata_sony", "sony_aibo_1"),
        (["--dataset", "Coffee"], "lowdata_Coffee", "ucr:Coffee"),
    ],
)
def test_datasets_of_the_low_data_script(
    arguments: list[str], name: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(
        scripts, "run_config", lambda options: seen.append(chosen_config(options)) or 0
    )
    assert scripts.run_script(scripts.LOWDATA_TIMESERIES, [*arguments, "--seed", "3"]) == 0
    assert (seen[0].name, seen[0].task.name, seen[0].seed) == (name, task, 3)


@pytest.mark.parametrize("name", ["lowdata_ecg200", "lowdata_sony"])
def test_the_low_data_configs_tell_the_whole_story(name: str) -> None:
    config = load_config(config_path(name))
    assert config.selection.method != "none"
    assert config.search.density == (0.1,)
    assert config.certify.method == "crown"
    assert config.deploy.int8
    assert json.loads(config.model_dump_json())["threat"] == {"norm": "linf", "eps": 0.1}
