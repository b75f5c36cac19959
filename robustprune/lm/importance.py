"""The importance of heads and neurons of a causal language model by gradients (LLM-Pruner)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.lm.perplexity import next_token_losses
from robustprune.search.ticket import copy_on
from robustprune.sparsity import MaskSet
from robustprune.sparsity.gates import GateGroup, draw_masks, gate_groups

Form = Literal["first", "second"]


def gradient_importance(
    model: nn.Module, windows: Tensor, groups: Mapping[str, GateGroup], *, form: Form = "first"
) -> dict[str, Tensor]:
    """Return how much the loss would change without each group of weights, by place.

    With w a weight, g_j its gradient of the loss of window j, and means over windows,

        first:  Σ_w |w · mean_j g_j|,   second:  Σ_w |w · mean_j g_j − ½ w² · mean_j g_j²|

    (Ma et al. 2023, LLM-Pruner, arXiv 2305.11627, Eqs. 3 to 5, with sums over a group).

    Args:
        model: a causal language model, which is not changed.
        windows: (N, T) token numbers.
        groups: what `gate_groups` returns.

    Raises:
        ValueError: the form is unknown, or windows have another shape.
    """
    if form not in ("first", "second"):
        raise ValueError(f"form={form!r} is unknown; choose first or second")
    if windows.ndim != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise ValueError(
            f"windows must be (N, T) with N at least 1 and T at least 2, got {tuple(windows.shape)}"
        )
    network = copy_on(model, None).requires_grad_(False)
    names = sorted({name for group in groups.values() for name in group.spans})
    weights = [network.get_parameter(name).requires_grad_() for name in names]
    mean, square = ([torch.zeros_like(w, dtype=torch.float64) for w in weights] for _ in range(2))
    with evaluating(network):
        for window in torch.split(windows.to(weights[0].device), 1):
            logits = logits_of(network, window)[:, :-1]
            loss = next_token_losses(logits, window[:, 1:]).mean()
            for place, gradient in enumerate(torch.autograd.grad(loss, weights)):
                mean[place] += gradient.double() / len(windows)
                square[place] += gradient.double().square() / len(windows)
    worth: dict[str, Tensor] = {}
    for name, weight, first, second in zip(names, weights, mean, square, strict=True):
        own = weight.detach().double()
        change = own * first
        if form == "second":
            change = change - own.square() * second / 2
        worth[name] = change.abs()
    return {
        place: torch.stack(
            [span.total(worth[name], group.shape) for name, span in group.spans.items()]
        ).sum(0)
        for place, group in groups.items()
    }


def importance_masks(
    model: nn.Module,
    windows: Tensor,
    *,
    density: float,
    granularity: Literal["head", "neuron"],
    form: Form = "first",
) -> MaskSet:
    """Keep the most important heads or neurons, equally many in each layer.

    `prune_layerwise(model, loader, masks=…, solver="refit")` then makes up for what is removed, and
    `deploy.slim_causal` makes the model smaller.

    Args:
        model, windows, form: as in `gradient_importance`; the paper takes 10 windows of 64 tokens.
        density: the share that is kept of each layer.

    Raises:
        ValueError: as in `gradient_importance`, the model is no transformer that is known, or
            `density` is outside (0, 1].
    """
    groups = gate_groups(model, granularity)
    scores = gradient_importance(model, windows, groups, form=form)
    return draw_masks(scores, groups, density, each=True)
