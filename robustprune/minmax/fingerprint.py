"""The fingerprint of a call says to which call a checkpoint belongs: all that decides the
result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import nn

from robustprune.minmax.batches import Batches
from robustprune.minmax.constraint import Callback
from robustprune.minmax.optimizers import OptimizerLike
from robustprune.minmax.options import Validation
from robustprune.minmax.result import Objective
from robustprune.minmax.resume import Checkpoint
from robustprune.run.fingerprint import described

P = ParamSpec("P")
T = TypeVar("T")

#: arguments that do not change the result, except by rounding
_ASIDE = ("checkpoint", "device", "title", "quiet", "on_epoch", "compile", "channels_last")
#: options of the loop that change the result, with their defaults
_LOOP: Mapping[str, object] = {"validation": None, "average": None, "amp": False}
#: options that were added later -> the value at which older checkpoints are still valid
_LATER: Mapping[str, Mapping[str, object]] = {
    "prune_admm": {"seed": 0},
    "prune_scores": {"seed": 0, "cost": None},
    "find_lottery_ticket": {"seed": 0},
    "find_language_ticket": {"pattern": "element", "allocate": "global"},
    "finetune_ticket": {"attack": None},
}


def known_by_its_call(search: Callable[P, T]) -> Callable[P, T]:
    """Decorate a search so that its checkpoints store its name and all its options, and so that it
    refuses a checkpoint of another call."""
    signature = inspect.signature(search)

    @wraps(search)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        checkpoint = kwargs.get("checkpoint")
        if isinstance(checkpoint, Checkpoint):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options = {**bound.arguments, **_LOOP}
            loop = [n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]
            for name in loop:
                options |= options.pop(name)
            for name, before in _LATER.get(search.__name__, {}).items():
                if options[name] == before:
                    del options[name]
            call = {"search": search.__name__, **told(options, checkpoint)}
            kwargs["checkpoint"] = replace(checkpoint, call=call)
        return search(*args, **kwargs)

    return asked


def told(options: Mapping[str, object], checkpoint: Checkpoint) -> dict[str, str]:
    """Return options as texts for a checkpoint, without those that do not change the result."""
    texts = {
        name: described(value, digests=checkpoint.origin is None)
        for name, value in options.items()
        if name not in _ASIDE
    }
    if checkpoint.origin is not None:
        texts["origin"] = checkpoint.origin
    return {name: _bounded(text) for name, text in texts.items()}


def _bounded(text: str, most: int = 1000) -> str:
    """Return the text, or if it is long its beginning and a digest of the whole."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def training_call(
    checkpoint: Checkpoint,
    model: nn.Module,
    moving: Sequence[nn.Parameter],
    *,
    loader: Batches,
    objective: Objective,
    optimizer: OptimizerLike,
    epochs: int,
    constraint: Callback | None,
    validation: Validation | None,
    average: float | None,
    amp: bool,
) -> dict[str, str]:
    """Return the fingerprint of one training: the options of its search, its own, and its start."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    own = {
        "objective": objective,
        "optimizer": optimizer,
        "epochs": epochs,
        "validation": validation,
        "average": average,
        "amp": amp,
        "loader": loader,
        "constraint": constraint,
        "parameters that move": [names.get(p, tuple(p.shape)) for p in moving],
        "weights and masks at the start": model,
    }
    return {**(checkpoint.call or {}), **told(own, checkpoint)}
