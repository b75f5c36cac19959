"""How searches are run: from what the config asks for to finished models of the run.

The rows of `methods.py` say which function runs which method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from robustprune.minmax import Adversarial, Checkpoint, Natural
from robustprune.pipeline.fit import Fitted, fit, loop_options, optimizer_of
from robustprune.pipeline.shared import Run
from robustprune.run.config import TrainingSection
from robustprune.run.settings import Section
from robustprune.search import Ticket, find_scratch_ticket, prune_one_shot
from robustprune.sparsity.criteria import CRITERIA

#: fields of a section that are no options of the search alone
_SHARED = ("epochs", "optimizer", "weights")


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
        density: the share to keep.
        name: of the model that it finds.
        title: the same for readers.
        sources: the dense baselines; None where it starts from random weights.
    """

    run: Run
    method: str
    section: Section
    density: float
    name: str
    title: str
    sources: Sources | None

    def model(self) -> nn.Module:
        """The network that the search starts from."""
        weights = getattr(self.section, "weights", "random")
        if self.sources is None:
            return self.run.fresh_model(seeded=True)
        return self.sources.model(self.run, weights)

    def space(self) -> dict[str, Any]:
        """Which networks are allowed: the same for every method."""
        section = self.run.config.search
        return {"pattern": section.pattern, "allocate": section.allocate, "dense": section.dense}

    def options(self) -> dict[str, Any]:
        """What the section says of this search alone."""
        own = (name for name in type(self.section).model_fields if name not in _SHARED)
        return {name: getattr(self.section, name) for name in own}

    def fit(self, make: Callable[[Checkpoint], Ticket], kind: str = "", what: str = "") -> Fitted:
        """`fit.fit` by the name and title of the search, with `-kind` and `, what` behind them."""
        name = f"{self.name}-{kind}" if kind else self.name
        return fit(self.run, name, f"{self.title}, {what}" if what else self.title, make)


def training(run: Run, section: TrainingSection, checkpoint: Checkpoint, name: str) -> Any:
    """Options of a training by that section."""
    return {
        "epochs": section.epochs,
        "optimizer": optimizer_of(section),
        **loop_options(run, checkpoint, name),
    }


def searched(
    call: Callable[..., Ticket], *, validated: bool = False, **fixed: Any
) -> Callable[[Search], Found]:
    """Run `call`, a search that trains once and whose options are named as in its section.

    Args:
        validated: whether it chooses an epoch on held-out examples.
        fixed: arguments in place of what the config says.
    """

    def find(search: Search) -> Found:
        run, section = search.run, cast(TrainingSection, search.section)

        def make(checkpoint: Checkpoint) -> Ticket:
            objective, loader = run.robust(section.epochs, search.name)
            options = {"density": search.density, **search.options(), **fixed, **search.space()}
            if validated:
                options["validation"] = run.validation(attacked=True)
            loop = training(run, section, checkpoint, search.name)
            return call(search.model(), loader, objective=objective, **options, **loop)

        return Found(search.fit(make))

    return find


def find_scratch(search: Search) -> Found:
    """A scratch ticket; from the trained weights of a source, if the config says so, a trained
    one."""
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
    """One shot, by the criterion with the method's name."""
    run, section = search.run, search.run.config.one_shot

    def make(checkpoint: Checkpoint) -> Ticket:
        objective = None  # without data a criterion looks at no loss
        criterion = CRITERIA[search.method]
        if criterion.needs_data:
            plain = run.config.objective.name == "natural"
            objective = run.with_synonyms(Natural() if plain else Adversarial(run.inner_attack()))
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
