"""How an attack on one sentence asks for what is computed in batches over many sentences.

The search on one sentence is a generator.  It yields a `Request` and is sent the answer; in
between, `attacks.text.engine` has put its texts into one batch with those of other sentences.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Request(NamedTuple):
    """Texts to classify, which costs a query each, or to embed, which costs none."""

    kind: Literal["classify", "embed"]
    texts: Sequence[str]


T = TypeVar("T")
Search = Generator[Request, Array, T]


def probabilities(texts: Sequence[str]) -> Search[Array]:
    """Class probabilities (m, C) of the first m texts; m < len(texts) once the budget is spent."""
    answer = yield Request("classify", texts)
    return answer


def embeddings(texts: Sequence[str]) -> Search[Array]:
    """Unit-length sentence embeddings (n, D)."""
    answer = yield Request("embed", texts)
    return answer
