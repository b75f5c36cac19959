"""Average weights: an exponential moving average of the whole state of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Update θ̄ ← d θ̄ + (1 − d) θ after each step t, with d = min(decay, (1 + t)/(10 + t)).

    Averaged weights overfit less under attack (Gowal et al. 2020, arXiv 2010.03593, Sec. 4.4).
    Floating-point buffers, such as the statistics of batch norm, are averaged with them. Everything
    else (masks, counters, buffers with an infinite value such as the mask of causal attention) is
    copied without averaging.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"average={decay} must lie strictly between 0 and 1, such as 0.999")
        self.decay, self.steps = decay, 0
        self.state = snapshot(model)
        self.averaged = {  # between −∞ and −∞ lies NaN
            name
            for name, value in self.state.items()
            if value.is_floating_point() and not bool(value.isinf().any())
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights of one step to the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = model.state_dict()
        for name, value in now.items():
            stored = re.sub(r"\.\d+\.mask$", ".original", name)
            if stored != name and stored in self.state:  # what a mask adds starts at zero
                self.state[stored].masked_fill_(value & ~self.state[name], 0.0)
        for name, value in now.items():
            kept = self.state[name]
            if kept.data_ptr() == value.data_ptr():  # shared, see `snapshot`
                continue
            if name in self.averaged:
                kept.lerp_(value, 1 - decay)
            else:
                kept.copy_(value)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside this context."""
        own = snapshot(model)
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.state, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])
        for name in self.state:
            self.state[name].copy_(state[name])


@torch.no_grad()
def snapshot(model: nn.Module, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Copy the model's state. Frozen weights behind masks and gates, which nothing can change, are
    not copied but shared with the model.

    Args:
        into: an earlier copy that is no longer needed and whose memory is used again.
    """
    state, old = {}, into or {}
    for name, value in model.state_dict(keep_vars=True).items():
        state[name] = value.detach()
        if value.requires_grad or not name.endswith(".original"):
            state[name] = old[name].copy_(value) if name in old else value.detach().clone()
    return state
