"""R2S: answer each query with a scratch ticket drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attacks.network import logits_of


class RandomTicketSwitch(nn.Module):
    """Random robust scratch ticket switch (arXiv 2110.14068, Sec. 4).

    Each example of a batch is a query of its own: it is answered by one of the tickets, drawn
    uniformly. The published evaluation lets the attacker draw tickets independently, without
    knowledge of the others; that is not an adaptive attack. Use `expected_logits` for one.

    Args:
        tickets: networks with equal outputs, typically tickets of several densities from the same
            random weights.
        seed: of the draws; each forward pass draws anew.

    Raises:
        ValueError: fewer than two tickets.
    """

    def __init__(self, tickets: Sequence[nn.Module], *, seed: int = 0) -> None:
        super().__init__()
        if len(tickets) < 2:
            raise ValueError(f"switching needs at least two tickets, got {len(tickets)}")
        self.tickets = nn.ModuleList(tickets)
        self.generator = torch.Generator().manual_seed(seed)

    def __getstate__(self) -> dict[str, Any]:
        """Copies go on drawing from where this switch stands, each by itself."""
        return {**vars(self), "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"])
        self.__dict__.update(state, generator=generator)

    def draw(self, number: int) -> Tensor:
        """Tickets for `number` queries: (number,) indices."""
        return torch.randint(len(self.tickets), (number,), generator=self.generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of x (N, ...), each row by its own drawn ticket."""
        return self.answer(x, self.draw(len(x)))

    def answer(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Logits of x where example i is answered by ticket `drawn[i]`."""
        where = [(drawn == t).nonzero().flatten().to(x.device) for t in range(len(self.tickets))]
        parts = [
            logits_of(ticket, x[index])
            for ticket, index in zip(self.tickets, where, strict=True)
            if len(index)
        ]
        if not parts:  # no queries: no answers, of the right width
            return logits_of(self.tickets[0], x)
        order = torch.cat([index for index in where if len(index)])
        return torch.cat(parts)[torch.argsort(order)]

    def all_logits(self, x: Tensor) -> Tensor:
        """Every ticket's logits: (tickets, N, C)."""
        return torch.stack([logits_of(ticket, x) for ticket in self.tickets])

    def expected_logits(self, x: Tensor) -> Tensor:
        """Mean logits over all tickets, (N, C): what an adaptive attacker differentiates."""
        return self.all_logits(x).mean(0)

    def expected_log_probabilities(self, x: Tensor, *, draws: int) -> Tensor:
        """Expectation over transformation (EOT, arXiv 1707.07397): the log of the mean
        probabilities over `draws` sampled answers to each query, (N, C)."""
        answers = torch.stack([self(x).log_softmax(1) for _ in range(draws)])
        return torch.logsumexp(answers, 0) - torch.log(torch.tensor(float(draws)))
