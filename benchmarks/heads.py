"""Heads of attention and neurons removed by `prune_channels` and `slim`, and by Torch-Pruning.

    OMP_NUM_THREADS=1 python -m benchmarks.heads

The network is torchvision's VisionTransformer with random weights: 6 layers of 6 heads, width 192,
768 neurons, images of 64 x 64 pixels in 65 tokens. Rows:

- "slim": half of the heads and of the neurons. The largest difference of its logits from those of
  the masked network is printed, as a share of the largest logit.
- "Torch-Pruning, heads": the same by Torch-Pruning. It removes heads where queries, keys and values
  are linear layers of their own, so that it gets the network with such layers.
- "Torch-Pruning, widths": of `nn.MultiheadAttention` itself it removes entries of all heads, and
  with them of the embedding, of norms and of every layer that reads it. The heads stay as many.
  Ratios are chosen for about as many parameters as in the other rows, and for a half.

Latencies are medians of 45 turns on a batch of 8.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from robustprune.deploy import prune_channels, slim
from robustprune.measure import Cost, compare_cost

LAYERS, HEADS, WIDTH, HIDDEN = 6, 6, 192, 768


class Separate(nn.Module):
    """`nn.MultiheadAttention`, with linear layers for queries, keys and values."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.size, width = attention.head_dim, attention.embed_dim
        layers = [nn.Linear(width, width) for _ in range(3)]
        packed = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3))  # noqa: B905
        for layer, (weight, bias) in zip(layers, packed, strict=True):
            layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.q, self.k, self.v = layers
        self.out = copy.deepcopy(attention.out_proj)

    def forward(self, x: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, None]:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None


def separated(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for block in model.get_submodule("encoder.layers").children():
        block.self_attention = Separate(block.self_attention)
    return model


def without_heads(model: nn.Module, x: Tensor) -> nn.Module:
    """Half of the heads and of the neurons removed by Torch-Pruning; the width stays."""
    small = separated(model)
    attentions = [module for module in small.modules() if isinstance(module, Separate)]
    torch_pruning.pruner.MagnitudePruner(
        small,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        head_pruning_ratio=0.5,
        num_heads={layer: HEADS for one in attentions for layer in (one.q, one.k, one.v)},
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[small.get_submodule("conv_proj"), small.get_submodule("heads.head")],
    ).step()
    return small


def narrower(model: nn.Module, x: Tensor, ratio: float) -> nn.Module:
    """This share of all widths and of the neurons removed by Torch-Pruning."""
    small = copy.deepcopy(model)
    torch_pruning.pruner.MagnitudePruner(
        small,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=HEADS,
        ignored_layers=[small.get_submodule("heads.head")],
    ).step()
    small.hidden_dim = small.get_submodule("conv_proj").out_channels
    return small


def row(cost: Cost, dense: Cost, note: str) -> str:
    return (
        f"| {cost.name} | {cost.parameters:,} | {cost.macs:,} | {1e3 * cost.latency:.1f} ms | "
        f"{dense.latency / cost.latency:.2f} | {note} |"
    )


def heads_of(model: nn.Module) -> str:
    """Say how many heads of which size the first layer has."""
    first = model.get_submodule("encoder.layers.encoder_layer_0.self_attention")
    if isinstance(first, Separate):
        return f"{first.q.out_features // first.size} of {first.size}"
    if isinstance(first, nn.MultiheadAttention):
        return f"{first.num_heads} of {first.head_dim}"
    return f"{first.heads} of {first.head_size}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=45)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = VisionTransformer(64, 8, LAYERS, HEADS, WIDTH, HIDDEN, num_classes=10).eval()
    nn.init.normal_(model.get_parameter("heads.head.weight"))  # torchvision begins with zeros
    x = torch.randn(8, 3, 64, 64)
    ticket = prune_channels(model, x, density=0.5)
    forms = {
        "dense": model,
        "slim": slim(ticket.model, None, x),
        "Torch-Pruning, heads": without_heads(model, x),
        "Torch-Pruning, widths, 0.3": narrower(model, x, 0.3),
        "Torch-Pruning, widths, 0.5": narrower(model, x, 0.5),
    }
    print("| form | parameters | MACs | latency | dense / this | heads of a layer |")
    print("| --- | --: | --: | --: | --: | --- |")
    dense, *rest = compare_cost(forms, x, repeats=args.repeats)
    for cost in (dense, *rest):
        print(row(cost, dense, heads_of(forms[cost.name])))
    with torch.no_grad():
        masked = ticket.model(x)
        gap = (forms["slim"](x) - masked).abs().max() / masked.abs().max()
        same = (separated(model)(x) - model(x)).abs().max() / model(x).abs().max()
    print(f"\nslim and masked differ by {gap:.1e} of the largest logit; the network with linear")
    print(f"layers of its own differs from the dense one by {same:.1e}.")


if __name__ == "__main__":
    main()
