"""The user's own text on the command line of causal language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="language models need the extra lm")

from robustprune.cli import main
from robustprune.lm import perplexity, windows
from robustprune.models.causal import load_causal
from robustprune.report.causal import causal_table, speed_line
from robustprune.report.causal_records import parse_causal
from robustprune.run.checkpoint import load_tensors
from robustprune.tasks import load_corpus

SMALL = [
    "--set", "causal.window=32", "causal.windows=2", "causal.calibration=8",
    "causal.calibration_window=32", "causal.eps=null", "causal.continuation=0",
    "causal.patterns=[]", "causal.decode=0", "--method", "magnitude", "--density", "0.5",
    "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def story() -> str:
    return load_corpus("stories").test[:4000]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_data_names_a_text_and_label_its_field(
    tmp_path: Path, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = written(tmp_path / "mine.txt", story)
    lines = written(tmp_path / "mine.jsonl", json.dumps({"story": story}) + "\n")
    found: list[dict[str, Any]] = []
    for arguments in (["--data", str(plain)], ["--data", str(lines), "--label", "story"]):
        out = str(tmp_path / lines.suffix)
        assert main(["run", "lm_stories", *arguments, *SMALL, "--json", "--out", out]) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"])
    language = load_causal()
    rows = windows(language.tokens(story[int(0.8 * len(story)) :]), 32, bos=1)[:2]
    for metrics in found:
        assert metrics["run"] == metrics["task"]["name"] == "mine"
        dense = metrics["networks"][0]["perplexity"]["value"]
        assert dense == perplexity(language.network, rows).value


def test_owl_with_wanda_keeps_equally_many_in_each_row(
    tmp_path: Path, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", str(written(tmp_path / "mine.txt", story))
    arguments = ["run", "lm_stories", "--data", file, *SMALL, "--json", "--out", str(out)]
    arguments += ["--method", "owl_wanda", "--set", 'causal.patterns=["2:4"]']
    assert main([*arguments, "causal.calibration=16"]) == 0
    networks = json.loads(capsys.readouterr().out)["metrics"]["networks"]
    assert [one["name"] for one in networks] == ["dense", "owl_wanda-0.5"]  # 2:4 fixes each layer
    (found,) = out.glob("*/seed0/models/owl_wanda-0.5/masks.safetensors")
    masks, _ = load_tensors(found)
    shares = set()
    for mask in masks.values():
        (kept,) = set(mask.sum(1).tolist())
        shares.add(kept / mask.shape[1])
    assert len(shares) > 1
    assert 0.5 <= networks[1]["density"] < 0.51  # a row is rounded up


def test_speed_is_timed_where_it_is_asked_for(
    tmp_path: Path, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", str(written(tmp_path / "mine.txt", story))
    arguments = ["run", "lm_stories", "--data", file, *SMALL, "--json", "--out", str(out)]
    assert main([*arguments, "--set", "causal.decode=2"]) == 0
    dense, pruned = json.loads(capsys.readouterr().out)["metrics"]["networks"]
    assert dense["speed"] is None
    speed = pruned["speed"]
    assert (speed["threads"], speed["device"]) == (torch.get_num_threads(), "cpu")
    assert min(speed["tokens_per_second"], speed["dense"]) > 0
    assert 0 <= speed["sparse_layers"] <= len(pruned["layers"])
    (run,) = out.glob("*/seed0")
    shown = [f"{speed[key]:.4g}" for key in ("tokens_per_second", "dense")]
    shown.append(f"{speed['tokens_per_second'] / speed['dense']:.2f}")
    for kind in ("html", "md"):
        page = (run / f"report.{kind}").read_text()
        assert "How fast they generate" in page
        assert all(value in page for value in shown)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["networks"][1]["speed"] |= {
        "tokens_per_second": 30.0, "dense": 20.0, "sparse_layers": 2,
    }  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(metrics))
    line = speed_line(parse_causal(metrics))
    assert line is not None
    assert line.text == (
        "dense 20 tokens a second for one text; 1.50 times as many with layers in CSR, which is "
        "faster in 1 of 1 pruned networks"
    )
    caption = causal_table(metrics).caption
    assert caption == f"Speed: {line.text}"
    assert main(["report", str(run)]) == 0
    assert all(line.text in (run / f"report.{kind}").read_text() for kind in ("html", "md"))
    metrics["networks"][1]["speed"]["sparse_layers"] = 0
    line = speed_line(parse_causal(metrics))
    assert line is not None
    assert line.text.endswith(
        "second for one text; no pruned network is faster, because no layer is faster in CSR"
    )
    metrics["networks"][1]["speed"]["dense"] = 0.0
    (run / "metrics.json").write_text(json.dumps(metrics))
    capsys.readouterr()
    assert main(["report", str(run)]) == 2
    assert "must be positive and finite" in capsys.readouterr().err
    assert main([*arguments, "--set", "causal.decode=600"]) == 2
    assert "causal.decode + 3=603 is more than the 512 positions" in capsys.readouterr().err


@pytest.mark.filterwarnings("always:speed is measured")  # the command prints it
def test_a_network_without_sparse_layers_is_timed_as_it_is(
    tmp_path: Path, story: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> object:
        raise ValueError("its outputs differ")

    monkeypatch.setattr("robustprune.pipeline.causal_measure.sparsify", refuse)
    file = str(written(tmp_path / "mine.txt", story))
    arguments = ["run", "lm_stories", "--data", file, *SMALL, "--json"]
    arguments += ["--out", str(tmp_path / "out"), "--set", "causal.decode=2"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == "warning: speed is measured without layers in CSR: its outputs differ\n"
    speed = json.loads(said.out)["metrics"]["networks"][1]["speed"]
    assert speed["sparse_layers"] == 0
    assert speed["tokens_per_second"] > 0


def test_label_names_the_field_of_what_is_evaluated(
    tmp_path: Path, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = written(tmp_path / "mine.jsonl", json.dumps({"story": story}) + "\n")
    arguments = ["evaluate", "stories260K", "--data", str(lines), "--device", "cpu"]
    arguments += ["--set", "causal.window=64", "--examples", "2"]
    assert main([*arguments, "--label", "story", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["windows"] == 2
    assert main(arguments) == 2
    assert "has no text in 'text'" in capsys.readouterr().err


def test_what_does_not_fit_a_text_is_refused_in_one_line(
    tmp_path: Path, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path / "mine.txt", story))
    for arguments, said in (
        (["lm_stories", "--data", file, "--layout", "flat"], "--layout has no effect on a causal"),
        (["lm_stories", "--data", file, "--test", "0.2"], "--test has no effect on a causal"),
        (["lm_stories", "--data", f"{file[:-4]}s.txt"], "no file"),
        (["rst_ecg200", "--data", file], "needs the config of a causal language model"),
    ):
        assert main(["run", *arguments, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
