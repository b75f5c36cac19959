"""WoodFisher: the optimal brain surgeon of a trained network, with the empirical Fisher matrix.

In each block of weights w, with the gradients g_n of N losses as the rows of G,

    F = λI + (1/N) Σ_n g_n g_nᵀ = λI + GᵀG/N        (the stand-in for the Hessian)
    ρ_q = w_q² / (2 [F⁻¹]_qq)                        (the loss that removing w_q alone costs)
    δw = argmin ½ δᵀFδ subject to δ_S = −w_S         (what the weights that stay make up for)

(Singh & Alistarh 2020, arXiv 2004.14340, Sec. 4; Hassibi & Stork 1993). The paper adds up F⁻¹ by N
updates of rank one, and the changes of the removed weights as if each were removed alone. The
Woodbury identity gives the same F⁻¹ from one N × N matrix, so that a block may be a whole layer.
The change here is the least for all removed weights S together. A later step goes on from the
minimum on the weights K that are left, with F restricted to them, that is with G on K alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from attacks import Attack, evaluating
from robustprune.minmax import Batches, History, Natural, Objective
from robustprune.search.one_shot import checked_batches
from robustprune.search.ticket import (
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    refuse_others,
)
from robustprune.sparsity import Allocation, MaskSet, check_density, check_pattern, weights_of
from robustprune.sparsity.allocation import keep_along
from robustprune.sparsity.criteria import at_least_float32


def prune_woodfisher(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    gradients: int = 128,
    examples: int = 1,
    block: int | None = None,
    damping: float = 1e-3,
    steps: int = 16,
    estimates: int = 1,
    device: torch.device | str | None = None,
) -> Ticket:
    """Remove the weights that cost least by the empirical Fisher matrix, and change the others so
    that they make up for them. Nothing is trained.

    The loss of a weight is ρ = w²/(2 [F⁻¹]), that of a group the sum of its weights'. See the head
    of this module for the formulas, and `finetune_ticket(..., mode="inherit")` for what follows.

    Args:
        model: a trained network, which is copied and never changed. At a minimum of the loss F is
            close to the Hessian.
        loader: an iterable of (x, y) batches; the first `gradients` · `examples` examples are used.
        density: the fraction of the groups to keep, in (0, 1].
        attack, objective: the loss whose gradients are taken, under attack if it attacks; by
            default the plain cross-entropy. Give at most one.
        pattern, allocate, dense: as in `find_scratch_ticket`; "global" compares ρ of all layers.
        seed: it must be 0, because this search draws no random numbers.
        gradients: N, the number of gradients, or fewer if the loader ends. They are in memory
            together, N · 4 bytes for each weight.
        examples: the number of examples whose mean loss gives one gradient; 1 is the definition.
        block: the number of consecutive weights of a layer in a block; None for the whole layer.
        damping: λ, in units of a squared gradient. It decides how much may be made up for.
        steps: the number of steps in which the density falls, d^(i/steps) in step i. Each computes
            ρ anew for the weights that are left. The paper has one; but where weights can stand in
            for each other, each of them looks cheap, and one step would remove them all.
        estimates: how many times F is estimated, each time from the network that is left, for
            `steps` steps.
        device: where to compute; None for the device of the model.

    Raises:
        ValueError: an option is out of range or has no effect, nothing can be masked, the loader is
            empty, or gradients are not finite.
    """
    check_pattern(pattern, check_density(density))
    refuse_others("the examples are the first of the loader", seed=(seed, 0))
    counts = {
        "gradients": gradients, "examples": examples, "steps": steps, "estimates": estimates
    }  # fmt: skip
    for name, count in (counts if block is None else {**counts, "block": block}).items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if not 0 < damping < math.inf:
        raise ValueError(f"damping={damping} must be positive and finite")
    plain = attack is None and objective is None
    chosen = Natural() if plain else chosen_objective(attack, objective)
    network = copy_on(model, device).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    weights: Mapping[str, Tensor] = weights_of(layers)
    masks: MaskSet | None = None
    for number in range(steps * estimates):
        if number % steps == 0:
            with evaluating(network):  # statistics of batch norm do not change
                losses = _losses(network, loader, chosen, examples)
                found = gradients_of(itertools.islice(losses, gradients), weights)
        if masks is not None:
            found = {n: g * masks[n].flatten().to(g.device) for n, g in found.items()}
        costs = {n: _each(_costs, w, found[n], block, damping) for n, w in weights.items()}
        path = partial(_path, share=(number + 1) / (steps * estimates))
        masks = keep_along(
            costs, layers, density, path, pattern=pattern, allocate=allocate, within=masks
        )
        with torch.no_grad():
            for name, weight in weights.items():
                kept = masks[name].to(weight.device)
                weight.copy_(_each(compensated, weight, found[name], block, damping, kept))
    assert masks is not None
    return Ticket(masks, network, History())


def _path(density: float, share: float) -> float:
    """Return the density on the way to that of the end, which every step divides alike."""
    return math.pow(density, share)


def _losses(
    network: nn.Module, loader: Batches, objective: Objective, examples: int
) -> Iterator[Tensor]:
    """Yield the loss of each few examples."""
    for x, y in checked_batches(network, loader, objective, None):
        for some_x, some_y in zip(torch.split(x, examples), torch.split(y, examples), strict=True):
            yield objective(network, some_x, some_y, math.inf).loss


def gradients_of(losses: Iterable[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of each loss by each weight, (N, number of weights), at least float32.

    Raises:
        ValueError: a gradient is NaN or infinite.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    for loss in losses:
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for (name, weight), grad in zip(weights.items(), grads, strict=True):
            row = torch.zeros_like(weight) if grad is None else grad
            rows[name].append(at_least_float32(row).flatten())
    found = {name: torch.stack(several) for name, several in rows.items()}
    for name, matrix in found.items():
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(
                f"gradients of {name!r} are NaN or infinite; look for such values in the weights, "
                "the data and the loss"
            )
    return found


def inverse_diagonal(gradients: Tensor, damping: float) -> Tensor:
    """Return the diagonal of (λI + GᵀG/N)⁻¹, (n,), by the identity of Woodbury:
    (1 − g_qᵀ (NλI + GGᵀ)⁻¹ g_q)/λ, where g_q is column q of the gradients G, (N, n)."""
    lower = _factor(gradients, damping)
    inside: Tensor = torch.linalg.solve_triangular(lower, gradients, upper=False).square().sum(0)
    return (1 - inside).clamp_min(torch.finfo(inside.dtype).eps) / damping


def compensated(weight: Tensor, gradients: Tensor, damping: float, kept: Tensor) -> Tensor:
    """Return the weights, (n,), of which those outside `kept` are 0, and the others are moved by
    the δ that makes ½ δᵀFδ least: G_Kᵀ (NλI + G_K G_Kᵀ)⁻¹ G_S w_S.

    Args:
        gradients: G, (N, n).
        kept: boolean, (n,).
    """
    inside = gradients * kept
    missing = (gradients @ weight.where(~kept, 0)).unsqueeze(1)
    shares = torch.cholesky_solve(missing, _factor(inside, damping)).squeeze(1)
    moved: Tensor = weight + inside.mT @ shares
    return moved.where(kept, 0)


def _costs(weight: Tensor, gradients: Tensor, damping: float) -> Tensor:
    """Return ρ = w²/(2 [F⁻¹])."""
    return weight.square() / (2 * inverse_diagonal(gradients, damping))


def _factor(gradients: Tensor, damping: float) -> Tensor:
    """Return the Cholesky factor of NλI + GGᵀ.

    Raises:
        ValueError: it is singular to working precision.
    """
    kernel = gradients @ gradients.mT
    kernel.diagonal().add_(len(gradients) * damping)
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(kernel)
    if bool(failed):
        raise ValueError(f"damping={damping} is lost beside the squared gradients; raise it")
    return lower


@torch.no_grad()
def _each(
    what: Callable[..., Tensor],
    weight: Tensor,
    gradients: Tensor,
    block: int | None,
    damping: float,
    *more: Tensor,
) -> Tensor:
    """Return what a function gives for each block of a weight, in double precision."""
    size = block or weight.numel()
    parts = zip(
        torch.split(weight.detach().flatten(), size),
        torch.split(gradients, size, 1),
        *(torch.split(one.flatten(), size) for one in more),
        strict=True,
    )
    done = [what(w.double(), g.double(), damping, *rest) for w, g, *rest in parts]
    return torch.cat(done).view(weight.shape)
