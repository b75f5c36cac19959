"""Every search takes the same options in the same order with the same defaults, and so does a
config's section."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.layerwise import prune_layerwise
from robustprune.minmax import Adversarial, LoopOptions, Natural, Validation
from robustprune.pipeline import tickets
from robustprune.pipeline.fit import optimizer_of
from robustprune.pipeline.methods import ROWS
from robustprune.run.config import Config
from robustprune.search import (
    LotteryTicket,
    Ticket,
    find_language_ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_gradual,
    prune_l0,
    prune_one_shot,
    prune_scores,
    prune_twin,
    prune_woodfisher,
    train_control,
    train_sparse,
)

THREAT = ThreatModel("linf", 0.1)
#: sections of methods that train nothing
ONCE = ("one_shot", "woodfisher", "layerwise")
ORDER = (
    *("model", "loader", "density", "attack", "objective", "pattern", "allocate", "dense", "seed"),
    *("epochs", "optimizer"),
)
#: by config section
CALLS: dict[str, Callable[..., Ticket]] = {
    "search": find_scratch_ticket,
    "admm": prune_admm,
    "scores": prune_scores,
    "lottery": find_lottery_ticket,
    "gradual": prune_gradual,
    "l0": prune_l0,
    "sparse": train_sparse,
    "twin": prune_twin,
    "language": find_language_ticket,
    "one_shot": prune_one_shot,
    "woodfisher": prune_woodfisher,
    "layerwise": prune_layerwise,
    "finetune": finetune_ticket,
}
#: all layers are compared, and what is on top of a language model is no part of it; each method of
#: sparse training has its own allocation
OTHERS = {
    ("language", "allocate"): "global",
    ("language", "dense"): ("last",),
    ("sparse", "allocate"): None,
}


def defaults(call: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(call).parameters.items()}


@pytest.mark.parametrize("section", [name for name in CALLS if name != "finetune"])
def test_the_same_names_in_the_same_order_with_the_same_defaults(section: str) -> None:
    parameters = inspect.signature(CALLS[section]).parameters
    once = section in ONCE
    without = ("epochs", "optimizer") if once else ()
    if section == "layerwise":  # least squares know no loss
        without += ("objective",)
    order = [name for name in ORDER if name not in without]
    assert list(parameters)[: len(order)] == order
    keyword = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keyword[: len(order) - 2] == order[2:]
    assert ("loop" in parameters) == (not once)
    space, found = Config().search, defaults(CALLS[section])
    for name in ("pattern", "allocate", "dense"):
        assert found[name] == OTHERS.get((section, name), getattr(space, name)), name
    assert found["seed"] == Config().seed == 0


@pytest.mark.parametrize("section", CALLS)
def test_the_defaults_of_a_section_are_those_of_the_call(section: str) -> None:
    found, config = defaults(CALLS[section]), getattr(Config(), section)
    compared = set(found) & set(type(config).model_fields) - {"density", "dense", "allocate"}
    compared -= {"options"}  # the solver's, one by one in the call
    for name in compared - {"optimizer"}:
        if (section, name) == ("finetune", "init"):  # of mode reinit, where None stands for it
            assert (found[name], config.init) == (None, "kaiming_normal")
        else:
            assert found[name] == getattr(config, name), name
    if section not in ONCE:
        assert {"epochs", "optimizer"} <= compared
        assert found["optimizer"] == optimizer_of(config)
    assert {row.section for row in ROWS.values()} | {"finetune"} == set(CALLS)


def test_a_config_calls_the_search_for_language_tickets_with_its_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that the section does not name (allocate, dense, pattern) are the paper's, too."""
    given: dict[str, Any] = {}

    class Asked(Exception):
        pass

    def ask(*args: Any, **options: Any) -> None:
        given.update(options)
        raise Asked

    monkeypatch.setattr(tickets, "find_language_ticket", ask)
    run = SimpleNamespace(
        config=Config(), device=None, quiet=False, validation=lambda **kind: None,
        robust=lambda *args: (Natural(), []), fresh_model=network,
    )  # fmt: skip
    search = SimpleNamespace(
        run=run, name="language", density=0.5, model=network, fit=lambda make, *args: make(None)
    )
    with pytest.raises(Asked):
        tickets.find_language(search)  # type: ignore[arg-type]
    found = defaults(find_language_ticket)
    assert {"dense", "seed", "epochs", "optimizer", "granularity", "penalty"} <= set(given)
    for name in set(given) & set(found) - {"density", "objective", "pretrained"}:
        assert given[name] == found[name], name


def test_what_follows_a_search_takes_the_same() -> None:
    for call in (finetune_ticket, train_control):
        found = defaults(call)
        assert found["attack"] is found["objective"] is None
        assert (found["epochs"], found["optimizer"]) == (
            defaults(find_scratch_ticket)["epochs"], defaults(find_scratch_ticket)["optimizer"]
        )  # fmt: skip
    assert {"validation", "average"} <= set(LoopOptions.__annotations__)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def examples() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(8), (x[:, 0] > 0).long().split(8), strict=True))


TRAINED = [name for name in CALLS if name not in (*ONCE, "finetune")]


@pytest.mark.parametrize("name", TRAINED)
def test_every_search_validates_and_averages(name: str) -> None:
    own: dict[str, Any] = {"admm": {"every": 1}, "lottery": {"rounds": 1}}.get(name, {})
    check = Validation(loader=examples())
    if name in ("gradual", "twin"):  # an early epoch is not sparse yet
        with pytest.raises(ValueError, match="before the network is sparse"):
            CALLS[name](network(), examples(), density=0.5, attack=FGSM(THREAT), validation=check)
        check = None  # type: ignore[assignment]
    found = CALLS[name](
        network(), examples(), density=0.5, objective=Natural(), epochs=2, quiet=True,
        optimizer=torch.optim.Adam, average=0.9, validation=check, **own,
    )  # fmt: skip
    assert all((record.val_clean is None) == (check is None) for record in found.history)


def test_an_attack_in_place_of_an_objective() -> None:
    attack = FGSM(THREAT)
    found = prune_one_shot(network(), density=0.5)
    ticket = LotteryTicket(found.masks, found.model, [], network())
    for call in (
        lambda **how: finetune_ticket(ticket, examples(), epochs=2, quiet=True, **how),
        lambda **how: train_control(ticket, examples(), "random", epochs=2, quiet=True, **how),
    ):
        one, other = call(attack=attack), call(objective=Adversarial(attack))
        assert all(
            torch.equal(a, b)
            for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
        )
        with pytest.raises(ValueError, match="give either `attack` or `objective`"):
            call()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("admm", {"seed": 1}, "seed=1 has no effect; leave it at 0: the search draws nothing"),
        ("scores", {"seed": 1}, "seed=1 has no effect; leave it at 0: the search draws nothing"),
        ("lottery", {"seed": 1}, "seed=1 has no effect; leave it at 0: the search draws nothing"),
        (
            "language",
            {"pattern": "row"},
            "pattern='row' has no effect; leave it at 'element'",
        ),
        ("language", {"allocate": "layer"}, "allocate='layer' has no effect; leave it at 'global'"),
        ("lottery", {"allocate": "global", "pattern": "2:4"}, "allocate='global' has no effect"),
        (
            "scores",
            {"method": "harp", "validation": Validation(loader=examples())},
            "harp takes its last epoch",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CALLS[name](network(), examples(), density=0.5, objective=Natural(), **options)
