"""Differentiable bounds for certified training, without rounding errors."""

from __future__ import annotations

from torch import Tensor, nn

from attacks import ThreatModel
from attacks.inputs import check_batch
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.input_set import input_set
from robustprune.bounds.interval import Sweep, sweep
from robustprune.bounds.linear import least, least_by_intervals, tightened_all
from robustprune.bounds.specification import by_class, margins_over_others


def interval_margins(
    model: nn.Module | BoundGraph, x: Tensor, y: Tensor, threat: ThreatModel
) -> Tensor:
    """Return IBP lower bounds of z_y − z_j over the threat set (arXiv 1810.12715).

    ``F.cross_entropy(-margins, y)`` is the worst-case loss of Eq. 11 of Gowal et al. 2018.

    A batch norm in train mode uses the mean and variance of the *clean* batch, with their
    gradients, as certified training with batch norm does (Shi et al. 2021, arXiv 2103.17268); in
    eval mode it uses its running statistics. These are not updated here, but by the clean forward
    pass of the same step. Dropout is left out.

    Weights are read through their modules, so masks and scores behind a parametrization get
    gradients.

    Args:
        model: the model, or ``trace(model)``, which avoids a trace in every step.
        x: (N, …), in the dtype of the weights; y: (N,).

    Returns:
        (N, C), differentiable in the parameters, with 0 at j = y.

    Raises:
        ValueError: an operation has no bounds, or labels or shapes do not fit.
    """
    known, A = _around(model, x, y, threat)
    return by_class(least_by_intervals(known, A), y, own=0.0)


def crown_ibp_margins(
    model: nn.Module | BoundGraph, x: Tensor, y: Tensor, threat: ThreatModel
) -> Tensor:
    """Return CROWN-IBP lower bounds of z_y − z_j (Zhang et al. 2020, arXiv 1906.06316, §3.2).

    It uses intervals for the inputs of the nonlinearities and one linear bound for the margins.
    Everything else is as in ``interval_margins``.
    """
    known, A = _around(model, x, y, threat)
    return by_class(least(known, A, known.program.output), y, own=0.0)


def _around(
    model: nn.Module | BoundGraph, x: Tensor, y: Tensor, threat: ThreatModel
) -> tuple[Sweep, Tensor]:
    y = check_batch(x, y)
    graph = trace(model)
    batch_norm = any(
        isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.training
        for module in graph.model.modules()
    )
    program = graph.program(x if batch_norm else x[:2], batch_statistics=True)
    A = margins_over_others(y, program)
    inputs = input_set(x, threat, x.dtype)
    return sweep(program, inputs, exact=tightened_all), A
