"""The methods, each in one row. The pipeline, the plan, `robustprune list` and the comparison of
runs know methods only by these rows.

A new method needs its search in `search/`, a section and its name in `run/sections.py`, a row here
and a page in `docs/methods/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from robustprune.pipeline import combinations
from robustprune.pipeline.fit import Training
from robustprune.pipeline.method import Method
from robustprune.pipeline.searches import (
    compensate,
    find_scratch,
    own_options,
    published,
    score_once,
    searched,
    solve_layers,
    train_sparsely,
)
from robustprune.pipeline.tickets import (
    find_language,
    find_lottery,
    language_trainings,
    lottery_trainings,
)
from robustprune.run.config import Config
from robustprune.search import prune_admm, prune_gradual, prune_l0, prune_scores, prune_twin
from robustprune.search.sparse_methods import check_way
from robustprune.sparsity.criteria import CRITERIA

#: the names of criteria in the benchmark's taxonomy (Piras et al. 2024, arXiv 2409.01249)
_LEAST_SCORE = "Least Importance Score (LIS)"
_SOLVER = "Solver Based LWM (SOLWM)"
_MAGNITUDE = "Lowest Weight Magnitude LWM"


def _rtt(config: Config) -> tuple[str, str] | None:
    """Return the paper's name of a scratch ticket over trained weights."""
    weights = config.search.weights
    return None if weights == "random" else ("rtt", f"RTT from {weights}")


def _l1(config: Config) -> tuple[str, str]:
    """Return its name with the weight λ, because its density is a result."""
    return "admm_l1", f"ADMM, l1 weight {config.admm.l1 or 0:g}"


def _bits(config: Config) -> tuple[str, str] | None:
    """Return its title with the bits of a value, where they are limited."""
    bits = config.admm.bits
    return None if bits is None else ("admm", f"ADMM, {bits} bits")


def _one_shot(
    name: str, title: str, summary: str, benchmark: str = _LEAST_SCORE, **fields: Any
) -> Method:
    """Return the row of a criterion of `sparsity.criteria`."""

    def plan(config: Config, model: str, density: float) -> list[Training]:
        seen = config.one_shot.batches if CRITERIA[name].needs_data else 0
        return [Training(model, "one-shot", 0, batches=seen)]

    return Method(
        name, "one_shot", title, f"one shot: {summary}", score_once, benchmark,
        plan=plan, check=combinations.check_one_shot, **fields,
    )  # fmt: skip


def _fisher_batches(config: Config, model: str, density: float) -> list[Training]:
    """Return the plan of WoodFisher: the batches with its examples, for each estimate."""
    section = config.woodfisher
    batches = -(-section.gradients * section.examples // config.task.batch_size)
    return [Training(model, "one-shot", 0, batches=section.estimates * batches)]


def _layerwise(
    name: str,
    title: str,
    summary: str,
    causal: Callable[[Config], dict[str, Any]],
    **fixed: Any,
) -> Method:
    """Return a method that solves the least squares of each layer. `fixed` are the solver, its
    options and the allocation, where they are not those of the config."""

    def plan(config: Config, model: str, density: float) -> list[Training]:
        return [Training(model, "one-shot", 0, batches=config.layerwise.batches or 0)]

    def allots(config: Config) -> tuple[float | None, ...]:
        owl = fixed.get("allocate", config.search.allocate) == "owl"
        return () if owl else config.search.density

    def variant(config: Config) -> tuple[str, str] | None:
        solver = config.layerwise.solver
        own = name == "layerwise" and solver != "admm"
        return (name, f"layer-wise {solver}") if own else None

    return Method(
        name, "layerwise", title, f"without training: {summary}", partial(solve_layers, **fixed),
        _SOLVER, plan=plan, check=combinations.check_layerwise, allots=allots, variant=variant,
        causal=causal,
    )  # fmt: skip


def _sparse(name: str, title: str, summary: str, *, iterative: bool = True) -> Method:
    """Return a row of the table of sparse training."""
    return Method(
        name, "sparse", title, f"sparse training: {summary}", train_sparsely, _MAGNITUDE,
        check=combinations.check_sparse, trained=True, iterative=iterative,
    )  # fmt: skip


_ALL = (
    Method(
        "rst", "search", "RST",
        "robust scratch ticket: a mask learned over random weights (Fu et al. 2021)",
        find_scratch, _LEAST_SCORE,
        check=combinations.check_scratch, variant=_rtt, scratch=True,
    ),
    Method(
        "admm", "admm", "ADMM",
        "pruning by ADMM during adversarial training (Ye et al. 2019)",
        searched(prune_admm, l1=None), _SOLVER,
        check=combinations.check_admm, variant=_bits,
    ),
    Method(
        "admm_l1", "admm", "ADMM",
        "its l1 form: a weight λ instead of a density",
        searched(prune_admm, density=None, bits=None, hold=0.5), _SOLVER,
        check=combinations.check_admm_l1, allots=lambda config: (), takes_density=False,
        variant=_l1,
    ),
    Method(
        "hydra", "scores", "HYDRA",
        "scores learned under the robust loss (Sehwag et al. 2020)",
        searched(prune_scores, validated=True, method="hydra", cost=None), _LEAST_SCORE,
        check=combinations.check_hydra,
    ),
    Method(
        "harp", "scores", "HARP",
        "scores and each layer's share learned under the robust loss (Zhao et al. 2023)",
        searched(prune_scores, method="harp"), _LEAST_SCORE,
        check=combinations.check_harp, allots=lambda config: (None,), everywhere=True,
    ),
    Method(
        "lottery", "lottery", "lottery ticket",
        "train, prune, rewind, in rounds, with controls (Frankle & Carbin 2019)",
        find_lottery, _MAGNITUDE,
        plan=lottery_trainings, check=combinations.check_lottery, trained=True, iterative=True,
    ),
    Method(
        "gradual", "gradual", "gradual pruning",
        "magnitude pruning while the network is trained (Zhu & Gupta 2017)",
        searched(prune_gradual), _MAGNITUDE,
        check=lambda config: check_way(config.gradual.start, config.gradual.stop),
        trained=True, iterative=True,
    ),
    _sparse("static", "static", "a random mask that stays", iterative=False),
    _sparse("set", "SET", "random growth each epoch (Mocanu et al. 2018)"),
    _sparse("rigl", "RigL", "growth by the gradient (Evci et al. 2020)"),
    _sparse("itop", "ITOP", "many weights are tried, at random (Liu et al. 2021)"),
    _sparse("mest", "MEST+EM", "little is exchanged, less and less (Yuan et al. 2021)"),
    _sparse("mest_ems", "MEST+EM&S", "new weights come on top for a while (Yuan et al. 2021)"),
    _sparse("granet", "GraNet", "gradual pruning from 50%, with growth (Liu et al. 2021)"),
    _sparse("hard_thresholding", "hard thresholding", "the largest weights after each step"),
    _sparse("flyingbird", "Flying Bird", "random growth under attack (Chen et al. 2022)"),
    _sparse("flyingbird_plus", "Flying Bird+", "whose density follows validation (ibid.)"),
    Method(
        "l0", "l0", "L0 gates",
        "weights and random gates of their groups, trained together (Louizos et al. 2018)",
        searched(prune_l0, validated=True, draws=True, penalty=None),
        check=combinations.check_l0,
    ),
    Method(
        "twin", "twin", "Twin-Rep",
        "weights as products of two, cut once early in the training (Li et al. 2023)",
        searched(prune_twin, draws=True), _MAGNITUDE,
        check=combinations.check_twin, trained=True,
    ),
    Method(
        "language", "language", "robust ticket",
        "masks learned under attack over a pre-trained model's weights (Zheng et al. 2022)",
        find_language, _LEAST_SCORE,
        plan=language_trainings, check=combinations.check_language, trained=True,
        allots=lambda config: (),
    ),
    _one_shot(
        "magnitude", "magnitude", "the largest weights", _MAGNITUDE, causal=published("magnitude")
    ),
    _one_shot("random", "random", "random weights, as a control", "Not Specified"),
    _one_shot("snip", "SNIP", "|weight × gradient| (Lee et al. 2019)"),
    _one_shot("grasp", "GraSP", "weights that preserve the gradient's norm (Wang et al. 2020)"),
    _one_shot("obd", "OBD", "the diagonal of the Hessian (LeCun et al. 1990)"),
    _one_shot(
        "obd_ggn", "OBD, Gauss-Newton", "the diagonal of the generalised Gauss-Newton matrix"
    ),
    Method(
        "woodfisher", "woodfisher", "WoodFisher",
        "without training: OBS with the empirical Fisher matrix (Singh & Alistarh 2020)",
        compensate, _SOLVER,
        plan=_fisher_batches,
    ),
    _layerwise(
        "layerwise", "layer-wise ADMM", "one least-squares problem for each layer, by ADMM",
        own_options,
    ),
    _layerwise(
        "wanda", "Wanda", "|weight| x ‖input‖ (Sun et al. 2023)",
        published("wanda", allocate="row"), solver="wanda",
    ),
    _layerwise(
        "sparsegpt", "SparseGPT", "OBS in one pass over columns (Frantar & Alistarh 2023)",
        published("sparsegpt"), solver="sparsegpt",
    ),
    _layerwise(
        "owl", "OWL + SparseGPT", "SparseGPT, with layer ratios by outliers (Yin et al. 2024)",
        published("sparsegpt", allocate="owl"), solver="sparsegpt", allocate="owl",
    ),
    _layerwise(
        "owl_wanda", "OWL + Wanda", "Wanda, with layer ratios by outliers (Yin et al. 2024)",
        published("wanda", allocate="owl", by_row=True),
        solver="wanda", allocate="owl", by_row=True,
    ),
    _layerwise(
        "obs", "OBS", "weight by weight, others compensate (Hassibi & Stork 1993)",
        published("obs"), solver="obs",
    ),
)  # fmt: skip

#: all methods by their names, in the order of `run.sections.METHODS`
ROWS: Mapping[str, Method] = {row.name: row for row in _ALL}


def methods_of(config: Config) -> list[Method]:
    """Return the rows that the config names, in its order."""
    return [ROWS[name] for name in config.search.methods]


def check_methods(config: Config) -> None:
    """Refuse options that a search would refuse hours later, or could only ignore.

    Raises:
        ValueError: an option has no effect beside another one, or two options contradict each
            other.
    """
    methods = methods_of(config)
    for method in methods:
        if method.check is not None:
            method.check(config)
    if any(not method.trained for method in methods):
        combinations.check_finetune(config)
