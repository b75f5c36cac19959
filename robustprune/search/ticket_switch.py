"""R2S: a scratch ticket that is drawn at random answers each query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks.network import logits_of


class RandomTicketSwitch(nn.Module):
    """The random robust scratch ticket switch, R2S (arXiv 2110.14068, Sec. 4).

    Each example of a batch is one query, which one of the tickets, drawn uniformly, answers. In the
    published evaluation the attacker draws tickets independently and does not know the others. That
    is not an adaptive attack; use `expected_logits` for one.

    Args:
        tickets: networks with outputs of equal shape, typically tickets of several densities from
            the same random weights.
        seed: the seed of the draws; each forward pass draws again.

    Raises:
        ValueError: there are fewer than two tickets.
    """

    def __init__(self, tickets: Sequence[nn.Module], *, seed: int = 0) -> None:
        super().__init__()
        if len(tickets) < 2:
            raise ValueError(f"switching needs at least two tickets, got {len(tickets)}")
        self.tickets = nn.ModuleList(tickets)
        self.generator = torch.Generator().manual_seed(seed)

    def __getstate__(self) -> dict[str, Any]:
        """Make copies that continue with this switch's random numbers, independently of it."""
        return {**vars(self), "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"])
        self.__dict__.update(state, generator=generator)

    def draw(self, number: int) -> Tensor:
        """Draw tickets for `number` queries: (number,) indices."""
        return torch.randint(len(self.tickets), (number,), generator=self.generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C) of x (N, ...), where each row is answered by its own random
        ticket."""
        return self.answer(x, self.draw(len(x)))

    def answer(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Return the logits of x, where ticket `drawn[i]` answers example i."""
        where = [(drawn == t).nonzero().flatten().to(x.device) for t in range(len(self.tickets))]
        parts = [
            logits_of(ticket, x[index])
            for ticket, index in zip(self.tickets, where, strict=True)
            if len(index)
        ]
        if not parts:  # without queries there are no answers, but of the right width
            return logits_of(self.tickets[0], x)
        order = torch.cat([index for index in where if len(index)])
        return torch.cat(parts)[torch.argsort(order)]

    def all_logits(self, x: Tensor) -> Tensor:
        """Return the logits of every ticket, (tickets, N, C)."""
        return torch.stack([logits_of(ticket, x) for ticket in self.tickets])

    def expected_logits(self, x: Tensor) -> Tensor:
        """Return the mean logits over all tickets, (N, C), for an adaptive attacker's gradient."""
        return self.all_logits(x).mean(0)

    def expected_log_probabilities(self, x: Tensor, *, draws: int) -> Tensor:
        """Return the log of the mean probabilities over `draws` sampled answers to each query,
        (N, C), for expectation over transformation (EOT, arXiv 1707.07397)."""
        answers = torch.stack([self(x).log_softmax(1) for _ in range(draws)])
        return torch.logsumexp(answers, 0) - torch.log(torch.tensor(float(draws)))
