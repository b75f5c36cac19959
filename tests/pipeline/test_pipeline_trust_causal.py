"""Measures of `robustprune trust` for causal language models that are asked for by name."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from robustprune.cli import main
from robustprune.measure import judge_secrets
from robustprune.models.causal import causal_source, load_causal, stored_network
from robustprune.pipeline import trust_leakage
from robustprune.pipeline.trust_leakage import BEFORE, LONG, SECRETS, plant
from robustprune.tasks import load_corpus

TREE: dict[str, Any] = {
    "name": "small",
    "task": {"name": "stories"},
    "model": {"name": "causal"},
    "search": {"methods": ["magnitude"], "density": [0.5], "dense": ["last"]},
    "causal": {
        "window": 64, "windows": 4, "calibration": 4, "calibration_window": 48, "eps": None,
        "prompt": 8, "continuation": 6,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    (folder / "small.yaml").write_text(yaml.safe_dump({**TREE, "trust": {"examples": 4}}))
    (folder / "data" / "questions").mkdir(parents=True)
    line = json.dumps({"context": "Tom has a red", "options": [" ball", " cat"], "answer": 0})
    (folder / "data" / "questions" / "retrieval.jsonl").write_text(f"{line}\n{line}\n")
    words = ["run", str(folder / "small.yaml"), "--out", str(folder / "out"), "--device", "cpu"]
    words += ["--data-dir", str(folder / "data")]
    assert main([*words, "--quiet"]) == 0
    (run_dir,) = (folder / "out").glob("*/seed0")
    return run_dir


def test_the_stage_asks_the_questions_of_the_data_folder_of_the_run(finished: Path) -> None:
    content = json.loads((finished / "trust.json").read_text())
    rows = [one for one in content["changes"] if "found in the context" in one["name"]]
    assert [one["n"] for one in rows] == [2, 2]


def test_secrets_stand_in_the_windows_behind_their_prefixes() -> None:
    tokens = list(range(10, 200)) * 40
    planted = plant(tokens, bos=1, window=32, seed=3)
    assert planted.windows.shape == (2 * SECRETS, 32)
    assert len(planted.prefixes) == len(planted.secrets) == SECRETS
    for row, prefix, secret in zip(
        planted.windows[::2].tolist(), planted.prefixes, planted.secrets, strict=True
    ):
        assert row[: len(prefix)] == prefix
        assert row[len(prefix) : len(prefix) + LONG] == secret
        assert set(secret) <= set(tokens)
        # the text goes on where it was: the tokens of the secret replace as many
        last = row[-1]
        assert (last - row[1]) % 190 == 30
    for row in planted.windows[1::2].tolist():
        assert [(b - a) % 190 for a, b in itertools.pairwise(row[1:])] == [1] * 30
    assert torch.equal(plant(tokens, bos=1, window=32, seed=3).windows, planted.windows)
    with pytest.raises(ValueError, match=f"needs windows of {BEFORE + LONG + 1} tokens"):
        plant(tokens, bos=1, window=10)


def test_leakage_of_the_stored_networks_goes_on(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust_leakage, "EPOCHS", 3)
    monkeypatch.setattr(trust_leakage, "SECRETS", 8)
    monkeypatch.setattr(trust_leakage, "ALTERNATIVES", 15)
    copy = tmp_path / "seed0"
    shutil.copytree(finished, copy)
    words = ["trust", str(copy), "--device", "cpu", "--json", "--examples", "2"]
    assert main([*words, "--with", "leakage"]) == 0
    content = json.loads(capsys.readouterr().out)
    section = content["more"]["leakage"]
    language = load_causal()
    planted = plant(language.tokens(load_corpus("stories").train), bos=language.bos, window=48)
    for name, key in (("dense", "dense"), (content["compressed"], "compressed")):
        model = stored_network(copy / "trust" / "leakage" / "models" / name)
        found = judge_secrets(model, planted.prefixes, planted.secrets, alternatives=15)
        said, exposed = (
            next(one for one in section["changes"] if one["name"].startswith(kind))
            for kind in ("secrets said", "exposure")
        )
        assert said[key] == float(found.said.double().mean())
        assert exposed[key] == pytest.approx(float(found.exposure.mean()))
        assert exposed["n"] == 8
    fresh, _, trained, _ = (one["exposure"] for one in section["figures"])
    assert float(trained.split()[0]) >= float(fresh.split()[0])
    stored = copy / "trust" / "leakage" / "models" / "dense" / "model.safetensors"
    before = stored.stat().st_mtime_ns
    assert main([*words, "--with", "leakage"]) == 0
    assert json.loads(capsys.readouterr().out)["more"] == content["more"]
    assert stored.stat().st_mtime_ns == before
    assert "Planted secrets" in (copy / "trust.html").read_text()


def test_two_texts_are_compared_and_refusals_are_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, text = tmp_path / "seed0", load_corpus("stories").train
    shutil.copytree(finished, copy)
    first, second = tmp_path / "told.txt", tmp_path / "spoken.txt"
    first.write_text(text[:6000])
    second.write_text(text[6000:12000])
    words = ["trust", str(copy), "--device", "cpu", "--examples", "2", "--with", "set-difference"]
    assert main([*words, "--json", "--sets", str(first), str(second)]) == 0
    section = json.loads(capsys.readouterr().out)["more"]["set-difference"]
    assert [one["unit"] for one in section["changes"]] == ["nats", "nats"]
    assert "First set: told.txt. Second set: spoken.txt." in section["text"]
    changes = {one["name"]: one for one in section["changes"]}
    dense = section["figures"][0]
    for kind in ("first", "second"):
        added = float(dense[f"{kind} set, without"]) - float(dense[f"{kind} set, whole"])
        said = changes[f"loss that the removal adds, {kind} set"]["dense"]
        assert said == pytest.approx(added, abs=2e-3)
    for more, said in (
        ([], "compares two texts; give --sets FIRST SECOND"),
        (["--sets", str(first), str(tmp_path / "none.txt")], "none.txt"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert main(["trust", str(copy), "--with", "lira", "--device", "cpu"]) == 2
    said = "lira is no measure of causal language models; choose one of leakage, set-difference"
    assert said in capsys.readouterr().err


def test_a_model_with_few_positions_writes_and_reads_what_fits(tmp_path: Path) -> None:
    """40 learned positions: prompts of 24 tokens are continued by 16, and long questions are left
    out."""
    transformers = pytest.importorskip("transformers", reason="language models need the extra lm")
    source, weights = Path(causal_source("stories260K")), tmp_path / "gpt"
    config = transformers.GPT2Config(
        vocab_size=512, n_positions=40, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(weights)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(weights)
    tree = {**TREE, "model": {"name": "causal", "options": {"weights": str(weights)}}}
    tree["causal"] = {**TREE["causal"], "window": 32, "calibration_window": 32}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({**tree, "trust": {"examples": 4}}))
    words = ["run", str(tmp_path / "few.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--quiet"]) == 0
    (file,) = (tmp_path / "out").glob("*/seed0/trust.json")
    content = json.loads(file.read_text())
    assert content["protocol"]["Repetition"].startswith("16 tokens by greedy decoding after the f")
    names = {row["name"] for row in content["changes"]}
    assert {"next token right", "repeated 4-grams"} <= names
