"""Attacks on padded sequences of embeddings.

An attack passes a model nothing but x, and ever fewer examples of it, so what belongs to an
example has to travel inside x.  ``pack`` appends the padding mask to the embeddings as one more
feature, ``unpack`` takes it off again inside the model, and ``not_padding`` tells the threat
model where it may change anything::

    threat = ThreatModel("l2", eps, support=not_padding)      # Frobenius over each sequence

    def model(packed):
        embeddings, mask = unpack(packed)
        return network(inputs_embeds=embeddings, attention_mask=mask).logits

    x_adv, _ = unpack(PGD(threat)(model, pack(embeddings, mask), y))
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Append the mask: (N, T, D) and (N, T) with 1 for tokens, 0 for padding -> (N, T, D + 1).

    Raises:
        ValueError: the shapes do not fit.
    """
    if embeddings.dim() != 3 or mask.shape != embeddings.shape[:2]:
        raise ValueError(
            f"embeddings of shape {tuple(embeddings.shape)} and mask of shape {tuple(mask.shape)} "
            "do not fit; pass (N, T, D) and (N, T)"
        )
    return torch.cat((embeddings, mask.to(embeddings).unsqueeze(2)), dim=2)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Undo ``pack``: embeddings (N, T, D) and the bool mask (N, T)."""
    return packed[:, :, :-1], packed[:, :, -1] > 0.5


def not_padding(packed: Tensor) -> Tensor:
    """Where a packed batch may change: the embeddings of tokens, never the mask itself."""
    allowed = (packed[:, :, -1:] > 0.5).expand_as(packed).clone()
    allowed[:, :, -1] = False
    return allowed
