"""Refuse options of a config that have no effect beside others, before anything runs."""

from __future__ import annotations

from typing import Any

from robustprune.layerwise.checks import checked_solver
from robustprune.minmax import OptimizerSpec
from robustprune.run.config import OBJECTIVES, Config, TrainingSection
from robustprune.search import SPARSE_METHODS
from robustprune.search.admm import held_after
from robustprune.search.l0 import check_gated
from robustprune.search.sparse_methods import chosen_method, schedule
from robustprune.search.twin import cut_after
from robustprune.sparsity.criteria import CRITERIA


def each_density(config: Config) -> tuple[float | None, ...]:
    """Return all densities that the config asks for."""
    return config.search.density


def check_scratch(config: Config) -> None:
    """For method rst: raise a ValueError if options say how weights are drawn and none are
    drawn."""
    search = config.search
    if search.weights == "random":
        return
    drawn = {
        "fan_scaling": search.fan_scaling,
        "bias_scale": search.bias_scale,
        "thresholds": search.thresholds,
    }
    for name, value in drawn.items():
        if value:
            raise ValueError(
                f"search.{name}: {value} says how weights are drawn, and search.weights: "
                f"{search.weights} draws none; leave search.{name} out"
            )
    _at_default(config, "search", "init", f"search.weights {search.weights}", ("random",))


def check_admm(config: Config) -> None:
    """For methods admm and admm_l1: raise a ValueError if Z and U would never be updated, if ρ is
    above its final value, or if fine-tuning would undo the values of `bits`."""
    admm = config.admm
    if admm.bits is None:
        _at_default(config, "admm", "hold", "admm.bits left out", ("admm.bits",))
    elif "admm" not in config.search.methods:
        raise ValueError(f"admm.bits: {admm.bits} goes with method admm; leave it out")
    elif config.finetune.modes:
        raise ValueError(
            f"admm.bits: {admm.bits} gives weights the same values, and fine-tuning would give "
            "each its own; set finetune.modes to []"
        )
    else:
        held_after(admm.bits, admm.hold, admm.epochs, None)
    if admm.every > admm.epochs:
        raise ValueError(
            f"admm.every: {admm.every} exceeds admm.epochs: {admm.epochs}, so that Z and U "
            "would never be updated; set it to at most the epochs"
        )
    if admm.rho > admm.rho_max:
        raise ValueError(f"admm.rho: {admm.rho} exceeds admm.rho_max: {admm.rho_max}")


def check_admm_l1(config: Config) -> None:
    """For method admm_l1: raise a ValueError if weights are grouped or λ is missing."""
    search = config.search
    if search.pattern != "element" or search.allocate != "layer":
        raise ValueError(
            "method admm_l1 decides weight by weight with one threshold for all layers; set "
            "search.pattern to element and search.allocate to layer"
        )
    check_admm(config)
    if config.admm.l1 is None:
        raise ValueError("method admm_l1 needs admm.l1, the weight λ of the l1 norm; try 1e-4")


def check_hydra(config: Config) -> None:
    """For method hydra: raise a ValueError for costs that no method uses."""
    if config.scores.cost is not None and "harp" not in config.search.methods:
        raise ValueError("scores.cost has an effect only with method harp; leave it null")


def check_harp(config: Config) -> None:
    """For method harp: raise a ValueError for a pattern that fixes the rate, or allocation by
    row."""
    pattern = config.search.pattern
    if ":" in pattern:
        raise ValueError(f"harp learns each layer's rate, and pattern {pattern} fixes it")
    if config.search.allocate == "row":
        raise ValueError(
            "method harp compares all groups of a layer, and search.allocate: row has no effect on "
            "it; set search.allocate to layer"
        )


def check_l0(config: Config) -> None:
    """For method l0: raise a ValueError for a pattern or an allocation that fixes what a block or a
    row keeps."""
    check_gated(config.search.pattern, config.search.allocate)


def check_lottery(config: Config) -> None:
    """For method lottery: raise a ValueError if the number of rounds has no effect."""
    pattern, rounds = config.search.pattern, config.lottery.rounds
    if ":" in pattern and rounds not in (None, 1):
        raise ValueError(
            f"lottery.rounds: {rounds} has no effect with pattern {pattern}, "
            "which keeps N of every M in the first round; set it to 1"
        )


def own_numbers(config: Config, method: str) -> dict[str, Any]:
    """Return the numbers of section `sparse` for a method of sparse training. A method without any
    gets none if they are for another one of the config."""
    numbers = config.sparse.model_dump(exclude={"epochs", "optimizer", "weights", "allocate"})
    others = {name for name, row in SPARSE_METHODS.items() if not row.fixed}
    if SPARSE_METHODS[method].fixed and others & set(config.search.methods):
        return {}
    return numbers


def check_twin(config: Config) -> None:
    """For method twin: raise a ValueError if there is no epoch before or after the cut."""
    cut_after(config.twin.cut, config.twin.epochs)


def check_updates(config: Config, steps: int) -> None:
    """For gradual pruning and sparse training: raise a ValueError if no update of the masks falls
    into the training.

    Args:
        steps: the number of steps of an epoch.
    """
    for name in [name for name in config.search.methods if name in SPARSE_METHODS]:
        section = config.gradual if name == "gradual" else config.sparse
        if name == "gradual":
            numbers = section.model_dump(include={"start", "stop", "every"})
            numbers["ramp"] = numbers["stop"]
        else:
            numbers = own_numbers(config, name)
        for density in config.search.density:
            row = chosen_method(name, density, **numbers)
            if row.updates != 0:
                schedule(row, numbers.get("every"), steps, section.epochs)


def check_sparse(config: Config) -> None:
    """For sparse training: raise a ValueError for numbers that do not fit a method, or where
    held-out examples are missing."""
    section, search = config.sparse, config.search
    for name in set(search.methods) & set(SPARSE_METHODS) - {"gradual"}:
        for density in search.density:
            row = chosen_method(name, density, **own_numbers(config, name))
        if row.adaptive and config.task.validation == 0:
            raise ValueError(
                f"method {name} adapts the density to held-out examples; set task.validation to "
                "their share, such as 0.1"
            )
        if row.adaptive and ":" in search.pattern:
            raise ValueError(
                f"method {name} adapts the density, and search.pattern: {search.pattern} fixes it"
            )
    if ":" in search.pattern and section.allocate not in (None, "layer"):
        raise ValueError(
            f"sparse.allocate: {section.allocate} has no effect with search.pattern: "
            f"{search.pattern}, which fixes what each layer keeps; leave it out"
        )


def check_language(config: Config) -> None:
    """For method language: raise a ValueError if an option has no effect, or if the ticket would
    not be trained at all."""
    search, section = config.search, config.language
    if set(search.methods) == {"language"}:
        if search.allocate != "layer":
            raise ValueError(
                "method language compares all layers, and search.allocate has no effect; leave it "
                "out"
            )
        if section.granularity != "weight" and search.dense:
            raise ValueError(
                f"language.granularity: {section.granularity} masks {section.granularity}s in "
                "every layer, and search.dense has no effect; leave it out"
            )
    if search.pattern != "element":
        raise ValueError(
            f"method language groups weights by language.granularity, not by pattern "
            f"{search.pattern}; set search.pattern to element"
        )
    if section.finetune == "none" and section.reset:
        raise ValueError(
            "language.finetune: none does not train the ticket, which needs language.reset: "
            "false; with the pre-trained weights, its classifier is not trained at all"
        )
    if section.finetune == "none" and "reinit" in section.controls:
        raise ValueError(
            "language.controls: new random weights are of no use without training; with "
            "language.finetune: none set it to [random] or []"
        )


def check_one_shot(config: Config) -> None:
    """For one-shot criteria: raise a ValueError for a number of batches that none of them uses."""
    needy = tuple(name for name, criterion in CRITERIA.items() if criterion.needs_data)
    methods = set(config.search.methods)
    if not methods & set(needy):
        _at_default(config, "one_shot", "batches", ", ".join(sorted(methods)), needy)


def check_layerwise(config: Config) -> None:
    """For layerwise pruning: raise a ValueError for an unknown solver, or unknown or idle
    options."""
    section, methods = config.layerwise, config.search.methods
    if "layerwise" in methods:
        checked_solver(section.solver, section.options, config.search.pattern)
    attacked = section.clean != 1.0 and config.objective.name != "natural"
    if section.sweeps > 1 and not attacked:
        raise ValueError(
            f"layerwise.sweeps: {section.sweeps} has an effect only if calibration inputs are "
            "attacked, and none is attacked here; set it to 1"
        )


def check_finetune(config: Config) -> None:
    """For fine-tuned tickets: raise a ValueError for options of drawing if nothing is drawn."""
    if "reinit" not in config.finetune.modes:
        modes = f"finetune.modes {list(config.finetune.modes)}"
        _at_default(config, "finetune", "init", modes, ("reinit",))


#: for each option the objectives that it belongs to
_OF_OBJECTIVES = {
    "beta": ("trades", "smart", "mart"),
    "sigma": ("gaussian",),
    "replays": ("free",),
    "kappa": ("ibp", "crown-ibp"),
    "alpha": ("ard", "iad"),
    "temperature": ("ard", "iad"),
    "clean": ("rslad",),
}


def check_training(config: Config) -> None:
    """Refuse options that a training would refuse hours later, or could only ignore.

    Raises:
        ValueError: an optimizer can't be built, or an option belongs to an objective or an attack
            that is not used.
    """
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, TrainingSection):
            try:
                OptimizerSpec(**section.optimizer.model_dump())
            except ValueError as error:
                raise ValueError(f"{name}.optimizer: {error}") from error
    objective, inner = config.objective, config.inner
    for option, names in _OF_OBJECTIVES.items():
        if objective.name not in names:
            _at_default(config, "objective", option, f"objective {objective.name}", names)
    if objective.name in ("free", "gaussian"):
        own = tuple(name for name in OBJECTIVES if name not in ("natural", "free", "gaussian"))
        _at_default(config, "inner", "warmup", f"objective {objective.name}", own)
    if objective.awp > 0 and (objective.name == "free" or config.selection.method != "none"):
        other = "objective free" if objective.name == "free" else "selection"
        raise ValueError(
            f"objective.awp: {objective.awp} evaluates each step twice, and {other} keeps a state "
            "from step to step; leave one of them out"
        )
    if inner.synonyms is None:
        _at_default(config, "inner", "synonyms_by", "inner.synonyms left out", ("inner.synonyms",))


def _at_default(
    config: Config, section: str, option: str, given: str, owners: tuple[str, ...]
) -> None:
    """Raise a ValueError if an option has another value than its default although it has no
    effect."""
    fields, value = getattr(config, section), getattr(getattr(config, section), option)
    default = type(fields).model_fields[option].get_default(call_default_factory=True)
    if value != default:
        raise ValueError(
            f"{section}.{option}: {value} has no effect with {given}; it goes with "
            f"{', '.join(owners)}; leave it out, or at {default}"
        )
