"""Run the searches that the config asks for, and store their models in the run.

The rows of `methods.py` say which function runs which method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from robustprune.layerwise import SOLVERS, prune_layerwise
from robustprune.minmax import Adversarial, Checkpoint, Natural, Objective
from robustprune.pipeline.combinations import own_numbers
from robustprune.pipeline.fit import Fitted, fit, loop_options, optimizer_of
from robustprune.pipeline.shared import Run
from robustprune.run.config import Config, TrainingSection
from robustprune.run.sections import SparseSection
from robustprune.run.settings import Section
from robustprune.search import (
    Ticket,
    find_scratch_ticket,
    prune_one_shot,
    prune_woodfisher,
    train_sparse,
)
from robustprune.search.sparse_methods import chosen_method
from robustprune.sparsity.criteria import CRITERIA

#: fields of a section that are not options of the search itself
_SHARED = ("epochs", "optimizer", "weights")


@dataclass(frozen=True)
class Sources:
    """The dense baselines from which a search may start."""

    natural: Fitted
    adversarial: Fitted

    def model(self, run: Run, weights: str) -> nn.Module:
        """Return the network with weights of this kind: random, natural or adversarial."""
        if weights == "random":
            return run.fresh_model(seeded=True)
        return cast(Fitted, getattr(self, weights)).model


@dataclass(frozen=True)
class Found:
    """The result of one search at one density.

    Attributes:
        ticket: the sub-network.
        controls: networks that show what the search itself is worth.
    """

    ticket: Fitted
    controls: tuple[Fitted, ...] = ()


@dataclass(frozen=True)
class Search:
    """One search that the config asks for.

    Attributes:
        run: the run that it belongs to.
        method: its name in the config.
        section: the section of the config with its options.
        density: the share of weights to keep.
        name: the name of the model that it finds.
        title: the title of that model in tables.
        sources: the dense baselines; None if it starts from random weights.
    """

    run: Run
    method: str
    section: Section
    density: float
    name: str
    title: str
    sources: Sources | None

    def model(self) -> nn.Module:
        """Return the network from which the search starts."""
        weights = getattr(self.section, "weights", "random")
        if self.sources is None:
            return self.run.fresh_model(seeded=True)
        return self.sources.model(self.run, weights)

    def space(self) -> dict[str, Any]:
        """Return which networks are allowed, which is the same for every method."""
        section = self.run.config.search
        return {"pattern": section.pattern, "allocate": section.allocate, "dense": section.dense}

    def options(self) -> dict[str, Any]:
        """Return the options of the section for this search only."""
        own = (name for name in type(self.section).model_fields if name not in _SHARED)
        return {name: getattr(self.section, name) for name in own}

    def fit(self, make: Callable[[Checkpoint], Ticket], kind: str = "", what: str = "") -> Fitted:
        """Call `fit.fit` with the name and title of the search, extended by `-kind` and `what`."""
        name = f"{self.name}-{kind}" if kind else self.name
        return fit(self.run, name, f"{self.title}, {what}" if what else self.title, make)


def training(run: Run, section: TrainingSection, checkpoint: Checkpoint, name: str) -> Any:
    """Return the options of a training by that section."""
    return {
        "epochs": section.epochs,
        "optimizer": optimizer_of(section),
        **loop_options(run, checkpoint, name),
    }


def searched(
    call: Callable[..., Ticket], *, validated: bool = False, draws: bool = False, **fixed: Any
) -> Callable[[Search], Found]:
    """Return a function that runs `call`, a search with the options that its section names.

    Args:
        validated: whether it chooses an epoch on held-out examples.
        draws: whether it draws random numbers by itself.
        fixed: arguments that replace those of the config.
    """

    def find(search: Search) -> Found:
        run, section = search.run, cast(TrainingSection, search.section)

        def make(checkpoint: Checkpoint) -> Ticket:
            objective, loader = run.robust(section.epochs, search.name)
            options = {"density": search.density, **search.options(), **fixed, **search.space()}
            if draws:
                options["seed"] = run.config.seed
            if validated:
                options["validation"] = run.validation(attacked=True)
            loop = training(run, section, checkpoint, search.name)
            return call(search.model(), loader, objective=objective, **options, **loop)

        return Found(search.fit(make))

    return find


def train_sparsely(search: Search) -> Found:
    """Train a network that is sparse from the start, by the method of that name."""
    run, section = search.run, cast(SparseSection, search.section)
    space, options = search.space(), own_numbers(run.config, search.method)
    if section.allocate is not None or space["allocate"] == "layer":
        space["allocate"] = section.allocate
    row = chosen_method(search.method, search.density, **options)

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, search.name)
        loop = training(run, section, checkpoint, search.name)
        if not row.moves_density:
            loop["validation"] = run.validation(attacked=True)
        return train_sparse(
            search.model(),
            loader,
            density=search.density,
            objective=objective,
            seed=run.config.seed if row.draws else 0,
            method=search.method,
            **space,
            **options,
            **loop,
        )

    return Found(search.fit(make))


def find_scratch(search: Search) -> Found:
    """Find a scratch ticket, or a robust trained ticket (RTT) if the config asks for the trained
    weights of a source."""
    run, section = search.run, search.run.config.search

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, search.name)
        return find_scratch_ticket(
            search.model(),
            loader,
            density=search.density,
            objective=objective,
            init=section.init if section.weights == "random" else None,
            fan_scaling=section.fan_scaling,
            bias_scale=section.bias_scale,
            thresholds=section.thresholds,
            seed=run.config.seed,
            validation=run.validation(attacked=True),
            **search.space(),
            **training(run, section, checkpoint, search.name),
        )

    return Found(search.fit(make))


def score_once(search: Search) -> Found:
    """Prune once by the criterion with the method's name."""
    run, section = search.run, search.run.config.one_shot

    def make(checkpoint: Checkpoint) -> Ticket:
        objective = None  # a criterion without data needs no loss
        criterion = CRITERIA[search.method]
        if criterion.needs_data:
            objective = _looked_at(run)
        return prune_one_shot(
            search.model(),
            run.loader(),
            density=search.density,
            criterion=search.method,
            objective=objective,
            batches=section.batches,
            seed=run.config.seed if criterion.draws else 0,
            **search.space(),
        )

    return Found(search.fit(make))


def _looked_at(run: Run) -> Objective:
    """Return the loss of a method that trains nothing: cross-entropy, under attack if the config's
    objective attacks."""
    plain = run.config.objective.name == "natural"
    return run.with_synonyms(Natural() if plain else Adversarial(run.inner_attack()))


def compensate(search: Search) -> Found:
    """Prune by the empirical Fisher matrix, and change the other weights."""

    def make(checkpoint: Checkpoint) -> Ticket:
        return prune_woodfisher(
            search.model(),
            search.run.loader(),
            density=search.density,
            objective=_looked_at(search.run),
            **search.options(),
            **search.space(),
        )

    return Found(search.fit(make))


def solve_layers(search: Search, *, solver: str | None = None, **space: Any) -> Found:
    """Prune layer by layer without training.

    Args:
        solver: a solver with its own defaults; None is the section's, with its options.
        space: arguments that replace those of the config's search.
    """
    run, section = search.run, search.run.config.layerwise
    options: dict[str, Any] = dict(section.options) if solver is None else {}
    clean = 1.0 if run.config.objective.name == "natural" else section.clean
    solver = solver or section.solver
    space = {**search.space(), **space}
    alike = not SOLVERS[solver].needs_cross and space["allocate"] != "global"

    def make(checkpoint: Checkpoint) -> Ticket:
        return prune_layerwise(
            search.model(),
            run.loader(),
            density=search.density,
            attack=None if clean == 1.0 else run.inner_attack(),
            seed=run.config.seed,
            solver=solver,
            target=section.target,
            outputs="alike" if alike else section.outputs,
            batches=section.batches,
            clean=None if clean == 1.0 else clean,
            sweeps=section.sweeps,
            bias=section.bias,
            device=run.device,
            **space,
            **options,
        )

    return Found(search.fit(make))


def published(solver: str, **options: Any) -> Callable[[Config], dict[str, Any]]:
    """Return how a solver prunes causal language models in the code of its authors: towards the
    layer's own outputs, on inputs of the network whose blocks before are pruned."""
    return lambda config: {"solver": solver, "target": "own", "after": "block", **options}


def own_options(config: Config) -> dict[str, Any]:
    """Return the options of the config's own search without training."""
    section = config.layerwise
    return {
        "solver": section.solver,
        "target": section.target,
        "outputs": section.outputs,
        "bias": section.bias,
        "allocate": config.search.allocate,
        **section.options,
    }
