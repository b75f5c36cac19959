"""Windows of text: rows with the same number of tokens, which all begin with BOS."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


def windows(tokens: Sequence[int], length: int, *, bos: int) -> Tensor:
    """Cut a text into consecutive windows of BOS and `length` − 1 tokens.

    Tokens at the end that do not fill a window are left out.

    Args:
        tokens: the tokens of the whole text, without BOS.
        length: number of tokens in a window, including BOS.
        bos: the id of the token that begins a text.

    Returns:
        (windows, length) int64.

    Raises:
        ValueError: the text is too short for one window.
    """
    inner = _inner(tokens, length)
    whole = torch.tensor(tokens[: len(tokens) // inner * inner]).view(-1, inner)
    return _begun(whole, bos)


def random_windows(
    tokens: Sequence[int], length: int, number: int, *, bos: int, seed: int = 0
) -> Tensor:
    """Draw windows of BOS and `length` − 1 consecutive tokens at random positions of a text.

    They serve as calibration data, and may overlap. The positions are
    `random.Random(seed).randint(0, len(tokens) − length)`, one after another.

    Args:
        number: the number of windows, at least 1.

    Returns:
        (number, length) int64.

    Raises:
        ValueError: the text is too short for one window, or `number` is below 1.
    """
    inner = _inner(tokens, length)
    if number < 1:
        raise ValueError(f"number={number} must be at least 1, in windows")
    draw = random.Random(seed)
    starts = [draw.randint(0, max(len(tokens) - length, 0)) for _ in range(number)]
    return _begun(torch.tensor([list(tokens[s : s + inner]) for s in starts]), bos)


def next_token_batches(rows: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Return windows as training batches (x, y): x are all tokens but the last, (N, T − 1), and y
    the tokens after them."""
    return [(part[:, :-1], part[:, 1:]) for part in torch.split(rows, batch_size)]


def _inner(tokens: Sequence[int], length: int) -> int:
    if length < 2:
        raise ValueError(f"length={length} must be at least 2: BOS and one token")
    if len(tokens) < length - 1:
        raise ValueError(
            f"the text has {len(tokens)} tokens, and a window needs {length - 1} besides BOS; give "
            "a longer text or a shorter window"
        )
    return length - 1


def _begun(rows: Tensor, bos: int) -> Tensor:
    return torch.cat([torch.full((len(rows), 1), bos), rows], dim=1)
