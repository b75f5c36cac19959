"""Nearest words in an embedding, such as the token embeddings of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.inputs import check_at_least, check_number
from attacks.text.lexicon import Lexicon


class Neighbours:
    """Words of a vocabulary by cosine, nearest first, as a function of a word.

    Counter-fitted vectors (Mrkšić et al. 2016) separate antonyms; others do not, and a lexicon
    removes antonyms here.

    Args:
        words: the vocabulary, in lower case; of a repeated word, the first one counts.
        vectors: (V, D), one row per word.
        count: largest number of neighbours.
        min_cosine: smallest cosine; 0.7 is the δ of Jin et al. 2020 for counter-fitted vectors.
        lexicon: lexicon whose antonyms are removed; None removes none.

    Raises:
        ValueError: words and vectors do not fit, or an option is out of range.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: Tensor,
        *,
        count: int = 50,
        min_cosine: float = 0.7,
        lexicon: Lexicon | None = None,
    ) -> None:
        if vectors.dim() != 2 or len(vectors) != len(words):
            raise ValueError(
                f"{len(words)} words need vectors of shape ({len(words)}, D), got "
                f"{tuple(vectors.shape)}"
            )
        check_at_least(1, count=count)
        check_number("in [-1, 1], a cosine", min_cosine=min_cosine)
        self.words = tuple(words)
        self.unit = torch.nn.functional.normalize(vectors.detach().float(), dim=1)
        self.count, self.min_cosine, self.lexicon = count, min_cosine, lexicon
        self._row = {word: k for k, word in reversed(list(enumerate(self.words)))}

    def __repr__(self) -> str:
        return f"Neighbours({len(self.words)} words, {self.count}, cosine ≥ {self.min_cosine})"

    def __call__(self, word: str) -> tuple[str, ...]:
        row = self._row.get(word.lower())
        if row is None:
            return ()
        cosine = self.unit @ self.unit[row]
        opposite = self.lexicon.opposites(word) if self.lexicon else frozenset()
        order = cosine.argsort(descending=True, stable=True).tolist()
        found: list[str] = []
        for k in order:
            if len(found) == self.count or cosine[k] < self.min_cosine:
                break
            other = self.words[k]
            if other != word.lower() and other not in opposite and other not in found:
                found.append(other)
        return tuple(found)


def token_vectors(model: Any, tokenizer: Any) -> tuple[list[str], Tensor]:
    """Return the whole words of a WordPiece vocabulary and the model's input embeddings of them.

    Words are tokens of at least two letters a to z; "##…" pieces and special tokens are omitted.

    Args:
        model: a model of transformers, with `get_input_embeddings`.
        tokenizer: its tokenizer, with `get_vocab`.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    kept = [
        (token, k)
        for token, k in vocabulary
        if len(token) > 1 and token.isascii() and token.isalpha() and token.islower()
    ]
    rows = torch.tensor([k for _, k in kept])
    weight: Tensor = model.get_input_embeddings().weight.detach()
    return [token for token, _ in kept], weight[rows.to(weight.device)].cpu()


def first_of(*sources: Callable[[str], Sequence[str]]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that joins the words of all sources in their order, without repeats."""

    def both(word: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(other for source in sources for other in source(word)))

    return both
