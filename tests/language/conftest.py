"""A tiny transformer with random weights, and sentences for it."""

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("transformers", reason="language models need the extra lm")

from transformers import BertConfig, BertForSequenceClassification

from robustprune.models import EmbeddingClassifier
from robustprune.packing import pack_tokens, with_room
from robustprune.tasks import BatchLoader, Split

WIDTH = 32
MakeModel = Callable[..., EmbeddingClassifier]


@pytest.fixture
def make_model() -> MakeModel:
    def make(seed: int = 0, **options: bool) -> EmbeddingClassifier:
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=50,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
        )
        return EmbeddingClassifier(BertForSequenceClassification(config), **options)

    return make


@pytest.fixture
def codes() -> torch.Tensor:
    """24 sentences of 1 to 7 words between two special tokens (1 and 2), as (24, 9, 3)."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(24) % 7 + 1
    ids = torch.randint(10, 50, (24, 9), generator=generator)
    at = torch.arange(9).expand(24, 9)
    ids[:, 0], end = 1, lengths[:, None] + 1
    ids = torch.where(at == end, 2, ids)
    attended = at <= end
    special = (at == 0) | (at == end)
    return pack_tokens(
        torch.where(attended, ids, 0), torch.zeros_like(ids), attended, special & attended
    )


@pytest.fixture
def split(codes: torch.Tensor) -> Split:
    """Two classes told apart by the first word's id."""
    return Split(codes, (codes[:, 1, 0] > 30).long(), lambda x: with_room(x, WIDTH))


@pytest.fixture
def loader(split: Split) -> BatchLoader:
    return BatchLoader(split, 12, shuffle=True, seed=0)
