"""What a causal language model thinks of given continuations, and how it goes on by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.inputs import check_at_least
from attacks.modes import evaluating
from attacks.network import logits_of


@dataclass(frozen=True)
class Continuations:
    """What a model thinks of N continuations of N prompts.

    Attributes:
        log_likelihood: (N,) float64, Σ log p of the continuation's tokens, in nats.
        tokens: (N,) int64, their numbers.
        greedy: (N,) bool, whether the model, always taking its most probable token, would say
            exactly this continuation.
    """

    log_likelihood: Tensor
    tokens: Tensor
    greedy: Tensor

    @property
    def per_token(self) -> Tensor:
        """(N,) the mean log-likelihood of a token."""
        return self.log_likelihood / self.tokens


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU where it has none."""
    return next((one.device for one in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def judge_continuations(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
) -> Continuations:
    """Compute the likelihood of each continuation after its prompt, in one pass each.

    Args:
        model: a causal language model: (N, T) token ids -> logits (N, T, vocabulary), or an object
            with `logits`.
        prompts, continuations: N sequences of token ids, each with at least one token.

    Raises:
        ValueError: a prompt or continuation is empty, numbers differ, `batch_size` is below 1, or
            logits are NaN.
    """
    check_at_least(1, batch_size=batch_size)
    rows = [([*map(int, p)], [*map(int, c)]) for p, c in zip(prompts, continuations, strict=True)]
    if not rows or not all(p and c for p, c in rows):
        raise ValueError("every prompt and every continuation needs at least one token")
    where = device_of(model)
    found: list[tuple[float, bool]] = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            longest = max(len(p) + len(c) for p, c in part)
            # tokens after the end change nothing before them
            filled = [p + c + [c[-1]] * (longest - len(p) - len(c)) for p, c in part]
            logits = logits_of(model, torch.tensor(filled, device=where)).double().cpu()
            if bool(logits.isnan().any()):
                raise ValueError("the model's logits are NaN; look at its weights")
            for row, (p, c) in enumerate(part):
                own = logits[row, len(p) - 1 : len(p) + len(c) - 1]
                ids = torch.tensor(c)
                log_p = own.log_softmax(1).gather(1, ids[:, None]).sum()
                found.append((float(log_p), bool((own.argmax(1) == ids).all())))
    likelihoods, greedy = zip(*found, strict=True)
    return Continuations(
        torch.tensor(likelihoods, dtype=torch.float64),
        torch.tensor([len(c) for _, c in rows]),
        torch.tensor(greedy),
    )


@torch.no_grad()
def greedy_continuations(model: nn.Module, prompts: Tensor, number: int) -> Tensor:
    """Return the `number` most probable tokens, one after another, after each prompt.

    No cache is used, so that any model with logits will do; the time grows with number².

    Args:
        model: as in `judge_continuations`.
        prompts: (N, T) int64.

    Returns:
        (N, number) int64, on the CPU.

    Raises:
        ValueError: `number` is below 1.
    """
    check_at_least(1, number=number)
    ids = prompts.to(device_of(model))
    with evaluating(model):
        for _ in range(number):
            following = logits_of(model, ids)[:, -1].argmax(1, keepdim=True)
            ids = torch.cat([ids, following], dim=1)
    return ids[:, prompts.shape[1] :].cpu()
