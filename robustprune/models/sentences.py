"""From sentences to the codes that a language model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks import evaluating
from attacks.text import load_pretrained
from robustprune.models.language import (
    MINILM,
    no_weights,
    quiet_transformers,
    weights_source,
)
from robustprune.view import pack_tokens, with_room


class SentenceTokenizer:
    """A tokenizer with the width of its model's word embeddings.

    Args:
        weights: as `language_model` takes them: the tokenizer lies beside the weights.
        max_length: tokens of a sentence (or pair); what is longer is cut.

    Raises:
        FileNotFoundError: no such weights here, and none could be downloaded.
        ValueError: max_length below 4, or a tokenizer that cannot tell special tokens.
    """

    def __init__(self, weights: str = MINILM, *, max_length: int = 128) -> None:
        if max_length < 4:
            raise ValueError(f"max_length={max_length} must be at least 4 tokens")
        source = weights_source(weights)
        with quiet_transformers():
            try:
                self.tokenizer: Any = load_pretrained("AutoTokenizer", source)
                config: Any = load_pretrained("AutoConfig", source)
            except (OSError, ValueError) as error:
                raise no_weights(weights, error) from error
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of '{weights}' has no padding token; set one")
        self.max_length = max_length
        # ELECTRA and ALBERT embed words in fewer numbers than their layers have
        self.width = int(getattr(config, "embedding_size", None) or config.hidden_size)

    def __call__(self, first: Sequence[str], second: Sequence[str] | None = None) -> Tensor:
        """Codes (N, T, 3) of N sentences, or of N pairs, T the longest of them."""
        found = self.tokenizer(
            list(first),
            None if second is None else list(second),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        ids = found["input_ids"]
        segments = found.get("token_type_ids", torch.zeros_like(ids))
        return pack_tokens(ids, segments, found["attention_mask"], found["special_tokens_mask"])


def sentence_classifier(
    model: nn.Module,
    encoder: SentenceTokenizer,
    *,
    pairs: bool = False,
    amp: bool = False,
    batch_size: int | None = None,
) -> Callable[[Sequence[str]], Tensor]:
    """sentences -> logits (N, C) on the CPU, in eval mode: what attacks on text query.

    Sentences of equal length go together, so that a batch is hardly padded; the answers come in
    the order of the sentences.

    Args:
        pairs: each string is two sentences with a tab between; without one the second is empty.
        amp: bfloat16 where torch finds it safe: on processors that multiply it three times as
            fast, with answers that differ in the third digit. Ask about what an attack found again
            in float32: ``attacks.text.recheck(sentence_classifier(model, encoder), results)``.
        batch_size: sentences in one pass; None for 16 on a CPU, whose caches hold no more, and 64
            elsewhere.
    """

    def codes_of(sentences: Sequence[str]) -> Tensor:
        if not pairs:
            return encoder(sentences)
        halves = [sentence.partition("\t") for sentence in sentences]
        return encoder([first for first, _, _ in halves], [second for _, _, second in halves])

    @torch.no_grad()
    def classify(sentences: Sequence[str]) -> Tensor:
        codes = codes_of(sentences)
        device = next(model.parameters()).device
        order = codes[:, :, 2].gt(0).sum(1).argsort(stable=True)
        size = batch_size or (16 if device.type == "cpu" else 64)
        with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            parts = [
                model(with_room(codes[index], 0).to(device)).float().cpu()
                for index in torch.split(order, size)
            ]
        return torch.cat(parts)[order.argsort()]

    return classify
