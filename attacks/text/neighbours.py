"""Nearest words in an embedding, such as a model's own token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.inputs import check_at_least, check_number
from attacks.text.lexicon import Lexicon


class Neighbours:
    """Words of a vocabulary by cosine, nearest first: a function of a word.

    Counter-fitted vectors (Mrkšić et al. 2016) keep antonyms apart; plain ones do not, so that a
    lexicon takes them out here.

    Args:
        words: the vocabulary, in lower case; the first of a repeated word counts.
        vectors: (V, D), a row a word.
        count: most neighbours.
        min_cosine: least cosine; 0.7 is the δ of Jin et al. 2020 for counter-fitted vectors.
        lexicon: whose antonyms are left out; None for none.

    Raises:
        ValueError: words and vectors do not fit, or options are out of range.
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
    """Whole words of a WordPiece vocabulary with the model's input embeddings of them.

    Kept are tokens of at least two letters a to z; "##…" pieces and special tokens are not words.

    Args:
        model: of transformers, with `get_input_embeddings`.
        tokenizer: of transformers, with `get_vocab`.
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
    """The words of all sources, those of the first one first, each once."""

    def both(word: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(other for source in sources for other in source(word)))

    return both
