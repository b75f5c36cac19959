"""Perplexity of a causal language model on windows of text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.modes import evaluating
from attacks.network import logits_of


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood of a token, given the tokens before it in its window.

    Attributes:
        losses: (windows,) float64, the mean negative log-likelihood per token of each window, in
            nats.
        tokens: number of predicted tokens per window; the first token of a window is not predicted.
    """

    losses: Tensor
    tokens: int

    @property
    def value(self) -> float:
        """Return the perplexity over all windows; infinite where it exceeds the largest float."""
        return _exp(float(self.losses.mean()))

    def interval(
        self, level: float = 0.95, *, draws: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """Return a bootstrap interval of `value` over windows: percentiles of `draws` resamples.

        It covers the choice of windows of the same text, not the choice of the text.
        """
        return _interval(self.losses, level, draws, seed)

    def ratio(self, other: Perplexity) -> float:
        """Return how many times the perplexity of `other` it is; NaN where both are infinite.

        Raises:
            ValueError: the two are of different numbers of windows.
        """
        return _exp(float(self._apart(other).mean()))

    def ratio_interval(
        self, other: Perplexity, level: float = 0.95, *, draws: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """Return a bootstrap interval of `ratio`. The windows are paired: a resample takes the same
        ones of both, so that windows which are hard for both do not widen it.

        Raises:
            ValueError: the two are of different numbers of windows.
        """
        return _interval(self._apart(other), level, draws, seed)

    def _apart(self, other: Perplexity) -> Tensor:
        if len(self.losses) != len(other.losses):
            raise ValueError(
                f"one perplexity is of {len(self.losses)} windows and the other of "
                f"{len(other.losses)}; measure both on the same windows"
            )
        return self.losses - other.losses


def check_windows(windows: Tensor) -> None:
    """Check that there is a token to predict.

    Raises:
        ValueError: windows are not (N, T) with N ≥ 1 and T ≥ 2.
    """
    if windows.ndim != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise ValueError(
            f"windows must be (N, T) with N at least 1 and T at least 2, got {tuple(windows.shape)}"
        )


def _interval(losses: Tensor, level: float, draws: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(losses), (draws, len(losses)), generator=generator)
    means = losses[chosen].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return _exp(low), _exp(high)


def _exp(loss: float) -> float:
    return math.inf if loss >= 700 else math.exp(loss)  # NaN stays NaN


def next_token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return −log p of each token, in nats: logits (N, T, words), tokens (N, T) -> (N, T)."""
    return F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")


@torch.no_grad()
def perplexity(model: nn.Module, windows: Tensor, *, batch_size: int = 16) -> Perplexity:
    """Predict each token of each window from the tokens before it.

    Args:
        model: a causal language model: (N, T) token ids -> logits (N, T, vocabulary), or an object
            with `logits`.
        windows: (N, T) int64, T at least 2.

    Raises:
        ValueError: windows have another shape, or logits are NaN.
    """
    check_windows(windows)
    where = next(model.parameters()).device
    losses = []
    with evaluating(model):
        for batch in torch.split(windows, batch_size):
            batch = batch.to(where)
            logits = logits_of(model, batch)[:, :-1]
            loss = next_token_losses(logits, batch[:, 1:])
            losses.append(loss.double().mean(1).cpu())
    found = torch.cat(losses)
    if bool(found.isnan().any()):
        raise ValueError("the model's logits are NaN; look at its weights and its number format")
    return Perplexity(found, windows.shape[1] - 1)
