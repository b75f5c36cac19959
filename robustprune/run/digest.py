"""The digest in the name of a run directory, computed from what its config changes in the
defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Tree = Mapping[str, Any]

#: must be increased when a default changes, because a digest would then mean something else
_VERSION = 2

#: the sections and options of the first version, in which the digest was computed from all of them
_FIRST = {
    "task": "name path bounds length missing label max_length by_length batch_size augment "
    "validation",
    "model": "name options",
    "threat": "norm eps",
    "inner": "attack steps step_size mode warmup synonyms synonyms_by",
    "natural": "epochs optimizer",
    "adversarial": "epochs optimizer",
    "objective": "name beta sigma replays kappa",
    "selection": "method keep balanced weighted start every clean_rest values pool_steps "
    "neighbours permutations",
    "loop": "average patience amp channels_last compile",
    "search": "epochs optimizer methods density pattern allocate dense weights init fan_scaling "
    "bias_scale thresholds",
    "admm": "epochs optimizer weights l1 rho rho_growth rho_max every",
    "scores": "epochs optimizer weights",
    "lottery": "epochs optimizer rounds rewind controls",
    "language": "epochs optimizer weights granularity penalty kept spread reset finetune controls",
    "one_shot": "weights batches",
    "finetune": "epochs optimizer modes init",
    "evaluation": "examples batch_size steps step_size restarts curve more minimal switch text "
    "sentences queries masked_lm",
    "certify": "method examples sigma synonyms n0 n alpha",
    "deploy": "int8",
}
_FIRST_OPTIMIZER = "name lr momentum weight_decay schedule milestones warmup"


def digest(tree: Tree, defaults: Tree) -> str:
    """Return eight hex digits of what differs between `tree` and `defaults`. So a new option or
    section at its default does not rename old runs."""
    return _digits({"version": _VERSION, "config": _changed(tree, defaults)})


def digest_v1(tree: Tree, defaults: Tree) -> str:
    """Return the digest of the first version: of all its options, at their defaults or not. Later
    options count if they are set."""
    found: dict[str, Any] = {}
    for section, value in tree.items():
        if not isinstance(value, dict):
            found[section] = value
        elif section in _FIRST or value != defaults[section]:
            options = _known(value, defaults[section], _FIRST.get(section, ""))
            if "optimizer" in options:
                default = defaults[section]["optimizer"]
                options["optimizer"] = _known(options["optimizer"], default, _FIRST_OPTIMIZER)
            found[section] = options
    return _digits(found)


def _known(options: Tree, defaults: Tree, names: str) -> dict[str, Any]:
    """Return the options of the first version, and later ones that are not at their defaults."""
    known = names.split()
    return {k: value for k, value in options.items() if k in known or value != defaults[k]}


def _changed(tree: Tree, defaults: Tree) -> dict[str, Any]:
    """Return what differs, as a tree of the same form."""
    found = {}
    for key, value in tree.items():
        if key not in defaults:
            found[key] = value
        elif value != defaults[key]:
            both = isinstance(value, dict) and isinstance(defaults[key], dict)
            found[key] = _changed(value, defaults[key]) if both else value
    return found


def _digits(described: Tree) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
