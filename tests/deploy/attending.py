"""Small vision transformers for the tests of attention, and what their parameters sum up to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from robustprune.sparsity import MaskSet, full_masks

E, HIDDEN, TOKENS = 8, 12, 4


class Block(nn.Module):
    """A layer of a transformer, written by hand."""

    def __init__(self, heads: int, *, bias: bool, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, heads, bias=bias, batch_first=batch_first)
        self.norm, self.norm2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.up, self.down = nn.Linear(E, HIDDEN), nn.Linear(HIDDEN, E)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h, _ = self.attention(h, h, h, need_weights=not self.attention.batch_first)
        x = x + h
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    def __init__(self, heads: int = 4, *, bias: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        self.patches, self.batch_first = nn.Conv2d(3, E, 4, 4), batch_first
        self.places = nn.Parameter(torch.randn(1, TOKENS, E))
        self.one = Block(heads, bias=bias, batch_first=batch_first)
        self.two = Block(heads, bias=bias, batch_first=batch_first)
        self.norm, self.head = nn.LayerNorm(E), nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        if not self.batch_first:
            x = x.permute(1, 0, 2)
        x = self.norm(self.two(self.one(x)))
        return self.head(x.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


class OfTorch(nn.Module):
    """The same with torch's own encoder; without batch first, its fast path is not taken."""

    def __init__(self, *, norm_first: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            E, 4, HIDDEN, batch_first=batch_first, norm_first=norm_first,
            activation=F.relu if norm_first else nn.GELU(),
        )  # fmt: skip
        self.patches, self.batch_first = nn.Conv2d(3, E, 4, 4), batch_first
        self.places = nn.Parameter(torch.randn(1, TOKENS, E))
        norm = nn.LayerNorm(E) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        return self.head(x.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


class WithToken(nn.Module):
    """A class token, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, E, 4, 4), nn.Parameter(torch.randn(1, 1, E))
        self.one, self.two = (Block(4, bias=True, batch_first=True) for _ in range(2))
        self.head = nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.size(0), -1, -1), x), dim=1)
        return self.head(self.two(self.one(x))[:, 0])  # type: ignore[no-any-return]


NETWORKS = {
    "class token": WithToken,
    "torchvision": lambda: VisionTransformer(8, 4, 2, 4, E, HIDDEN, num_classes=3),
    "batch first": ViT,
    "sequence first": lambda: ViT(batch_first=False),
    "no bias": lambda: ViT(bias=False),
    "torch, norm first": lambda: OfTorch(norm_first=True),
    "torch, norm last": OfTorch,
    "torch, sequence first": lambda: OfTorch(batch_first=False),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return seeded(NETWORKS[name]()), torch.randn(5, 3, 8, 8)


def seeded(model: nn.Module) -> nn.Module:
    """Random biases, norms and heads, which are constants or zeros otherwise."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.uniform_(0.1, 1.0)
    return model.eval()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def without_heads(model: nn.Module, path: str, heads: list[int], total: int) -> MaskSet:
    """Masks without the rows of queries, keys and values of these heads, and their columns."""
    masks = dict(full_masks(model))
    width = E // total
    gone = [head * width + i for head in heads for i in range(width)]
    for part in range(3):
        masks[f"{path}.in_proj_weight"][[part * E + row for row in gone]] = False
    masks[f"{path}.out_proj.weight"][:, gone] = False
    return MaskSet(masks)
