"""Scores choose masks without a change of weights; solvers are compared with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Solution


def magnitude_scores(problem: LayerProblem) -> Tensor:
    """Return |w_ij|, (groups, rows, columns)."""
    return problem.weight.abs()


def wanda_scores(problem: LayerProblem) -> Tensor:
    """Return |w_ij| · ‖x̂_j‖₂, (groups, rows, columns); Sun et al. 2023, arXiv 2306.11695."""
    return problem.weight.abs() * problem.energy.sqrt().unsqueeze(-2)


def ria_scores(problem: LayerProblem, power: float = 0.5) -> Tensor:
    """Return (|w_ij| / Σ_i |w_ij| + |w_ij| / Σ_j |w_ij|) · ‖x̂_j‖₂^power, (groups, rows, columns).

    These are relative importance and activations (Zhang et al., ICLR 2024, "Plug-and-Play").
    """
    size = problem.weight.abs()
    least = torch.finfo(size.dtype).tiny
    relative = sum(size / size.sum(d, keepdim=True).clamp(min=least) for d in (-2, -1))
    return relative * problem.energy.sqrt().pow(power).unsqueeze(-2)


#: scores by name, for the choice of a mask
SCORES: Mapping[str, Callable[[LayerProblem], Tensor]] = {
    "magnitude": magnitude_scores,
    "wanda": wanda_scores,
    "ria": ria_scores,
}


def choose_by(problem: LayerProblem, scores: str) -> Tensor:
    """Return the mask of the groups with the largest Σ score, (groups, rows, columns).

    Raises:
        ValueError: the scores are unknown.
    """
    if scores not in SCORES:
        raise ValueError(f"unknown scores {scores!r}; choose one of {', '.join(SCORES)}")
    return problem.choose(SCORES[scores](problem))


def magnitude(problem: LayerProblem) -> Solution:
    """Keep the largest weights unchanged."""
    return as_they_are(problem, problem.choose(magnitude_scores(problem)))


def wanda(problem: LayerProblem, *, by_row: bool = False) -> Solution:
    """Keep the weights with the largest |w_ij| · ‖x̂_j‖₂ unchanged, see `wanda_scores`.

    The paper compares the weights of each output, which needs `problem.groups.by_row`.

    Args:
        by_row: whether each output keeps equally many also where `problem.kept`, such as that of
            OWL, is not divisible by their number; it is rounded up, as by the authors of both.
    """
    if by_row and not problem.groups.by_row:
        outputs = problem.weight.shape[0] * problem.weight.shape[1]
        kept = -(-problem.kept // outputs) * outputs
        problem = replace(problem, groups=replace(problem.groups, by_row=True), kept=kept)
    return as_they_are(problem, problem.choose(wanda_scores(problem)))


def ria(problem: LayerProblem, *, power: float = 0.5) -> Solution:
    """Keep the weights with the largest relative importance unchanged, see `ria_scores`."""
    return as_they_are(problem, problem.choose(ria_scores(problem, power)))


def as_they_are(problem: LayerProblem, mask: Tensor) -> Solution:
    """Keep the weights of a mask unchanged."""
    return Solution(torch.where(mask, problem.weight, 0.0), mask)
