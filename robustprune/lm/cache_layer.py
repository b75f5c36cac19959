"""One layer of a cache that evicts: keys, values, and the attention that each token got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from robustprune.lm.eviction import Eviction, Held, chosen
from robustprune.lm.kv_bits import BITS, Rows, quantise, restore
from robustprune.lm.merging import Merging
from robustprune.lm.rotary import Rotary


class EvictingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer; between two calls at most `rule.size` tokens are held.

    `scores`, `queries` and `positions`, (N, H, n), are those of `robustprune.lm.eviction.Held`.
    """

    is_croppable = False  # evicted tokens can't come back

    def __init__(
        self,
        rule: Eviction,
        *,
        bits: int | None = None,
        merging: Merging | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if bits is not None and bits not in BITS:
            raise ValueError(f"bits={bits!r} must be 4, 8, or None")
        self.rule, self.bits, self.merging, self.rotary = rule, bits, merging, rotary
        self._clear()

    def _clear(self) -> None:
        self.seen = self.length = self.noted = 0
        self._rows: tuple[Rows, Rows] | None = None
        self.scores = self.queries = torch.zeros(0, 0, 0)
        self.positions = torch.zeros(0, 0, 0, dtype=torch.long)
        self.newest = torch.zeros(0, 1, 1, dtype=torch.long)  # place of the last token, held or not

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the tokens of a call and return all keys and values, (N, H, n, d).

        Raises:
            RuntimeError: nobody has shown the attention of the last call.
        """
        if self.noted != self.seen:
            raise RuntimeError(
                "a cache with eviction needs to see the attention: use it inside `with "
                "evicting(model, …)`, and `reset()` it after an interrupted call"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._rows is not None:
            self.keys, self.values = (restore(rows) for rows in self._rows)
            self._rows = None
        if self.seen == 0:
            self.length = key_states.shape[-2]
        self.seen += key_states.shape[-2]
        keys, values = super().update(key_states, value_states)
        return self._at_their_places(keys), values

    def _at_their_places(self, keys: Tensor) -> Tensor:
        """Return keys turned to their places within the cache, as seen from the newest token."""
        if self.rotary is None or self.noted == 0:
            return keys
        new = keys.shape[-2] - self.positions.shape[-1]
        gaps = self.newest - self.positions  # in the text
        places = torch.arange(self.positions.shape[-1] - 1, -1, -1, device=keys.device)
        by = (gaps - places).masked_fill(self.positions < 0, 0)
        return self.rotary.turned(keys, F.pad(by, (0, new)))

    def observe(self, attention: Tensor, mask: Tensor | None) -> None:
        """Take note of the attention of a call, and evict.

        Args:
            attention: (N, query heads, q, n).
            mask: what queries could see, (N or 1, 1, q, n), boolean or added to the logits; None
                for everything before them.
        """
        if self.noted == self.seen:
            return  # two contexts are open at once
        assert self.keys is not None
        assert self.values is not None
        prompt = self.noted == 0
        self.noted = self.seen
        N, H, n, _ = self.keys.shape
        q = attention.shape[-2]
        pads = _padding(mask, N, n, attention.device)
        real = ~pads[:, n - q :]
        shown = attention.detach().float().view(N, H, -1, q, n) * real[:, None, None, :, None]
        self._make_room(real, H)
        later = real.flip(1).cumsum(1).flip(1)  # queries from each new token on, its own included
        asked = torch.cat([later[:, :1].expand(N, n - q), later], dim=1)
        self.queries = self.queries + asked.unsqueeze(1)
        self.scores = self.scores + shown.sum((2, 3))
        held = Held(
            self.keys, self.values, self.scores, self.queries, self.positions, shown, self.length,
            prompt,
        )  # fmt: skip
        kept = chosen(self.rule, held)
        if kept is not None:
            self._keep(kept)
        if self.bits is not None:
            self._rows = quantise(self.keys, self.bits), quantise(self.values, self.bits)
            self.keys, self.values = (part[:, :, :0].clone() for part in (self.keys, self.values))

    def _make_room(self, real: Tensor, heads: int) -> None:
        """Lengthen the notes by the tokens of a call; `real`, (N, q), says which are no padding."""
        N, q = real.shape
        if self.newest.shape[0] == 0:
            self.newest = torch.full((N, 1, 1), -1, device=real.device)
            self.positions = self.newest.new_zeros(N, heads, 0)
            self.scores = self.queries = torch.zeros(N, heads, 0, device=real.device)
        after = self.newest + real.cumsum(1).unsqueeze(1)
        places = torch.where(real.unsqueeze(1), after, -1).expand(N, heads, q)
        self.newest = after[..., -1:]
        self.positions = torch.cat([self.positions, places], dim=-1)
        self.scores, self.queries = (F.pad(part, (0, q)) for part in (self.scores, self.queries))

    def _keep(self, kept: Tensor) -> None:
        assert self.keys is not None
        assert self.values is not None
        where = kept.unsqueeze(-1)
        if self.merging is None:
            values = self.values.take_along_dim(where, dim=2)
        else:
            values = self.merging.merged(self.values, self.scores, kept, self.positions >= 0)
        self.values = values
        self.keys = self.keys.take_along_dim(where, dim=2)
        self.scores, self.queries, self.positions = (
            part.take_along_dim(kept, dim=2) for part in (self.scores, self.queries, self.positions)
        )

    def get_seq_length(self) -> int:
        """Return the number of tokens seen so far, evicted ones included."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens the next call attends to, and how many were evicted."""
        held = self.positions.shape[-1]
        return held + query_length, self.seen - held

    @property
    def nbytes(self) -> int:
        """Return how many bytes keys and values hold in memory."""
        parts = [part for part in (self.keys, self.values) if part is not None]
        for rows in self._rows or ():
            parts += [rows.codes, rows.low, rows.step]
        return sum(part.untyped_storage().nbytes() for part in parts)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._clear()
        if self.merging is not None:
            self.merging.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse, because evicted tokens can't come back."""
        raise NotImplementedError(
            "a cache with eviction can't go back; generate without an assistant model"
        )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the sequences of a beam search in another order."""
        self._of_each(lambda part: part.index_select(0, beam_idx.to(part.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self._of_each(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        self._of_each(lambda part: part[indices])

    def _of_each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.seen == 0:
            return
        for name in ("keys", "values", "scores", "queries", "positions", "newest"):
            setattr(self, name, change(getattr(self, name)))
        if self._rows is not None:
            first, second = (
                Rows(change(rows.codes), change(rows.low), change(rows.step), *rows[3:])
                for rows in self._rows
            )
            self._rows = first, second


def _padding(mask: Tensor | None, sequences: int, tokens: int, device: torch.device) -> Tensor:
    """Return which tokens the last query can't see, (N, n): they are padding."""
    if mask is None:
        return torch.zeros(sequences, tokens, dtype=torch.bool, device=device)
    last = mask[:, 0, -1, :tokens]
    hidden = ~last if last.dtype == torch.bool else last < 0
    return hidden.expand(sequences, tokens)
