"""What a row of the table of methods says, and what the pipeline asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robustprune.pipeline import combinations
from robustprune.pipeline.fit import Training
from robustprune.pipeline.searches import Found, Search, Sources
from robustprune.pipeline.shared import Run
from robustprune.run.config import Config


@dataclass(frozen=True)
class Method:
    """The row of one method.

    Attributes:
        name: the name in `search.methods` of a config.
        section: the name of the config's section with its options.
        title: the name in tables.
        summary: one line for `robustprune list`.
        run: the function that runs one search.
        benchmark: its criterion in the taxonomy of the adversarial pruning benchmark.
        plan: a function (config, name, density) -> the trainings of one search; None for a single
            training with the epochs of its section.
        check: a function that refuses options that contradict each other, or have no effect, with
            this method.
        allots: a function that returns the densities at which `search.allocate` must be possible;
            None among them stands for any density.
        variant: a function that returns another (name, title) where the config makes a variant of
            the method.
        trained: whether the search trains its tickets itself, so that they are not fine-tuned.
        scratch: whether tickets are used without training; the ticket switch (R2S) draws from such
            tickets.
        takes_density: whether it runs once for each density, or only once.
        iterative: whether it prunes in several steps with training between them (unless `rounds` is
            1).
        everywhere: whether it compares the weights of all layers with each other, whatever
            `search.allocate` is.
        causal: a function (config) -> the options of `prune_layerwise` with which it prunes a
            causal language model, or None if it can't. A share allots weights to layers where the
            pattern leaves a choice.
    """

    name: str
    section: str
    title: str
    summary: str
    run: Callable[[Search], Found]
    benchmark: str = "Not Specified"
    plan: Callable[[Config, str, float], list[Training]] | None = None
    check: Callable[[Config], None] | None = None
    allots: Callable[[Config], tuple[float | None, ...]] = combinations.each_density
    variant: Callable[[Config], tuple[str, str] | None] = lambda config: None
    trained: bool = False
    scratch: bool = False
    takes_density: bool = True
    iterative: bool = False
    everywhere: bool = False
    causal: Callable[[Config], dict[str, Any]] | None = None

    def densities(self, config: Config) -> tuple[float, ...]:
        """Return the densities at which the config asks for this method."""
        return config.search.density if self.takes_density else config.search.density[:1]

    def model_name(self, config: Config, density: float) -> str:
        """Return the name of the model that it finds at a density."""
        name, _ = self.variant(config) or (self.name, "")
        return name if len(config.search.density) == 1 else f"{name}-{density:g}"

    def title_of(self, config: Config) -> str:
        """Return the name of the method in tables, or that of the variant which a config makes."""
        _, title = self.variant(config) or ("", self.title)
        return title

    def search(self, run: Run, density: float, name: str, sources: Sources | None) -> Found:
        """Run the method at one density, for the model of that name."""
        pattern = run.config.search.pattern
        title = self.title_of(run.config)
        if self.takes_density:
            what = "" if pattern == "element" else f" ({pattern})"
            title = f"{title}{what}, {density:.3g} kept"
        section = getattr(run.config, self.section)
        return self.run(Search(run, self.name, section, density, name, title, sources))

    def trainings(self, config: Config, density: float) -> list[Training]:
        """Return the trainings of one density, with fine-tuning, in the order of the run's
        table."""
        name, tuning = self.model_name(config, density), config.finetune
        if self.plan is None:
            own = [Training(name, "robust", getattr(config, self.section).epochs)]
        else:
            own = self.plan(config, name, density)
        modes = () if self.trained else tuning.modes
        return [*own, *(Training(f"{name}-{mode}", "robust", tuning.epochs) for mode in modes)]
