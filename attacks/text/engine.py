"""Advance many sentences at the same time, so that every call of the classifier is a full batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic

import numpy as np
import torch
from torch import Tensor

from attacks.text.request import Array, Request, Search, T
from attacks.text.result import Classify, logits_for

#: texts -> sentence embeddings (n, D)
Embed = Callable[[list[str]], Tensor]


@dataclass
class _Slot(Generic[T]):
    """A sentence whose search is not finished."""

    index: int
    search: Search[T]
    request: Request
    left: int | None  # number of queries that are left in the budget
    queries: int = 0
    known: dict[str, Array] = field(default_factory=dict)  # answers; no text is queried twice

    def unknown(self) -> list[str]:
        """Return the request's texts that must be queried, up to the budget."""
        fresh = dict.fromkeys(text for text in self.request.texts if text not in self.known)
        return list(fresh)[: self.left]

    def answer(self) -> Array | None:
        """Return the known rows of the request, up to the first unknown one; None for none."""
        rows = []
        for text in self.request.texts:
            if text not in self.known:
                break
            rows.append(self.known[text])
        return np.stack(rows) if rows else None


def drive(
    searches: Iterable[Search[T]],
    classify: Classify,
    embed: Embed | None,
    *,
    batch_size: int,
    budget: int | None,
) -> Iterator[tuple[int, T, int]]:
    """Run the searches at the same time and yield (index, outcome, queries) as each one ends.

    At most `batch_size` searches are open, each waiting for at least one text, so that batches are
    full until the last sentences. The texts of a round are sorted by length before they are divided
    into batches, because padding costs as much as words.

    A request beyond the budget is cut to the rest of the budget, and its answer is shorter then.
    """
    waiting = enumerate(searches)
    slots: list[_Slot[T]] = []
    classes = 1  # number of columns of an empty answer, until the classifier has answered
    while True:
        for index, search in islice(waiting, batch_size - len(slots)):
            slots.append(_Slot(index, search, next(search), budget))
        if not slots:
            return
        asked = {slot.index: slot.unknown() for slot in slots if slot.request.kind == "classify"}
        texts = [text for part in asked.values() for text in part]
        rows = iter(_in_batches(texts, lambda part: _probabilities(classify, part), batch_size))
        for slot in slots:
            for text in asked.get(slot.index, ()):
                slot.known[text] = next(rows)
                classes = len(slot.known[text])
                slot.queries += 1
        embedded = [slot for slot in slots if slot.request.kind == "embed"]
        texts = [text for slot in embedded for text in slot.request.texts]
        vectors = iter(_in_batches(texts, lambda part: _unit(embed, part), batch_size))
        still = []
        for slot in slots:
            if slot.request.kind == "embed":
                reply = np.stack([next(vectors) for _ in slot.request.texts])
            else:
                if slot.left is not None:
                    slot.left -= len(asked[slot.index])
                known = slot.answer()
                reply = np.empty((0, classes)) if known is None else known
            try:
                slot.request = slot.search.send(reply)
            except StopIteration as end:
                yield slot.index, end.value, slot.queries
            else:
                still.append(slot)
        slots = still


def _in_batches(
    texts: list[str], function: Callable[[list[str]], Array], batch_size: int
) -> list[Array]:
    """Return one row of the function's answer for every text, in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    rows: list[Array] = [np.empty(0)] * len(texts)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        for k, row in zip(part, function([texts[k] for k in part]), strict=True):
            rows[k] = row
    return rows


@torch.no_grad()
def _probabilities(classify: Classify, texts: list[str]) -> Array:
    p: Array = logits_for(classify, texts).double().softmax(1).cpu().numpy()
    return p


@torch.no_grad()
def _unit(embed: Embed | None, texts: list[str]) -> Array:
    assert embed is not None, "a search embeds only where the attack has an embedding"
    vectors = embed(texts)
    if vectors.dim() != 2 or len(vectors) != len(texts):
        raise ValueError(
            f"embed answered {tuple(vectors.shape)} for {len(texts)} texts; it must return "
            f"({len(texts)}, D)"
        )
    unit: Array = torch.nn.functional.normalize(vectors.double(), dim=1).cpu().numpy()
    return unit
