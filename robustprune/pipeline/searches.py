"""The search stages: each method by its name, from a config to finished models of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from robustprune.minmax import Adversarial, Checkpoint, Natural
from robustprune.pipeline.fit import Fitted, fit, loop_options, optimizer_of
from robustprune.pipeline.shared import Run
from robustprune.run.checkpoint import load_state
from robustprune.run.config import TrainingSection
from robustprune.search import (
    ControlName,
    LotteryTicket,
    ScoreMethod,
    Ticket,
    find_language_ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
    train_control,
)
from robustprune.search.controls import shuffled_control
from robustprune.sparsity.criteria import CRITERIA

#: criteria by the names they go by in the literature
_CRITERIA = {"snip": "SNIP", "grasp": "GraSP", "obd": "OBD", "obd_ggn": "OBD, Gauss-Newton"}
#: what changes in a control, for readers
CONTROL_TITLES = {"random": "random mask", "reinit": "mask kept, weights drawn anew"}


@dataclass(frozen=True)
class Sources:
    """The dense baselines that a search may start from."""

    natural: Fitted
    adversarial: Fitted

    def model(self, run: Run, weights: str) -> nn.Module:
        """The network with weights of that kind: random, natural or adversarial."""
        if weights == "random":
            return run.fresh_model(seeded=True)
        return cast(Fitted, getattr(self, weights)).model


@dataclass(frozen=True)
class Found:
    """What one search of one density found.

    Attributes:
        ticket: the sub-network.
        controls: networks that show what the search itself was worth.
        trained: whether the ticket's weights are trained already, so that nothing is fine-tuned.
    """

    ticket: Fitted
    controls: tuple[Fitted, ...] = ()
    trained: bool = False


def search(run: Run, method: str, density: float, name: str, sources: Sources) -> Found:
    """Run one method at one density."""
    if method == "rst":
        return Found(scratch_ticket(run, density, name, sources))
    if method in ("admm", "admm_l1"):
        return Found(_admm(run, method, density, name, sources))
    if method in ("hydra", "harp"):
        return Found(_scores(run, cast(ScoreMethod, method), density, name, sources))
    if method == "lottery":
        return _lottery(run, density, name)
    if method == "language":
        return _language(run, density, name, sources)
    return Found(_one_shot(run, method, density, name, sources))


def _space(run: Run) -> dict[str, Any]:
    """Which networks are allowed: the same for every method."""
    section = run.config.search
    return {"pattern": section.pattern, "allocate": section.allocate, "dense": section.dense}


def _training(run: Run, section: TrainingSection, checkpoint: Checkpoint, name: str) -> Any:
    return {
        "epochs": section.epochs,
        "optimizer": optimizer_of(section),
        **loop_options(run, checkpoint, name),
    }


def _title(run: Run, method: str, density: float) -> str:
    pattern = run.config.search.pattern
    what = "" if pattern == "element" else f" ({pattern})"
    return f"{method}{what}, {density:.3g} kept"


def scratch_ticket(run: Run, density: float, name: str, sources: Sources | None) -> Fitted:
    """A scratch ticket; from the trained weights of a source, if the config says so, a trained
    one."""
    section, trained = run.config.search, run.config.search.weights != "random"

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return find_scratch_ticket(
            sources.model(run, section.weights) if sources else run.fresh_model(seeded=True),
            loader,
            density=density,
            objective=objective,
            init=None if trained else section.init,
            fan_scaling=section.fan_scaling,
            bias_scale=section.bias_scale,
            thresholds=section.thresholds,
            seed=run.config.seed,
            validation=run.validation(attacked=True),
            **_space(run),
            **_training(run, section, checkpoint, name),
        )

    kind = f"RTT from {section.weights}" if trained else "RST"
    return fit(run, name, _title(run, kind, density), make)


def _admm(run: Run, method: str, density: float, name: str, sources: Sources) -> Fitted:
    section, l1 = run.config.admm, run.config.admm.l1 if method == "admm_l1" else None

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return prune_admm(
            sources.model(run, section.weights),
            loader,
            density=density if l1 is None else None,
            l1=l1,
            objective=objective,
            rho=section.rho,
            rho_growth=section.rho_growth,
            rho_max=section.rho_max,
            every=section.every,
            **_space(run),
            **_training(run, section, checkpoint, name),
        )

    title = _title(run, "ADMM", density) if l1 is None else f"ADMM, l1 weight {l1:g}"
    return fit(run, name, title, make)


def _scores(run: Run, method: ScoreMethod, density: float, name: str, sources: Sources) -> Fitted:
    section = run.config.scores

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return prune_scores(
            sources.model(run, section.weights),
            loader,
            density=density,
            method=method,
            objective=objective,
            validation=run.validation(attacked=True) if method == "hydra" else None,
            **_space(run),
            **_training(run, section, checkpoint, name),
        )

    return fit(run, name, _title(run, method.upper(), density), make)


def _lottery(run: Run, density: float, name: str) -> Found:
    section = run.config.lottery
    title = _title(run, "lottery ticket", density)

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        ticket = find_lottery_ticket(
            run.fresh_model(seeded=True),
            loader,
            density=density,
            objective=objective,
            rounds=section.rounds,
            rewind=section.rewind,
            validation=run.validation(attacked=True),
            **_space(run),
            **_training(run, section, checkpoint, name),
        )
        # the controls start where the ticket started; its folder must be there before the ticket's
        if not run.folder.has_model(f"{name}-start"):
            run.folder.save_model(f"{name}-start", ticket.start.state_dict(), ticket.masks, [])
        return ticket

    ticket = fit(run, name, title, make)
    state, _ = run.folder.load_model(f"{name}-start")
    start = run.fresh_model()
    load_state(start, state, run.folder.path / "models" / f"{name}-start")

    def control(kind: ControlName) -> Fitted:
        def make(checkpoint: Checkpoint) -> Ticket:
            objective, loader = run.robust(section.epochs, f"{name}-{kind}")
            return train_control(
                LotteryTicket(ticket.masks, ticket.model, [], start),
                loader,
                kind,
                objective=objective,
                seed=run.config.seed + 1,
                validation=run.validation(attacked=True),
                **_training(run, section, checkpoint, f"{name}-{kind}"),
            )

        return fit(run, f"{name}-{kind}", f"{title}, control ({CONTROL_TITLES[kind]})", make)

    return Found(ticket, tuple(control(kind) for kind in section.controls), trained=True)


def _language(run: Run, density: float, name: str, sources: Sources) -> Found:
    section, tuning, space = run.config.language, run.config.finetune, _space(run)
    tuned = sources.model(run, section.weights)
    # the pre-trained weights come with the classifier of every stage
    start = run.fresh_model() if section.reset else tuned
    robust = section.finetune == "robust"

    def search(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return find_language_ticket(
            tuned,
            loader,
            density=density,
            objective=objective,
            pretrained=start,
            granularity=section.granularity,
            penalty=section.penalty,
            kept=section.kept,
            spread=section.spread,
            dense=space["dense"] or ("last",) if section.granularity == "weight" else (),
            seed=run.config.seed,
            validation=run.validation(attacked=True),
            **_training(run, section, checkpoint, name),
        )

    title = _title(run, "robust ticket", density)
    if section.finetune == "none":
        alone = fit(run, name, title, search)
        whole = LotteryTicket(alone.masks, alone.model, [], start)
        controls = tuple(
            fit(
                run, f"{name}-{kind}", f"{title}, control ({CONTROL_TITLES[kind]})",
                lambda _: shuffled_control(whole, seed=run.config.seed + 1),
            )
            for kind in section.controls
        )  # fmt: skip
        return Found(alone, controls, trained=True)
    drawn = fit(run, f"{name}-drawn", f"{title}, not yet trained", search)
    ticket = LotteryTicket(drawn.masks, drawn.model, [], start)

    def trained(kind: ControlName | None) -> Fitted:
        def make(checkpoint: Checkpoint) -> Ticket:
            objective, loader = (
                run.robust(tuning.epochs, name) if robust else (Natural(), run.loader())
            )
            options = {
                "objective": objective,
                "validation": run.validation(attacked=robust),
                **_training(run, tuning, checkpoint, name),
            }
            if kind is None:
                return finetune_ticket(ticket, loader, **options)
            return train_control(ticket, loader, kind, seed=run.config.seed + 1, **options)

        what = "" if kind is None else f", control ({CONTROL_TITLES[kind]})"
        return fit(run, name if kind is None else f"{name}-{kind}", f"{title}{what}", make)

    return Found(trained(None), tuple(trained(kind) for kind in section.controls), trained=True)


def _one_shot(run: Run, criterion: str, density: float, name: str, sources: Sources) -> Fitted:
    section = run.config.one_shot

    def make(checkpoint: Checkpoint) -> Ticket:
        objective = None  # magnitude and random look at no loss
        if CRITERIA[criterion].needs_data:
            plain = run.config.objective.name == "natural"
            objective = run.with_synonyms(Natural() if plain else Adversarial(run.inner_attack()))
        return prune_one_shot(
            sources.model(run, section.weights),
            run.loader(),
            density=density,
            criterion=criterion,
            objective=objective,
            batches=section.batches,
            seed=run.config.seed,
            **_space(run),
        )

    return fit(run, name, _title(run, _CRITERIA.get(criterion, criterion), density), make)
