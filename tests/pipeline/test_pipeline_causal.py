"""A run on a causal language model: its figures, its files, resuming it, and what it refuses."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from killing import kept, run
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from robustprune.cli import main
from robustprune.lm import perplexity, random_windows, windows
from robustprune.models.causal import causal_source, load_causal
from robustprune.pipeline.causal_run import levels_of, searches_of
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.content import file_digest
from robustprune.run.packaged import config_path
from robustprune.tasks import load_corpus

TREE: dict[str, Any] = {
    "name": "small",
    "task": {"name": "stories"},
    "model": {"name": "causal"},
    "search": {
        "methods": ["layerwise", "owl", "magnitude"], "density": [0.5], "allocate": "global",
        "dense": ["last"],
    },
    "layerwise": {"target": "residual"},
    "causal": {
        "patterns": ["2:4"], "window": 64, "windows": 4, "calibration": 4,
        "calibration_window": 64, "eps": 0.5, "attacked": 2, "steps": 2, "prompt": 8,
        "continuation": 6,
    },
}  # fmt: skip


def written(folder: Path, **sections: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**TREE, **sections}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    arguments = ["run", str(written(folder)), "--out", str(folder / "out"), "--device", "cpu"]
    assert main([*arguments, "--quiet"]) == 0
    (run_dir,) = (folder / "out").glob("*/seed0")
    return run_dir


def metrics_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return found


def test_figures_are_those_of_the_stored_networks(finished: Path) -> None:
    metrics, language = metrics_of(finished), load_causal()
    rows = windows(language.tokens(load_corpus("stories").test), 64, bos=1)[:4]
    networks = metrics["networks"]
    assert [one["name"] for one in networks] == [
        "dense", "layerwise-0.5", "layerwise-2of4", "owl-0.5", "magnitude-0.5", "magnitude-2of4",
    ]  # fmt: skip
    dense = perplexity(language.network, rows)
    assert networks[0]["perplexity"]["value"] == dense.value
    for one in networks[1:]:
        folder = finished / "models" / one["name"]
        network = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        masks, _ = load_tensors(folder / "masks.safetensors")
        assert {layer["name"] for layer in one["layers"]} == set(masks)
        for name, mask in masks.items():
            assert not network.get_parameter(name)[~mask].any()
        total = sum(mask.numel() for mask in masks.values())
        assert one["density"] == sum(int(mask.sum()) for mask in masks.values()) / total
        assert one["density"] == pytest.approx(0.5, abs=0.01 if "owl" in one["name"] else 1e-4)
        found = perplexity(network, rows)
        assert one["perplexity"]["value"] == found.value
        assert one["perplexity"]["ci95"] == list(found.interval())
        assert one["ratio"]["value"] == pytest.approx(found.value / dense.value, rel=1e-9)
        assert one["ratio"]["ci95"] == list(found.ratio_interval(dense))
        for name, file in one["files"].items():
            assert file["sha256"] == file_digest(folder / name)
            assert file["bytes"] == (folder / name).stat().st_size


def test_the_search_is_that_of_the_library(finished: Path) -> None:
    from robustprune.layerwise import prune_layerwise

    language = load_causal()
    drawn = random_windows(language.tokens(load_corpus("stories").train), 64, 4, bos=1, seed=0)
    ticket = prune_layerwise(
        language.network, [{"input_ids": drawn}], density=0.5, dense=("last",),
        target="residual", allocate="global",
    )  # fmt: skip
    stored = AutoModelForCausalLM.from_pretrained(finished / "models" / "layerwise-0.5")
    for name, mask in ticket.masks.items():
        assert torch.equal(stored.get_parameter(name), ticket.model.get_parameter(name)), name
        assert int(mask.sum()) == int((stored.get_parameter(name) != 0).sum())


def test_one_block_at_a_time_gives_the_same_network(finished: Path, tmp_path: Path) -> None:
    sections = {
        "search": {**TREE["search"], "methods": ["layerwise"]},
        "causal": {**TREE["causal"], "patterns": [], "eps": None, "offload": True},
    }
    arguments = ["run", str(written(tmp_path, **sections)), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--quiet", "--device", "cpu"]) == 0
    (found,) = (tmp_path / "out").glob("*/seed0/models/layerwise-0.5/model.safetensors")
    whole = finished / "models" / "layerwise-0.5" / "model.safetensors"
    assert found.read_bytes() == whole.read_bytes()


def test_attacks_are_measured_at_the_first_level_and_only_raise(finished: Path) -> None:
    metrics = metrics_of(finished)
    assert metrics["attack"]["bound"] == "upper"
    for one in metrics["networks"]:
        content = json.loads((finished / "measured" / f"{one['name']}.json").read_text())
        assert (one["attacked"] is not None) == (one["level"] in (None, "50%"))
        if one["attacked"] is not None:
            pairs = zip(content["attacked"], content["losses"], strict=False)
            assert all(attacked >= clean - 1e-6 for attacked, clean in pairs)
            assert one["attacked"]["windows"] == one["unattacked"]["windows"] == 2
            first = torch.tensor(content["losses"][:2], dtype=torch.float64)
            assert one["unattacked"]["value"] == pytest.approx(float(first.mean().exp()))


def test_the_report_shows_what_was_measured(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(finished)]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("report.html")
    page, text = ((finished / f"report.{kind}").read_text() for kind in ("html", "md"))
    for one in metrics_of(finished)["networks"]:
        value = f"{one['perplexity']['value']:.4g}"
        assert value in page
        assert value in text
        assert one["title"] in page
    assert "an upper bound on robustness" in page
    assert page.count("<svg") == len(list((finished / "plots").glob("*.svg"))) == 5


def test_a_finished_run_is_not_done_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(finished.parents[1])
    arguments = ["run", str(written(tmp_path)), "--out", str(finished.parents[1]), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == metrics_of(finished)
    assert kept(finished.parents[1]) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9 and forks")
def test_kill_and_resume_give_the_same_files(finished: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing", "robustprune.pipeline", "transformers"])
    out, log = tmp_path / "out", tmp_path / "stderr.txt"
    config = written(tmp_path)
    arguments = ["run", str(config), "--out", str(out), "--device", "cpu", "--quiet"]
    arguments += ["--checkpoint-seconds", "0"]
    for die_at, partial in ((41, "layerwise-0.5"), (180, "layerwise-2of4")):
        process = context.Process(target=run, args=(arguments, die_at, str(log)))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        states = list(out.glob("*/seed0/models/.*.partial/state-*.safetensors"))
        assert {state.parent.name for state in states} == {f".{partial}.partial"}
    assert main(arguments) == 0
    straight, found = kept(finished.parents[1]), kept(out)
    assert straight.keys() == found.keys()
    assert [name for name in straight if straight[name] != found[name]] == []


def test_another_model_under_the_same_name_does_not_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(causal_source("stories260K"), tmp_path / "model")
    sections = {
        "model": {"name": "causal", "options": {"weights": str(folder)}},
        "search": {"methods": ["magnitude"], "density": [0.5], "dense": ["last"]},
        "causal": {**TREE["causal"], "eps": None, "patterns": []},
    }
    arguments = ["run", str(written(tmp_path, **sections)), "--out", str(tmp_path / "out")]
    arguments += ["--quiet", "--device", "cpu"]
    assert main(arguments) == 0
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        network.get_parameter("model.norm.weight").mul_(1.5)
    network.save_pretrained(folder)
    assert main(arguments) == 2
    assert "changed under the same name" in capsys.readouterr().err


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a network": ({"model": {"name": "fcn"}}, "set model.name to causal"),
    "a training": ({"search": {"methods": ["rst"]}}, "rst does not prune causal language models"),
    "a threat": ({"threat": {"eps": 0.2}}, "threat.eps has no effect on a causal language model"),
    "a task's option": (
        {"task": {"name": "stories", "batch_size": 3}},
        "task.batch_size has no effect",
    ),
    "a pattern": ({"causal": {"patterns": ["row"]}}, "'row' is not of the form N:M"),
    "an impossible one": ({"causal": {"patterns": ["5:4"]}}, "N must not exceed M"),
    "a window": ({"causal": {"window": 513}}, "causal.window=513 is more than the 512 positions"),
    "calibration": (
        {"causal": {"calibration_window": 600}},
        "causal.calibration_window=600 is more than the 512",
    ),
    "a continuation": (
        {"causal": {"continuation": 500}},
        "causal.prompt \\+ continuation=524 is more than the 512",
    ),
    "a prompt": ({"causal": {"window": 16}}, "causal.prompt=24 is longer than a window of 16"),
    "an option": (
        {"model": {"name": "causal", "options": {"weight": "x"}}},
        "has no option 'weight' .did you mean 'weights'",
    ),
    "a number format": (
        {"model": {"name": "causal", "options": {"dtype": "int4"}}},
        "dtype 'int4' is not one of",
    ),
    "no path": ({"task": {"name": "corpus"}}, "task 'corpus' needs path"),
    "a solver": ({"layerwise": {"solver": "adm"}}, "unknown solver 'adm'"),
    "another task": (
        {"task": {"name": "ecg200"}, "model": {"name": "fcn"}},
        "section causal has no effect on task ecg200",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sections, said = REFUSED[what]
    if what == "another task":
        sections = {**sections, "layerwise": {}, "search": {}}
    out = tmp_path / "out"
    assert main(["run", str(written(tmp_path, **sections)), "--out", str(out), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()

    assert re.search(said, line), line
    assert not out.exists()


def test_texts_and_models_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time, there was a cat. " * 3)
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("\u4f60\u597d" * 4000)
    encoder = tmp_path / "encoder"
    sizes = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    BertForMaskedLM(BertConfig(vocab_size=512, **sizes)).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(causal_source("stories260K")) / name, encoder)
    capsys.readouterr()
    for sections, said in (
        ({"task": {"name": "corpus", "path": str(short)}}, "the text has"),
        ({"task": {"name": "corpus", "path": str(tmp_path / "none.txt")}}, "no file"),
        ({"model": {"name": "causal", "options": {"weights": str(encoder)}}}, "is an encoder"),
        ({"model": {"name": "causal", "options": {"weights": "../none"}}}, "cannot load"),
    ):
        arguments = ["run", str(written(tmp_path, **sections)), "--quiet"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(written(tmp_path)), "--out", str(out), "--dry-run", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"][0] == "layer-wise ADMM, 50%"
    assert (len(found["networks"]), found["state"]) == (5, "new")
    assert found["seconds_of_measuring"] > 0
    assert main(arguments) == 0
    assert "# 5 networks: " in capsys.readouterr().out
    assert not out.exists()


def test_a_missing_library_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robustprune.models.language.find_spec", lambda name: None)
    run_it = ["run", str(written(tmp_path)), "--out", str(tmp_path / "out")]
    evaluate = ["evaluate", "stories260K", "--config", "lm_stories"]
    for arguments in (run_it, [*run_it, "--dry-run"], evaluate):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "need transformers; run pip install 'robustprune[lm]'" in line


def test_the_packaged_config_is_as_the_page_says() -> None:
    config = load_config(config_path("lm_stories"))
    assert [level.title for level in levels_of(config)] == ["50%", "70%", "2:4"]
    found = [(method.name, level.title) for method, level in searches_of(config)]
    assert len(found) == 14
    assert ("owl", "2:4") not in found
    assert parse_config({}).digest() == Config().digest()


def test_evaluate_measures_a_stored_network(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished / "models" / "owl-0.5"
    arguments = ["evaluate", str(folder), "--config", str(finished / "config.yaml")]
    assert main([*arguments, "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = (one for one in metrics_of(finished)["networks"] if one["name"] == "owl-0.5")
    assert found["perplexity"] == entry["perplexity"]
    attacked = dict(found["attacked"])
    assert (attacked.pop("eps"), attacked.pop("bound")) == (0.5, "upper")
    assert attacked == entry["attacked"]
    assert found["sparsity"]["masked"] == {"sparsity": 1 - entry["density"], "layers": 35}
    zeros = {name: share for name, share in found["sparsity"]["layers"].items() if share}
    assert set(zeros) == {layer["name"] for layer in entry["layers"]}
    for layer in entry["layers"]:
        assert zeros[layer["name"]] == pytest.approx(1 - layer["density"])
    assert main([*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "on 4 windows of 64 tokens" in said
    assert "every pruned weight is zero" in said


def test_evaluate_measures_a_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, language = tmp_path / "mine.txt", load_causal()
    file.write_bytes(load_corpus("stories").test[:3000].encode())
    arguments = ["evaluate", "stories260K", "--data", str(file), "--device", "cpu", "--json"]
    assert main([*arguments, "--set", "causal.window=128"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = windows(language.tokens(file.read_text()), 128, bos=1)
    assert (found["windows"], found["attacked"]) == (len(rows), None)
    assert found["perplexity"]["value"] == perplexity(language.network, rows).value
    assert (found["sparsity"]["zeros"], found["sparsity"]["masked"]) == (0, None)


def test_evaluate_refuses_what_does_not_fit(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(finished / "config.yaml")
    changed = shutil.copytree(finished / "models" / "owl-0.5", tmp_path / "changed")
    shutil.copy(finished / "models" / "magnitude-0.5" / "masks.safetensors", changed)
    other = shutil.copytree(finished / "models" / "owl-0.5", tmp_path / "other")
    save_tensors(other / "masks.safetensors", {"lm_head.weight": torch.ones(2, dtype=torch.bool)})
    capsys.readouterr()
    for arguments, said in (
        ([str(changed), "--config", config], "some of them are not zero"),
        ([str(other), "--config", config], "fits no weight of the network"),
        ([str(changed), "--config", "ecg200"], "does not exist"),
        ([str(changed), "--config", "rst_ecg200"], "is the config of a classifier"),
        ([str(changed), "--config", config, "--norm", "linf"], "--norm linf is no norm for"),
        ([str(changed), "--config", config, "--state", "x.pt"], "--state has no effect"),
        ([str(tmp_path), "--config", config], "cannot load"),
        (["stories260K", "--data", str(tmp_path / "a.txt")], "no file"),
    ):
        assert main(["evaluate", *arguments, "--device", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_trust_compares_the_stored_network_with_the_dense_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a stage: the same run, finished but for it."""
    path = written(tmp_path, trust={"examples": 4})
    config = load_config(path)
    folder = config.folder(tmp_path / "out")
    shutil.copytree(finished, folder)
    (folder / "config.yaml").write_text(config.to_yaml())
    arguments = ["run", str(path), "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]
    assert main(arguments) == 0
    content = json.loads((folder / "trust.json").read_text())
    assert (content["dense"], content["compressed"], content["n"]) == ("dense", "layerwise-0.5", 4)
    (loss,) = [row for row in content["changes"] if row["unit"] == "nats"]
    found = {one["name"]: one["perplexity"]["value"] for one in metrics_of(finished)["networks"]}
    assert math.exp(loss["dense"]) == pytest.approx(found["dense"], rel=1e-5)
    assert math.exp(loss["compressed"]) == pytest.approx(found["layerwise-0.5"], rel=1e-5)
    names = {row["name"] for row in content["changes"]}
    assert {"last word chosen of 4", "last word said", "repeated 4-grams"} <= names
    page = (folder / "trust.html").read_text()
    assert "layer-wise" in page
    assert page.count("<svg") == 1
    other = ["--network", "magnitude-0.5", "--examples", "3", "--json", "--device", "cpu"]
    assert main(["trust", str(folder), *other]) == 0
    assert json.loads(capsys.readouterr().out)["compressed"] == "magnitude-0.5"
    asks = tmp_path / "questions"
    asks.mkdir()
    row = {"context": "Tim has a red ball. The ball is", "options": [" blue", " red"], "answer": 1}
    (asks / "retrieval.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    row = {"prompt": "Tim had a ball. He lost the ball. In short:", "summary": "Tim lost his ball."}
    (asks / "summaries.jsonl").write_text(f"{json.dumps(row)}\n\n" * 2)
    assert main(["trust", str(folder), *other, "--data-dir", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    numbers = {row["name"]: row["n"] for row in content["changes"]}
    assert numbers["answer found in the context, chosen"] == 3
    assert numbers["summaries, ROUGE-L"] == 2
    assert "3 questions of questions/retrieval.jsonl" in content["protocol"]["Retrieval"]
    assert main(["trust", str(folder), "--groups", str(path)]) == 2
    assert "--groups has no effect on a causal language model" in capsys.readouterr().err
