"""Options of a config that would have no effect beside others: refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from robustprune.minmax import OptimizerSpec
from robustprune.run.config import OBJECTIVES, Config, TrainingSection
from robustprune.sparsity import check_allocation, group_weight


def check_combinations(config: Config, layers: Mapping[str, nn.Module]) -> None:
    """Refuse what a search would refuse, or could only ignore, hours later.

    Raises:
        ValueError: two options of which one has no effect, or as `check_training`.
    """
    check_training(config)
    search, methods = config.search, set(config.search.methods)
    if "rst" in methods and search.weights != "random":
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
    if "admm_l1" in methods and (search.pattern != "element" or search.allocate != "layer"):
        raise ValueError(
            "method admm_l1 decides weight by weight with one threshold for all layers; set "
            "search.pattern to element and search.allocate to layer"
        )
    if methods & {"admm", "admm_l1"}:
        admm = config.admm
        if admm.every > admm.epochs:
            raise ValueError(
                f"admm.every: {admm.every} exceeds admm.epochs: {admm.epochs}, so that Z and U "
                "would never be updated; set it to at most the epochs"
            )
        if admm.rho > admm.rho_max:
            raise ValueError(f"admm.rho: {admm.rho} exceeds admm.rho_max: {admm.rho_max}")
    if "lottery" in methods and ":" in search.pattern and config.lottery.rounds not in (None, 1):
        raise ValueError(
            f"lottery.rounds: {config.lottery.rounds} has no effect with pattern {search.pattern}, "
            "which keeps N of every M in the first round; set it to 1"
        )
    if methods == {"language"}:
        _check_language(config)
    if methods - {"language", "admm_l1"}:
        groups = {name: group_weight(layer, search.pattern) for name, layer in layers.items()}
        only_lottery = methods == {"lottery"} and search.allocate == "global"
        for density in search.density:
            if not (only_lottery and ":" in search.pattern):
                check_allocation(search.allocate, groups, None if methods == {"harp"} else density)


#: methods that score once, without data and with
ONE_SHOT = ("magnitude", "random", "snip", "grasp", "obd", "obd_ggn")
NEEDS_DATA = ("snip", "grasp", "obd", "obd_ggn")
#: whose option each is
_OF_OBJECTIVES = {
    "beta": ("trades", "smart", "mart"),
    "sigma": ("gaussian",),
    "replays": ("free",),
    "kappa": ("ibp", "crown-ibp"),
}


def check_training(config: Config) -> None:
    """Refuse what a training would refuse hours later, or could only ignore.

    Raises:
        ValueError: an optimizer that can't be built, or an option of an objective, an attack or
            fine-tuning that is not there.
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
    if inner.synonyms is None:
        _at_default(config, "inner", "synonyms_by", "inner.synonyms left out", ("inner.synonyms",))
    methods = set(config.search.methods)
    if "rst" in methods and config.search.weights != "random":
        _at_default(
            config, "search", "init", f"search.weights {config.search.weights}", ("random",)
        )
    if methods & set(ONE_SHOT) and not methods & set(NEEDS_DATA):
        _at_default(config, "one_shot", "batches", f"{', '.join(sorted(methods))}", NEEDS_DATA)
    if methods - {"lottery", "language"} and "reinit" not in config.finetune.modes:
        modes = f"finetune.modes {list(config.finetune.modes)}"
        _at_default(config, "finetune", "init", modes, ("reinit",))


def _at_default(
    config: Config, section: str, option: str, given: str, owners: tuple[str, ...]
) -> None:
    """Raise ValueError where an option says something though it has no effect."""
    fields, value = getattr(config, section), getattr(getattr(config, section), option)
    default = type(fields).model_fields[option].default
    if value != default:
        raise ValueError(
            f"{section}.{option}: {value} has no effect with {given}; it goes with "
            f"{', '.join(owners)}; leave it out, or at {default}"
        )


def _check_language(config: Config) -> None:
    search, granularity = config.search, config.language.granularity
    if search.allocate != "layer":
        raise ValueError(
            "method language compares all layers, and search.allocate has no effect; leave it out"
        )
    if granularity != "weight" and search.dense:
        raise ValueError(
            f"language.granularity: {granularity} masks {granularity}s in every layer, and "
            "search.dense has no effect; leave it out"
        )
