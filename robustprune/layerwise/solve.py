"""One walk over the layers of a network: each is solved and takes its new weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from robustprune.layerwise.calibrate import After, Pair, layer_of, walk
from robustprune.layerwise.checks import check_solution, warn_of_few
from robustprune.layerwise.moments import Moments, as_matrices, as_weight
from robustprune.layerwise.problem import Solution
from robustprune.layerwise.resume import Solved
from robustprune.layerwise.route import Route
from robustprune.layerwise.targets import TargetName
from robustprune.minmax import EpochRecord, History
from robustprune.sparsity import Groups, MaskSet


@dataclass(frozen=True)
class Plan:
    """The options for each layer."""

    solve: Callable[..., Solution]
    options: Mapping[str, Any]
    groups: Mapping[str, Groups]
    counts: Mapping[str, int]
    bias: bool
    scaled: bool
    masks: MaskSet | None
    felt: Mapping[str, Tensor]


def one_walk(
    pair: Pair,
    route: Route,
    plan: Plan,
    seen: tuple[TargetName, After],
    dtype: torch.dtype,
    history: History,
    solved: Solved,
) -> dict[str, Tensor]:
    """Prune `pair.pruned` and return the masks; the history gets one record per layer. Layers that
    are solved already take what was found for them."""
    masks: dict[str, Tensor] = {}
    few: dict[str, tuple[int, int]] = {}
    began = time.perf_counter()
    target, after = seen
    steps = walk(pair, route, target=target, after=after, dtype=dtype, solved=solved)
    for names, moments in steps:
        for name in names:
            layer = layer_of(pair.pruned, name)
            if name in solved:
                masks[name], record = solved.restore(name, layer)
                history.append(record)
                continue
            assert moments is not None, "only layers that are solved have none"
            masks[name], error = _solve(pair, plan, name, moments)
            inputs = int((moments.gram.diagonal(dim1=-2, dim2=-1) > 0).sum(-1).max())
            if moments.samples < inputs:
                few[name] = moments.samples, inputs
            now = time.perf_counter()
            history.append(_record(name, len(history), error, masks[name], now - began))
            solved.keep(layer, masks[name], history[-1])
            began = now
        del moments  # before the sums of the next layers are made
    warn_of_few(few, len(masks))
    return masks


def _record(name: str, number: int, error: float, mask: Tensor, seconds: float) -> EpochRecord:
    """Return a layer's record for the history."""
    density = float(mask.double().mean())
    return EpochRecord(
        epoch=number, step=number + 1, loss=error, clean=None, robust=None, lr=0.0, seconds=seconds,
        figures={"relative_error": error, "density": density}, layer=name,
    )  # fmt: skip


@torch.no_grad()
def _solve(pair: Pair, plan: Plan, name: str, moments: Moments) -> tuple[Tensor, float]:
    """Solve one layer, put its weights into the pruned network, and return its mask and error."""
    groups = plan.groups[name]
    weight = cast(Tensor, layer_of(pair.dense, name).weight)
    layer = layer_of(pair.pruned, name)
    refit_bias = plan.bias and isinstance(layer.bias, Tensor)
    if name in plan.felt:
        moments.scale[name] = plan.felt[name].to(moments.gram)
    problem = moments.problem(
        name, groups, weight, plan.counts[name], centred=refit_bias, scaled=plan.scaled
    )
    options = dict(plan.options)
    if plan.masks is not None:
        options["mask"] = as_matrices(groups, plan.masks[name].to(weight.device))
    try:
        solution = plan.solve(problem, **options)
    except ValueError as error:
        raise ValueError(f"layer {name!r} can't be solved: {error}") from error
    check_solution(solution, problem, name)
    found = torch.where(solution.mask, solution.weight, 0.0)
    away = problem.error(found)
    scale = moments.row_scale(name) if plan.scaled else 1.0
    found = found / scale
    cast(Tensor, layer.weight).copy_(as_weight(groups, found))
    if refit_bias:
        bias = cast(Tensor, layer.bias)
        step = moments.bias_step(name, problem.weight / scale, found)
        bias.copy_((bias.to(step) + step).to(bias.dtype))
    return as_weight(groups, solution.mask), away
