"""How much faster does a sparse language model generate text on this CPU?

    OMP_NUM_THREADS=1 python -m benchmarks.lm_decode

A Llama of 156 million random weights under random masks: speed depends on shapes and on where the
zeros are, not on what was learned. Each form takes turns with the dense model, and the figure is
the ratio of their median steps. In brackets is the ratio of their bytes: a step for one text reads
all weights once, so that with a memory-bound dense model no form can be faster than this. CSR holds
8 bytes for each weight that is left (float32 value, int32 column), a dense layer 4 for each.
"""

from __future__ import annotations

import argparse
import copy
import warnings

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from robustprune.deploy import CSRLinear, slim_causal, sparsify
from robustprune.lm import DecodingSpeed, decode_speed
from robustprune.sparsity import full_masks
from robustprune.sparsity.gates import gate_groups

CONFIG = LlamaConfig(
    vocab_size=4096, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12,
    num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=512,
)  # fmt: skip
SPARSITIES = (0.5, 0.7, 0.8, 0.9)


@torch.no_grad()
def csr(model: nn.Module, density: float, batch_size: int) -> nn.Module:
    """Random weights removed, and each linear layer in CSR where that is faster."""
    model = copy.deepcopy(model)
    for name, mask in full_masks(model).items():
        weight = model.get_parameter(name)
        weight.mul_(torch.rand(mask.shape) < density)
    return sparsify(model, None, torch.zeros(batch_size, 1, dtype=torch.long), repeats=5)


@torch.no_grad()
def structured(model: nn.Module, density: float, batch_size: int) -> nn.Module:
    """Heads and neurons removed."""
    model = copy.deepcopy(model)
    for kind in ("head", "neuron"):
        for place in gate_groups(model, kind).values():
            *_, (name, span) = place.spans.items()
            kept = torch.zeros(place.number)
            kept[torch.randperm(place.number)[: round(density * place.number)]] = 1
            model.get_parameter(name).mul_(span.expand(kept))
    return slim_causal(model)


def int8(model: nn.Module, density: float, batch_size: int) -> nn.Module:
    """Weights in 8 bits, inputs rounded as they come: torch's dynamic quantisation."""
    from torch.ao.quantization import quantize_dynamic

    found: nn.Module = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    dense = LlamaForCausalLM(CONFIG).eval()
    print(f"{sum(p.numel() for p in dense.parameters()):,} weights")
    forms = {"CSR where faster": csr, "heads and neurons removed": structured}
    for batch_size in args.batch_sizes:
        print(f"\n| batch {batch_size} | " + " | ".join(f"{s:.0%}" for s in SPARSITIES) + " |")
        print("| --- " * (len(SPARSITIES) + 1) + "|")
        speeds = []
        for name, form in forms.items():
            cells = []
            for sparsity in SPARSITIES:
                made = form(dense, 1 - sparsity, batch_size)
                found = decode_speed(
                    {"dense": dense, "form": made}, batch_size=batch_size, repeats=args.repeats
                )
                speeds.append(found["dense"].tokens_per_second)
                cells.append(cell(found, made))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        made = int8(dense, 1.0, batch_size)
        found = decode_speed(
            {"dense": dense, "form": made}, batch_size=batch_size, repeats=args.repeats
        )
        ratio = found["form"].tokens_per_second / found["dense"].tokens_per_second
        print(f"| int8, all weights: {ratio:.2f} |" + " |" * len(SPARSITIES))
        print(f"\ndense: {max(speeds):.1f} tokens a second, at best")


def cell(found: dict[str, DecodingSpeed], made: nn.Module) -> str:
    """The ratio of speeds, of bytes, and how many layers are CSR."""
    dense, form = found["dense"], found["form"]
    ratio = form.tokens_per_second / dense.tokens_per_second
    layers = sum(isinstance(module, CSRLinear) for module in made.modules())
    return f"{ratio:.2f} [{dense.weights / form.weights:.2f}]" + (f", {layers} CSR" * bool(layers))


if __name__ == "__main__":
    main()
