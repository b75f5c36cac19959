"""Greedy sparse recovery: weights are added one by one, and each row is a sparse regression.

Of a row's problem min ‖w X̂ − t‖² only H = X̂ X̂ᵀ and b = t X̂ᵀ are needed: the residual r = t − w X̂
of the least squares on a support S has the correlations c = r X̂ᵀ = b − w H with the inputs, and

    matching pursuit adds argmax_j |c_j| / √H_jj.

The least squares are not solved again at each step. With the Gram-Schmidt directions q of the
inputs of S, kept as their products p = q X̂ᵀ with all inputs, a new input j brings

    v = H_j − Σ_p p_j p,   p ← v / √v_j,   α = c_j / √v_j,   c ← c − α p,   ‖r‖² ← ‖r‖² − α².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustprune.layerwise.bundles import Bundles, bundles_of
from robustprune.layerwise.obs import check_columns
from robustprune.layerwise.problem import LayerProblem, Quadratic, RidgeBy, Solution
from robustprune.layerwise.refit import MEMORY, least_squares


@dataclass
class Stage:
    """The state of a pursuit over all bundles of rows, which a rule can read.

    Attributes:
        step: number of blocks of columns that each bundle has.
        scores: (bundles, blocks), the present Σ c_j² / H_jj; −∞ where a block can't be added.
        frozen: the scores at the start of the stage, −∞ where a block can't be added.
        gained: (bundles,), the decrease of ‖r‖² so far.
    """

    step: int
    scores: Tensor
    frozen: Tensor
    gained: Tensor


#: which bundles begin a new stage and choose by the present correlations: (bundles,), boolean
Rule = Callable[[Stage], Tensor]


def omp(
    problem: LayerProblem,
    *,
    relative_to: Literal["input", "residual"] = "input",
    ridge: float = 0.01,
    by: RidgeBy = "input",
    most_columns: int = 1152,
) -> Solution:
    """Orthogonal matching pursuit (OMP; Pati et al. 1993; Tropp & Gilbert 2007).

    It adds the input that correlates best with the residual, then solves again. Groups of weights
    are added by their Σ c_j² / H_jj (block and simultaneous OMP). Where all weights of a layer are
    compared, of the next weights of all rows the one that lowers the error most is added.

    Args:
        relative_to: "input" correlates the residual with inputs; "residual" with the part of each
            input that the support doesn't span, so that the weight that lowers the error most is
            added: orthogonal least squares (Chen et al. 1989).
        ridge, by: see `LayerProblem.quadratic`; the papers have no ridge.
        most_columns: larger layers are refused, because the time grows as rows · columns³.

    Raises:
        ValueError: there are more columns; inputs of a support are linearly dependent; see
            `bundles_of`.
    """

    def rule(stage: Stage) -> Tensor:
        return torch.ones_like(stage.gained, dtype=torch.bool)

    return _solve(problem, lambda *_: rule, ridge, by, most_columns, relative_to == "residual")


def gomp(
    problem: LayerProblem,
    *,
    at_a_time: int = 4,
    over: float = 1.5,
    ridge: float = 0.01,
    by: RidgeBy = "input",
    most_columns: int = 1152,
) -> Solution:
    """Generalised OMP (Wang et al. 2012): it adds the `at_a_time` best inputs, then solves again.

    If more are added than wanted, the largest weights stay. Other options are those of `omp`.

    Args:
        at_a_time: N of the paper, at least 1.
        over: how many times `kept` weights are added, at least 1; the paper adds up to N times
            `kept`.

    Raises:
        ValueError: as for `omp`; `at_a_time` or `over` is below 1.
    """
    if at_a_time < 1 or not over >= 1:
        raise ValueError(f"at_a_time and over must be at least 1, got {at_a_time!r} and {over!r}")

    def rule(stage: Stage) -> Tensor:
        return torch.full_like(stage.gained, stage.step % at_a_time == 0, dtype=torch.bool)

    return _solve(problem, lambda *_: rule, ridge, by, most_columns, over=over)


def stomp(
    problem: LayerProblem,
    *,
    threshold: float = 2.5,
    over: float = 1.5,
    ridge: float = 0.01,
    by: RidgeBy = "input",
    most_columns: int = 1152,
) -> Solution:
    """Stagewise OMP (Donoho et al. 2012): add all inputs with |c_j| / √H_jj > t ‖r‖ / √samples.

    r is the part of the residual that the inputs can still reach. The paper stops where no input
    passes; here the best one is added then, as in OMP. Other options are those of `omp`.

    Args:
        threshold: t > 0; the paper uses 2 to 3.
        over: how many times `kept` weights are added, at least 1; the largest of them stay.

    Raises:
        ValueError: as for `omp`; the threshold is not positive, or `over` is below 1.
    """
    if not threshold > 0 or not over >= 1:
        raise ValueError(
            f"threshold must be positive and over at least 1, got {threshold!r} and {over!r}"
        )

    def rules(quadratic: Quadratic, bundles: Bundles) -> Rule:
        values, vectors = torch.linalg.eigh(quadratic.hessian.double())
        seen = values > values[:, -1:] * values.shape[-1] * torch.finfo(quadratic.cross.dtype).eps
        along = (quadratic.cross.double() @ vectors).square()
        energy = torch.where(seen, 1 / values, 0.0).unsqueeze(1).mul(along).sum(-1, keepdim=True)
        reachable = bundles.matrices(energy.flatten(0, 1)).sum((1, 2))

        def rule(stage: Stage) -> Tensor:
            left = (reachable - stage.gained).clamp(min=0) / problem.samples
            stage_left = torch.where(stage.frozen.amax(1) > bar, False, True)
            bar[stage_left] = threshold**2 * left[stage_left]
            return stage_left

        bar = torch.full_like(reachable, torch.inf)
        return rule

    return _solve(problem, rules, ridge, by, most_columns, over=over)


def cosamp(
    problem: LayerProblem,
    *,
    iterations: int = 20,
    ridge: float = 0.01,
    by: RidgeBy = "input",
) -> Solution:
    """Compressive sampling matching pursuit (CoSaMP; Needell & Tropp 2009).

    It adds the 2k groups of weights that correlate best with the residual, solves, and keeps the k
    largest. All weights that are compared are one vector here, so that k is the `kept` of the layer
    or of each row. It stops when the mask no longer changes, and solves for the best mask of all.

    Args:
        iterations: largest number of iterations.
        ridge, by: see `LayerProblem.quadratic`.

    Raises:
        ValueError: inputs of a support of 3k are linearly dependent, or iterations are below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations!r}")
    quadratic = problem.quadratic(ridge, by=by)
    size = quadratic.hessian.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-2)
    weight = torch.zeros_like(problem.weight)
    mask = best = torch.zeros_like(weight, dtype=torch.bool)
    lowest = float("inf")
    for _ in range(iterations):
        correlation = (quadratic.cross - weight @ quadratic.hessian) / size
        more = problem.choose(correlation.square(), min(2 * problem.kept, problem.groups.number))
        merged = least_squares(quadratic, mask | more)
        last, mask = mask, problem.choose((merged * size).square())
        weight = least_squares(quadratic, mask)
        error = float((weight * (weight @ quadratic.hessian - 2 * quadratic.cross)).sum())
        if error < lowest:
            lowest, best = error, mask
        if torch.equal(mask, last):
            break
    return Solution(least_squares(quadratic, best), best)


def _solve(
    problem: LayerProblem,
    rules: Callable[[Quadratic, Bundles], Rule],
    ridge: float,
    by: RidgeBy,
    most_columns: int,
    residual: bool = False,
    over: float = 1.0,
) -> Solution:
    check_columns(problem, most_columns)
    quadratic = problem.quadratic(ridge, by=by)
    bundles = bundles_of(problem).times(over)
    piece = max(1, MEMORY // (quadratic.cross.itemsize * problem.weight.shape[-1] ** 2))
    numbers, gains = [], []
    for start in range(0, len(bundles.rows), piece):
        part = bundles.part(slice(start, start + piece))
        number, gain = _add(quadratic, part, rules(quadratic, part), residual)
        numbers.append(number)
        gains.append(gain)
    # a group never comes before those that were added to its row earlier, however good it is
    reached = torch.cat(gains).cummin(1).values.flatten()
    wanted = math.ceil(over * problem.kept) if bundles.each is None else len(reached)
    best = reached.argsort(descending=True, stable=True)[:wanted]
    kept = torch.zeros(problem.groups.number, dtype=torch.bool, device=best.device)
    mask = problem.spread(kept.index_fill_(0, torch.cat(numbers).flatten()[best], True))
    weight = least_squares(quadratic, mask)
    if wanted > problem.kept:
        energy = quadratic.hessian.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        mask = problem.choose((weight.square() * energy).masked_fill(~mask, -torch.inf))
        weight = least_squares(quadratic, mask)
    return Solution(weight, mask)


def _add(
    quadratic: Quadratic, bundles: Bundles, rule: Rule, residual: bool
) -> tuple[Tensor, Tensor]:
    """Add blocks to every bundle, until it has `bundles.each` blocks, or all.

    Return the groups of weights that were added, and by how much each lowered ‖r‖², both
    (bundles, steps).
    """
    cross = bundles.matrices(quadratic.cross.flatten(0, 1))
    count, _, columns = cross.shape
    blocks, here = bundles.blocks, torch.arange(count, device=cross.device)
    energy = quadratic.hessian.diagonal(dim1=-2, dim2=-1)[bundles.home]
    new = energy.clone()  # the energy of each input that S doesn't span
    least = 10 * columns * torch.finfo(cross.dtype).eps * energy
    steps = len(blocks) if bundles.each is None else bundles.each
    products = cross.new_zeros(count, steps * blocks.shape[1], columns)
    free = torch.ones(count, len(blocks), dtype=torch.bool, device=cross.device)
    room = bundles.most.repeat(count, 1)
    stage = Stage(
        0, new, torch.full_like(free, -torch.inf, dtype=cross.dtype), new.new_zeros(count)
    )
    inside, width, numbers, gains = (blocks >= 0).to(cross.dtype), 0, [], []
    for step in range(steps):
        score = cross.square().sum(1) / torch.maximum(new if residual else energy, least)
        score = (score[:, blocks.clamp(min=0)] * inside).sum(2)
        closed = ~free | (room == 0)[:, bundles.family]
        stage.step, stage.scores = step, score.masked_fill(closed, -torch.inf)
        stage.frozen = stage.frozen.masked_fill(closed, -torch.inf)
        begin = rule(stage).unsqueeze(1)
        stage.frozen = torch.where(begin, stage.scores, stage.frozen)
        block = stage.frozen.argmax(1)
        numbers.append(bundles.number[here, block])
        free[here, block] = False
        room[here, bundles.family[block]] -= 1
        gain = torch.zeros_like(stage.gained)
        for column in blocks[block].T:
            j = column.clamp(min=0)
            before = products[:, :width]
            fresh = quadratic.hessian[bundles.home, j]
            fresh = fresh - (before[here, :, j].unsqueeze(1) @ before).squeeze(1)
            pivot = fresh[here, j]
            usable = (column >= 0) & (pivot > least[here, j])
            root = torch.where(usable, pivot, 1.0).sqrt()
            product = torch.where(usable, 1 / root, 0.0).unsqueeze(1) * fresh
            alpha = torch.where(usable, 1 / root, 0.0).unsqueeze(1) * cross[here, :, j]
            cross -= alpha.unsqueeze(2) * product.unsqueeze(1)
            new -= product.square()
            gain += alpha.square().sum(1)
            products[:, width] = product
            width += 1
        stage.gained = stage.gained + gain
        gains.append(gain)
    if not numbers:
        return bundles.number[:, :0], cross.new_zeros(count, 0)
    return torch.stack(numbers, 1), torch.stack(gains, 1)
