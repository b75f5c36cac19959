"""Measure the robustness of a random ticket switch, by the published attack and by adaptive
ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attacks import Attack
from attacks.modes import attacking
from attacks.returned import attacked as attacked_by
from robustprune.search.ticket_switch import RandomTicketSwitch


@dataclass(frozen=True)
class SwitchOutcome:
    """The share of tickets that answer each of N examples correctly, (N,) in [0, 1]. This is the
    exact probability of a correct answer over the switch's own draw, without sampling noise.

    Attributes:
        clean: the share without a perturbation.
        independent: the attacker draws one ticket per example and attacks that one
            (arXiv 2110.14068, Sec. 4). Not adaptive.
        adaptive: the attacker follows the gradient of the expected logits of all tickets.
        eot: the attacker follows the gradient averaged over new random draws at each step.
    """

    clean: Tensor
    independent: Tensor
    adaptive: Tensor
    eot: Tensor

    @property
    def worst(self) -> Tensor:
        """The lower of adaptive and EOT for each example, which an attacker who knows the switch
        reaches. The independent attack is left out on purpose, because it is weaker."""
        return torch.minimum(self.adaptive, self.eot)


def evaluate_switch(
    switch: RandomTicketSwitch,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    draws: int = 10,
    batch_size: int,
) -> SwitchOutcome:
    """Attack the switch in three ways with the same `attack`.

    Args:
        x: (N, ...), y: (N,); on the tickets' device.
        attack: an attack such as PGD; each way gives it another forward function.
        draws: the number of sampled answers per step of the EOT attack.
    """
    parts: dict[str, list[Tensor]] = {k: [] for k in ("clean", "independent", "adaptive", "eot")}
    with attacking(switch):
        for start in range(0, len(y), batch_size):
            xs, ys = x[start : start + batch_size], y[start : start + batch_size]
            for name, attacked in (
                ("clean", xs),
                ("independent", _one_ticket_each(switch, attack, xs, ys)),
                ("adaptive", attacked_by(attack, switch.expected_logits, xs, ys)),
                (
                    "eot",
                    attacked_by(
                        attack, partial(switch.expected_log_probabilities, draws=draws), xs, ys
                    ),
                ),
            ):
                parts[name].append(_share_right(switch, attacked, ys))
    return SwitchOutcome(**{name: torch.cat(part) for name, part in parts.items()})


def _one_ticket_each(switch: RandomTicketSwitch, attack: Attack, x: Tensor, y: Tensor) -> Tensor:
    """Attack each example on a ticket that the attacker draws for it."""
    drawn, attacked = switch.draw(len(y)).to(x.device), x.clone()
    for index, ticket in enumerate(switch.tickets):
        mine = drawn == index
        if bool(mine.any()):
            attacked[mine] = attacked_by(attack, ticket, x[mine], y[mine])
    return attacked


@torch.no_grad()
def _share_right(switch: RandomTicketSwitch, x: Tensor, y: Tensor) -> Tensor:
    return (switch.all_logits(x).argmax(2) == y).float().mean(0).cpu()
