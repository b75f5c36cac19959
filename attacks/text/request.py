"""Requests by which the attack on one sentence gets answers from batches over many sentences.

The search on one sentence is a generator. It yields a `Request` and receives the answer; meanwhile,
`attacks.text.engine` puts its texts into one batch with those of other sentences.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Request(NamedTuple):
    """Texts to classify, which costs one query each, or to embed, which costs none."""

    kind: Literal["classify", "embed"]
    texts: Sequence[str]


T = TypeVar("T")
Search = Generator[Request, Array, T]


def probabilities(texts: Sequence[str]) -> Search[Array]:
    """Yield until class probabilities (m, C) are known; m < len(texts) if the budget is used up."""
    answer = yield Request("classify", texts)
    return answer


def embeddings(texts: Sequence[str]) -> Search[Array]:
    """Yield until the sentence embeddings (n, D) of length 1 are known."""
    answer = yield Request("embed", texts)
    return answer
