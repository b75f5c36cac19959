"""Check what can be pruned, and whether the options fit together."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks import Attack
from robustprune.layerwise.calibrate import AFTER
from robustprune.layerwise.fisher import OUTPUTS
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import is_solvable
from robustprune.layerwise.norms import BATCH_NORMS, batch_norms
from robustprune.layerwise.problem import LayerProblem, Solution
from robustprune.layerwise.route import Route, find_route
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.structures import STRUCTURES
from robustprune.layerwise.targets import TARGETS
from robustprune.run.suggest import did_you_mean
from robustprune.sparsity import LeftOut, MaskSet, weights_of
from robustprune.sparsity.coverage import left_out_of

#: problem -> mask and weights: a name of SOLVERS, or a function of the caller
SolverLike = str | Callable[..., Solution]


class FewExamples(UserWarning):
    """Layers have fewer calibration samples than inputs, so that many weights fit them equally."""


def route_of(
    network: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, device: torch.device
) -> Route:
    known = {name: layer for name, layer in layers.items() if is_solvable(layer)}
    try:
        return find_route(network, known, lambda: batch.call(network, device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the model does not take the loader's first batch: {reason}") from error


def masked_layers(layers: Mapping[str, nn.Module], masks: MaskSet) -> dict[str, nn.Module]:
    """Return the layers that have a mask.

    Raises:
        ValueError: a mask without a layer that can be pruned, of another shape, or that keeps
            nothing.
    """
    for name, mask in masks.items():
        layer = layers.get(name)
        if layer is None or not is_solvable(layer):
            raise ValueError(
                f"there is a mask for {name!r}, and the model has no layer of that name that can "
                "be pruned here"
            )
        shape = tuple(cast(Tensor, layer.weight).shape)
        if tuple(mask.shape) != shape or not bool(mask.any()):
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)} and keeps {int(mask.sum())} "
                f"weights; it must have the shape {shape} of the weight and keep one"
            )
    return {name: layer for name, layer in layers.items() if name in masks}


def supported(
    network: nn.Module, layers: Mapping[str, nn.Module], route: Route
) -> dict[str, nn.Module]:
    """Return the layers that can be pruned, and warn (`LeftOut`) of layers that stay dense.

    Raises:
        ValueError: there are none, or weights are NaN or infinite.
    """
    found = {name: layers[name] for name in route.calls}
    uncalled = [
        name
        for name, layer in layers.items()
        if is_solvable(layer) and name not in found and name not in route.unlike
    ]
    for names, why in (
        (uncalled, "are not called in the first batch"),
        (
            route.unlike,
            "answer otherwise than their weights say (by a forward or a hook of their own)",
        ),
    ):
        if names:
            weights = weights_of(layers)
            sizes = sum(weights[name].numel() for name in names)
            total = sum(weight.numel() for weight in weights.values())
            warnings.warn(
                f"{', '.join(names)} {why}, so that they stay dense: {sizes:,} of "
                f"{total:,} weights ({sizes / total:.0%})",
                LeftOut,
                stacklevel=4,
            )
    for name, layer in found.items():
        if not bool(torch.isfinite(cast(Tensor, layer.weight)).all()):
            raise ValueError(
                f"the weights of layer {name!r} are NaN or infinite; give a network that is trained"
            )
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no layer that can be pruned here: a Linear, Conv1d-3d "
            "or transformers' Conv1D that is called and not in `dense`"
        )
    unsolvable = [name for name, layer in layers.items() if not is_solvable(layer)]
    if (said := left_out_of(network, besides=unsolvable)) is not None:
        warnings.warn(said, LeftOut, stacklevel=4)
    return found


def without_cache(network: nn.Module) -> set[str]:
    """Keep language models from building a cache of keys and values.

    Return the names of the modules that would have built one.
    """
    names = {
        name
        for name, module in network.named_modules()
        if getattr(getattr(module, "config", None), "use_cache", None) is True
    }
    for name in names:
        cast(Any, network.get_submodule(name).config).use_cache = False
    return names


def checked_solver(
    solver: SolverLike, options: Mapping[str, Any], pattern: str
) -> Callable[..., Solution]:
    """Return the function that solves a layer.

    Raises:
        ValueError: the name is unknown, the solver lacks an option, or it can't choose groups of
            this pattern.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise ValueError(
                f"unknown solver {solver!r}{did_you_mean(solver, SOLVERS)}; choose one of "
                f"{', '.join(SOLVERS)}, or give a function (problem, **options) -> Solution"
            )
        if SOLVERS[solver].single and pattern != "element" and ":" not in pattern:
            raise ValueError(
                f"solver {solver!r} chooses single weights, and pattern {pattern!r} groups them; "
                "take pattern 'element' or N:M, or another solver"
            )
        solve = SOLVERS[solver].solve
    else:
        solve = solver
    named = solver if isinstance(solver, str) else getattr(solver, "__name__", "given")
    parameters = list(inspect.signature(solve).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return solve
    positional = inspect.Parameter.POSITIONAL_ONLY
    known = [p.name for p in parameters[1:] if p.kind is not positional]
    for name in options:
        if name == "mask" and name not in known:
            raise ValueError(
                f"solver {named!r} chooses masks itself; give masks to 'refit', 'admm', "
                "'sparsegpt' or 'dsnot'"
            )
        if name not in known:
            raise ValueError(
                f"unknown option {name!r}{did_you_mean(name, known)}; solver {named!r} has "
                f"{', '.join(known) or 'none'}"
            )
    return solve


def needed(density: float | None) -> float:
    if density is None:
        raise ValueError(
            "give `density`, the fraction to keep, or `masks` that were found elsewhere"
        )
    return density


def warn_of_few(few: Mapping[str, tuple[int, int]], layers: int) -> None:
    """Warn (`FewExamples`) of layers, of so many, with fewer samples than inputs."""
    if not few:
        return
    worst = min(few, key=lambda name: few[name][0] / few[name][1])
    samples, inputs = few[worst]
    warnings.warn(
        f"{len(few)} of {layers} layers have fewer calibration samples than inputs, so "
        f"that the ridge decides what the samples leave open: {worst!r} has a Gram matrix of "
        f"rank {samples} at most for {inputs} inputs; give more examples",
        FewExamples,
        stacklevel=5,
    )


def check_solution(solution: Solution, problem: LayerProblem, name: str) -> None:
    """Refuse what a solver returns for a layer if its shape is wrong or it is not finite."""
    if solution.mask.shape != problem.weight.shape or solution.weight.shape != problem.weight.shape:
        raise ValueError(
            f"the solver returned a weight of shape {tuple(solution.weight.shape)} and a mask of "
            f"{tuple(solution.mask.shape)} for layer {name!r}; both must have the shape "
            f"{tuple(problem.weight.shape)} of `problem.weight`"
        )
    if not bool(torch.isfinite(torch.where(solution.mask, solution.weight, 0.0)).all()):
        raise ValueError(
            f"the solver gave weights of layer {name!r} that are NaN or infinite; take dtype "
            "torch.float64, more examples, or a larger ridge where the solver has one"
        )


def check_structure(structure: str, pattern: str) -> None:
    """Refuse an unknown structure, and one with a pattern of its own."""
    if structure not in STRUCTURES:
        raise ValueError(
            f"unknown structure {structure!r}{did_you_mean(structure, STRUCTURES)}; choose one of "
            f"{', '.join(STRUCTURES)}"
        )
    if structure != "weight" and pattern != "element":
        raise ValueError(
            f"pattern {pattern!r} and structure {structure!r} both group weights; leave the "
            "pattern at 'element'"
        )


def check_batch_norm(network: nn.Module, batch_norm: str) -> None:
    """Refuse an unknown option, and an estimate without batch norms."""
    if batch_norm not in BATCH_NORMS:
        raise ValueError(
            f"unknown batch_norm={batch_norm!r}{did_you_mean(batch_norm, BATCH_NORMS)}; choose one "
            f"of {', '.join(BATCH_NORMS)}"
        )
    if batch_norm == "estimate" and not batch_norms(network):
        raise ValueError(
            f"{type(network).__name__} has no batch norm with running statistics, so that "
            "batch_norm='estimate' has no effect; leave it at 'keep'"
        )


def check_options(
    target: str,
    after: str,
    outputs: str,
    attack: Attack | None,
    batches: int | None,
    clean: float | None,
    sweeps: int,
    dtype: torch.dtype,
) -> None:
    if target not in TARGETS:
        raise ValueError(
            f"unknown target {target!r}{did_you_mean(target, TARGETS)}; choose one of "
            f"{', '.join(TARGETS)}"
        )
    if after not in AFTER:
        raise ValueError(
            f"unknown after={after!r}{did_you_mean(after, AFTER)}; choose one of {', '.join(AFTER)}"
        )
    if outputs not in OUTPUTS:
        raise ValueError(
            f"unknown outputs={outputs!r}{did_you_mean(outputs, OUTPUTS)}; choose one of "
            f"{', '.join(OUTPUTS)}"
        )
    if batches is not None and batches < 1:
        raise ValueError(f"batches={batches} must be at least 1, or None for all")
    if clean is not None and attack is None:
        raise ValueError(f"clean={clean!r} has no effect without an attack; leave it out")
    if clean is not None and not 0 <= clean <= 1:
        raise ValueError(f"clean={clean!r} must be in [0, 1], the share of examples left clean")
    if sweeps < 1:
        raise ValueError(f"sweeps={sweeps} must be at least 1")
    if sweeps > 1 and attack is None:
        raise ValueError(
            f"sweeps={sweeps} has no effect without an attack: the inputs of a layer depend on the "
            "layers before it only, and a second walk would give them the same weights"
        )
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} must be torch.float64 or torch.float32")
