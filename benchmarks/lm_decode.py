"""How much faster does a sparse language model generate text on this CPU?

    OMP_NUM_THREADS=1 python -m benchmarks.lm_decode

A Llama of 156 million random weights under random masks: speed depends on shapes and on where the
zeros are, not on what was learned. Each form takes turns with the dense model. The figures are the
ratio of their median steps and that of their fastest ones, which other work on the machine disturbs
less. In brackets is the ratio of their bytes: a step for one text reads all weights once, so that
with a memory-bound dense model no form can be faster than this. CSR holds 8 bytes for each weight
that is left (float32 value, int32 column), a dense layer 4 for each. "CSR": random weights removed,
and in CSR the layers where that is faster. "structured": heads and neurons removed. "int8": nothing
removed, torch's dynamic quantisation.
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


FORMS = {"CSR": csr, "structured": structured}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, "int8"], default=[*FORMS, "int8"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    dense = LlamaForCausalLM(CONFIG).eval()
    print(f"{sum(p.numel() for p in dense.parameters()):,} weights")
    for batch_size in args.batch_sizes:
        print(f"\n| batch {batch_size} | " + " | ".join(f"{s:.0%}" for s in SPARSITIES) + " |")
        print("| --- " * (len(SPARSITIES) + 1) + "|")
        speeds = []
        for name in args.forms:
            cells = []
            for sparsity in SPARSITIES if name in FORMS else (0.0,):
                made = FORMS.get(name, int8)(dense, 1 - sparsity, batch_size)
                found = decode_speed(
                    {"dense": dense, "form": made}, batch_size=batch_size, repeats=args.repeats
                )
                speeds.append(found["dense"].tokens_per_second)
                # the packed weights of int8 are no parameters, so that their bytes are not known
                cells.append(cell(found, made) if name in FORMS else ratios(found))
            rest = [""] * (len(SPARSITIES) - len(cells))
            print(f"| {name} | {' | '.join(cells + rest)} |", flush=True)
        print(f"\ndense: {max(speeds):.1f} tokens a second, at best")


def ratios(found: dict[str, DecodingSpeed]) -> str:
    """The ratio of speeds, and that of the fastest steps."""
    dense, form = found["dense"], found["form"]
    ratio = form.tokens_per_second / dense.tokens_per_second
    return f"{ratio:.2f}, {form.fastest / dense.fastest:.2f}"


def cell(found: dict[str, DecodingSpeed], made: nn.Module) -> str:
    """The ratios of speeds and of bytes, and how many layers are CSR."""
    layers = sum(isinstance(module, CSRLinear) for module in made.modules())
    held = found["dense"].weights / found["form"].weights
    return f"{ratios(found)} [{held:.2f}]" + (f", {layers} CSR" * bool(layers))


if __name__ == "__main__":
    main()
