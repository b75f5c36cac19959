"""Searches for sparse networks. Each is a plain function of the user's own module and loader."""

from robustprune.search.admm import prune_admm
from robustprune.search.controls import CONTROLS, ControlName, train_control
from robustprune.search.finetune import FINETUNE_MODES, FinetuneMode, finetune_ticket
from robustprune.search.gradual import prune_gradual
from robustprune.search.initialise import INITS, InitName, draw_thresholds, initialise
from robustprune.search.l0 import prune_l0
from robustprune.search.language_ticket import LanguageTicket, find_language_ticket
from robustprune.search.lottery import LotteryTicket, find_lottery_ticket
from robustprune.search.one_shot import prune_one_shot
from robustprune.search.pools import pool_tickets
from robustprune.search.scores import SCORE_METHODS, ScoreMethod, prune_scores
from robustprune.search.scratch_ticket import find_scratch_ticket
from robustprune.search.sparse_methods import SPARSE_METHODS, SparseMethod
from robustprune.search.sparse_training import train_sparse
from robustprune.search.sparse_work import training_work
from robustprune.search.ticket import Ticket
from robustprune.search.ticket_switch import RandomTicketSwitch
from robustprune.search.twin import prune_twin
from robustprune.search.woodfisher import prune_woodfisher

__all__ = [
    "CONTROLS",
    "FINETUNE_MODES",
    "INITS",
    "SCORE_METHODS",
    "SPARSE_METHODS",
    "ControlName",
    "FinetuneMode",
    "InitName",
    "LanguageTicket",
    "LotteryTicket",
    "RandomTicketSwitch",
    "ScoreMethod",
    "SparseMethod",
    "Ticket",
    "draw_thresholds",
    "find_language_ticket",
    "find_lottery_ticket",
    "find_scratch_ticket",
    "finetune_ticket",
    "initialise",
    "pool_tickets",
    "prune_admm",
    "prune_gradual",
    "prune_l0",
    "prune_one_shot",
    "prune_scores",
    "prune_twin",
    "prune_woodfisher",
    "train_control",
    "train_sparse",
    "training_work",
]
