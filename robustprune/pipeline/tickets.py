"""The searches that train their tickets themselves, with controls: lottery and language tickets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from robustprune.minmax import Checkpoint, History, Natural
from robustprune.pipeline.fit import Fitted, Kind, Training
from robustprune.pipeline.searches import Found, Search, training
from robustprune.run.checkpoint import load_state
from robustprune.run.config import Config
from robustprune.search import (
    ControlName,
    LotteryTicket,
    Ticket,
    find_language_ticket,
    find_lottery_ticket,
    finetune_ticket,
    train_control,
)
from robustprune.search.controls import shuffled_control
from robustprune.search.lottery import rounds_to

#: the title of each control, which says what changes
_CONTROLS = {"random": "random mask", "reinit": "mask kept, weights drawn anew"}


def find_lottery(search: Search) -> Found:
    """Find a lottery ticket, and train controls from the same start."""
    run, name, section = search.run, search.name, search.run.config.lottery

    def find(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        ticket = find_lottery_ticket(
            run.fresh_model(seeded=True),
            loader,
            density=search.density,
            objective=objective,
            rounds=section.rounds,
            rewind=section.rewind,
            validation=run.validation(attacked=True),
            **search.space(),
            **training(run, section, checkpoint, name),
        )
        # the controls need its start, which must be stored before the ticket
        if not run.folder.has_model(f"{name}-start"):
            run.folder.save_model(f"{name}-start", ticket.start.state_dict(), ticket.masks, [])
        return ticket

    ticket = search.fit(find)
    state, _ = run.folder.load_model(f"{name}-start")
    start = run.fresh_model()
    load_state(start, state, run.folder.path / "models" / f"{name}-start")

    def control(kind: ControlName, checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, f"{name}-{kind}")
        return train_control(
            LotteryTicket(ticket.masks, ticket.model, History(), start),
            loader,
            kind,
            objective=objective,
            seed=run.config.seed + 1,
            validation=run.validation(attacked=True),
            **training(run, section, checkpoint, f"{name}-{kind}"),
        )

    return Found(ticket, tuple(_control(search, kind, control) for kind in section.controls))


def _control(
    search: Search, kind: ControlName, make: Callable[[ControlName, Checkpoint], Ticket]
) -> Fitted:
    return search.fit(partial(make, kind), kind, f"control ({_CONTROLS[kind]})")


def lottery_trainings(config: Config, name: str, density: float) -> list[Training]:
    """Return the rounds and the last training under one name, and the training of each control."""
    section = config.lottery
    rounds = rounds_to(density, config.search.pattern, section.rounds)
    return [
        Training(name, "robust", (rounds + 1) * section.epochs),
        *(Training(f"{name}-{control}", "robust", section.epochs) for control in section.controls),
    ]


def find_language(search: Search) -> Found:
    """Find a ticket of a pre-trained language model, and train it as `language.finetune` says."""
    run, name = search.run, search.name
    section, tuning, dense = run.config.language, run.config.finetune, run.config.search.dense
    tuned = search.model()
    # the pre-trained weights, with the same new classifier as in every stage
    start = run.fresh_model() if section.reset else tuned
    robust = section.finetune == "robust"

    def find(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return find_language_ticket(
            tuned,
            loader,
            density=search.density,
            objective=objective,
            pretrained=start,
            granularity=section.granularity,
            penalty=section.penalty,
            kept=section.kept,
            spread=section.spread,
            dense=dense or ("last",) if section.granularity == "weight" else (),
            seed=run.config.seed,
            validation=run.validation(attacked=True),
            **training(run, section, checkpoint, name),
        )

    if section.finetune == "none":
        drawn = search.fit(find)
    else:
        drawn = search.fit(find, "drawn", "not yet trained")
    ticket = LotteryTicket(drawn.masks, drawn.model, History(), start)

    def trained(kind: ControlName | None, checkpoint: Checkpoint) -> Ticket:
        if section.finetune == "none":
            return shuffled_control(ticket, seed=run.config.seed + 1)
        objective, loader = run.robust(tuning.epochs, name) if robust else (Natural(), run.loader())
        options = {
            "objective": objective,
            "validation": run.validation(attacked=robust),
            **training(run, tuning, checkpoint, name),
        }
        if kind is None:
            return finetune_ticket(ticket, loader, **options)
        return train_control(ticket, loader, kind, seed=run.config.seed + 1, **options)

    found = drawn if section.finetune == "none" else search.fit(partial(trained, None))
    return Found(found, tuple(_control(search, kind, trained) for kind in section.controls))


def language_trainings(config: Config, name: str, density: float) -> list[Training]:
    """Return the search, and then the training of its ticket and of the controls."""
    section, epochs = config.language, config.finetune.epochs
    controls = [f"{name}-{control}" for control in section.controls]
    if section.finetune == "none":
        shuffled = [Training(control, "one-shot", 0) for control in controls]
        return [Training(name, "robust", section.epochs), *shuffled]
    kind: Kind = "robust" if section.finetune == "robust" else "natural"
    return [
        Training(f"{name}-drawn", "robust", section.epochs, measured=False),
        *(Training(each, kind, epochs) for each in (name, *controls)),
    ]
