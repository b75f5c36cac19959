"""Turn sentences into the codes that a language model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks import evaluating
from attacks.text import load_pretrained, quiet_transformers
from robustprune.models.language import (
    MINILM,
    no_weights,
    transformers_library,
    weights_source,
)
from robustprune.packing import pack_tokens, with_room


class SentenceTokenizer:
    """A tokenizer that also knows the width of the word embeddings of its model.

    Args:
        weights: as in `language_model`; the tokenizer is stored beside the weights.
        max_length: the largest number of tokens of a sentence or pair, at least 4; the rest is cut
            off.

    Raises:
        FileNotFoundError: the weights are not on this machine and could not be downloaded.
        ValueError: `max_length` is below 4, or the tokenizer has no padding token.
    """

    def __init__(self, weights: str = MINILM, *, max_length: int = 128) -> None:
        if max_length < 4:
            raise ValueError(f"max_length={max_length} must be at least 4 tokens")
        source = weights_source(weights)
        transformers_library()  # says how to install it
        with quiet_transformers():
            try:
                self.tokenizer: Any = load_pretrained("AutoTokenizer", source)
                config: Any = load_pretrained("AutoConfig", source)
            except (OSError, ValueError) as error:
                raise no_weights(weights, error) from error
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of '{weights}' has no padding token; set one")
        self.max_length = max_length
        # in ELECTRA and ALBERT, word embeddings have fewer entries than the layers have units
        self.width = int(getattr(config, "embedding_size", None) or config.hidden_size)

    def __call__(self, first: Sequence[str], second: Sequence[str] | None = None) -> Tensor:
        """Return the codes (N, T, 3) of N sentences or N pairs, where T is the length of the
        longest."""
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
    """Make a function from sentences to logits (N, C) on the CPU, which attacks on text query.

    The model answers in eval mode. Sentences of similar length share a batch, which saves padding;
    the answers come in the order of the sentences.

    Args:
        pairs: whether each string is two sentences with a tab between them; without a tab the
            second sentence is empty.
        amp: whether to use bfloat16 where torch finds it safe. It is three times as fast on
            processors that multiply bfloat16, and answers differ in the third digit. So check what
            an attack found in float32: ``attacks.text.recheck(sentence_classifier(model, encoder),
            results)``.
        batch_size: the number of sentences in one pass; None stands for 16 on a CPU, because more
            do not fit into its caches, and for 64 elsewhere.
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
