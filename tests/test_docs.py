"""Every Python example of the documentation runs, page by page, as it stands there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from robustprune.cli.main import parser
from robustprune.run.packaged import config_names
from robustprune.sparsity import full_masks

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def name_of(page: Path) -> str:
    """methods/index of docs/methods/index.md"""
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), flags=re.DOTALL)


def network() -> nn.Module:
    """A small one: (N, 1, 12) -> 4 classes."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(40, 4))
    return nn.Sequential(nn.Conv1d(1, 4, 3), *head).eval()


def at_hand() -> dict[str, Any]:
    """What a fragment may take for granted, as its reader would: a network, data, bounds on r*."""
    from attacks import ThreatModel

    def transformer(*, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        total = (inputs_embeds * attention_mask.unsqueeze(-1)).sum(1)
        return SimpleNamespace(logits=total[:, :2])

    model = network()
    x = torch.rand(6, 1, 12)
    return {
        "model": model,
        "loader": [(x, model(x).argmax(1))],
        "dense": network(),
        "other_model": network(),
        "masks": full_masks(model),
        "x": x,
        "y": model(x).argmax(1),
        "threat": ThreatModel("linf", eps=0.05),
        "lower": torch.tensor([0.1, 0.0]),
        "upper": torch.tensor([0.2, 0.1]),
        "kappa": 0.5,
        "F": F,
        "network": transformer,
        "embeddings": torch.randn(6, 5, 3),
        "mask": torch.ones(6, 5),
    }


def text_at_hand() -> dict[str, Any]:
    """Two texts and an untrained BERT of one layer, for fragments about text."""
    transformers = pytest.importorskip("transformers")
    words = ["good", "fine", "bad", "poor", "film", "movie", "the", "a", "was", "."]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    Path("vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast("vocab.txt")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.BertConfig(vocab_size=len(vocabulary), num_attention_heads=2, **sizes)
    model = transformers.BertForSequenceClassification(config).eval()

    def classify(texts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits

    from attacks.text import split, wordnet

    texts = ["The film was good.", "A bad movie."]
    return {
        "tokenizer": tokenizer,
        "model": model,
        "classify": classify,
        "texts": texts,
        "labels": classify(texts).argmax(1),
        "my_synonyms": {"good": ("fine",), "bad": ("poor",)},
        "split": split,
        "wordnet": wordnet,
    }


def causal_at_hand() -> dict[str, Any]:
    """What the first fragment about causal language models makes: a model, its text, a ticket."""
    transformers = pytest.importorskip("transformers")
    from robustprune.search import prune_one_shot

    folder = ROOT / "robustprune" / "data" / "lm" / "stories260K"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    text = "Once upon a time, there was a little girl named Lily. " * 40
    return {
        "model": model,
        "tokenizer": tokenizer,
        "tokens": tokenizer(text, add_special_tokens=False)["input_ids"],
        "ticket": prune_one_shot(model, density=0.5),
    }


#: what the fragments of a page may take for granted, where it is not `at_hand`
_AT_HAND = {"text_attacks": text_at_hand, "causal": causal_at_hand}

#: what a fragment needs besides what `pip install "robustprune[all]"` brings
_PEERS = {"from_textattack": "textattack"}


@pytest.mark.parametrize("page", PAGES, ids=map(name_of, PAGES))
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, code in enumerate(blocks(page, "python")):
        torch.manual_seed(0)
        needed = [package for name, package in _PEERS.items() if name in code]
        if not all(importlib.util.find_spec(package) for package in needed):
            continue
        # dataclasses look their module up by name
        module = type(sys)(f"docs_{page.stem}_{number}")
        vars(module).update(_AT_HAND.get(page.stem, at_hand)())
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, f"{page.name}, Python block {number}", "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_are_known(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = re.sub(r"\s#.*", "", line.partition(" && ")[0]).split()
            if words[:1] == ["robustprune"]:
                plain = [word.strip('"') for word in words[1:]]
                assert parser().parse_args(plain).command == plain[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    named = set(re.findall(r"\b((?:scripts|benchmarks|examples)/\w+\.py)", text))
    named |= set(re.findall(r"\b(configs/sweeps/\w+\.yaml)", text))
    for path in named:
        assert (ROOT / path).exists(), path
    for name in re.findall(r"robustprune run (\w+) ", text):
        assert name in config_names(), name


SHORT = [ROOT / "docs" / "own.md", *sorted((ROOT / "docs" / "methods").glob("*.md"))]


@pytest.mark.parametrize("page", SHORT, ids=name_of)
def test_twenty_lines_are_enough(page: Path) -> None:
    for code in blocks(page, "python"):
        assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_site_has_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = [value for entry in site["nav"] for value in entry.values()]
    parts = [part if isinstance(part, list) else [{"": part}] for part in entries]
    listed = [path for part in parts for entry in part for path in entry.values()]
    docs = ROOT / "docs"
    notebooks = (book.with_suffix(".md") for book in docs.rglob("*.ipynb"))
    pages = (*docs.rglob("*.md"), *notebooks)
    assert sorted(listed) == sorted(str(page.relative_to(docs)) for page in pages)


_SITE = ("material", "mkdocstrings", "nbclient", "nbconvert", "ipykernel")
_MISSING = [name for name in _SITE if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")
def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.html").exists()
    reference = (tmp_path / "reference" / "search.html").read_text(encoding="utf-8")
    assert 'id="robustprune.search.find_scratch_ticket"' in reference
    for name in ("own_network", "sensor"):  # they were run: masks and accuracies are shown
        page = (tmp_path / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "weights that the mask keeps" in page
        assert "accuracy on " in page
    loaded = [
        link
        for page in tmp_path.rglob("*.html")
        for link in re.findall(
            r'<(?:script|link|img)[^>]* (?:src|href)="(https?://[^"]*)', page.read_text("utf-8")
        )
    ]
    assert loaded == []  # nothing comes from other servers


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_the_examples_folder_runs(script: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(script), "--quick"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
