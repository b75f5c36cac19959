"""Rotary positions: keys that were turned for one position, turned on to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

#: families that turn entry i of a head with entry i + d/2
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
#: kinds of rotary embedding whose frequencies do not depend on the length
FIXED = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864): entries i and i + d/2 turn by p · ω_i.

    Attributes:
        frequencies: (d/2,), ω_i in radians a token.
    """

    frequencies: Tensor

    def turned(self, keys: Tensor, by: Tensor) -> Tensor:
        """Return keys as they would be `by` tokens later.

        Args:
            keys: (N, H, n, D), turned for their own positions; entries from d on have no position.
            by: (N, H, n), a number of tokens.
        """
        angle = by.unsqueeze(-1).float() * self.frequencies.to(keys.device)
        cos, sin = angle.cos(), angle.sin()
        half = len(self.frequencies)
        wide = keys.float()
        first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
        return turned.to(keys.dtype)


def rotary_of(model: PreTrainedModel) -> Rotary:
    """Return the rotary embedding of a model.

    Raises:
        ValueError: the model has none, or one that can't be turned on.
    """
    kind = model.config.model_type
    modules: list[nn.Module] = list(model.modules())
    found = [m for m in modules if isinstance(getattr(m, "inv_freq", None), Tensor)]
    if kind not in FAMILIES or not found:
        raise ValueError(
            f"positions inside the cache need the rotary embedding of one of "
            f"{', '.join(FAMILIES)}; this model is of type {kind!r}: use positions='absolute'"
        )
    if (form := _form(found[0])) not in FIXED:
        raise ValueError(
            f"the rotary embedding {form!r} depends on the length, so that keys can't be moved; "
            "use positions='absolute'"
        )
    return Rotary(cast(Tensor, found[0].inv_freq).detach().float())


def _form(module: nn.Module) -> str:
    return str(getattr(module, "rope_type", "default"))
