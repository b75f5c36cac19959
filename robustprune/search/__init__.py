"""Searches: each a plain function on a user's own module and loader."""

from robustprune.search.finetune import FINETUNE_MODES, FinetuneMode, finetune_ticket
from robustprune.search.initialise import INITS, InitName, initialise, shift_norms
from robustprune.search.scratch_ticket import Ticket, find_scratch_ticket
from robustprune.search.ticket_switch import RandomTicketSwitch

__all__ = [
    "FINETUNE_MODES",
    "INITS",
    "FinetuneMode",
    "InitName",
    "RandomTicketSwitch",
    "Ticket",
    "find_scratch_ticket",
    "finetune_ticket",
    "initialise",
    "shift_norms",
]
