"""What masks, slimming and CSR bring: size and measured latency, side by side.

    OMP_NUM_THREADS=1 python -m benchmarks.deploy

Random weights and random masks: cost depends on shapes and on where the zeros are, not on what
was learned. The forms of one network are timed in turns; "dense / this" is the ratio of medians.
The second table compares one layer's dense kernel with CSR, for the convolutions through im2col.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.deploy import silence, slim, sparsify, to_csr
from robustprune.deploy.copies import baked
from robustprune.deploy.timing import time_in_turns
from robustprune.measure import Cost, compare_cost
from robustprune.models import ModelInputs, build_model
from robustprune.sparsity import MaskSet, apply_masks, full_masks

IMAGES = ModelInputs((1, 28, 28), 10)
COLOUR = ModelInputs((3, 32, 32), 10)
SERIES = ModelInputs((1, 96), 2)
#: network, inputs, options, batch, pattern, density
CASES = (
    ("mlp", IMAGES, {"hidden": [1024, 1024]}, 64, "element", 0.5),
    ("mlp", IMAGES, {"hidden": [1024, 1024]}, 64, "element", 0.1),
    ("mlp", IMAGES, {"hidden": [1024, 1024]}, 64, "element", 0.05),
    ("mlp", IMAGES, {"hidden": [1024, 1024]}, 64, "element", 0.01),
    ("mlp", IMAGES, {"hidden": [1024, 1024]}, 64, "filter", 0.5),
    ("lenet", IMAGES, {"width": 16, "batch_norm": True}, 64, "element", 0.1),
    ("lenet", IMAGES, {"width": 16, "batch_norm": True}, 64, "filter", 0.5),
    ("lenet", IMAGES, {"width": 16, "batch_norm": True}, 256, "filter", 0.25),
    ("fcn", SERIES, {}, 64, "filter", 0.5),
    ("preact_resnet18", COLOUR, {"width": 32}, 8, "filter", 0.5),
)


def random_masks(model: nn.Module, pattern: str, density: float) -> MaskSet:
    """Keep each weight, or each filter of all but the last layer, with probability `density`."""
    masks = dict(full_masks(model))
    for name, mask in list(masks.items())[: None if pattern == "element" else -1]:
        shape = mask.shape if pattern == "element" else (len(mask), *(1,) * (mask.dim() - 1))
        masks[name] = (torch.rand(shape) < density).expand_as(mask)
    return MaskSet(masks)


def forms(model: nn.Module, masks: MaskSet, x: Tensor, pattern: str) -> dict[str, nn.Module]:
    """The same network dense, with masks on, with masks baked in, and made smaller."""
    trained = silence(model, masks, x[:2]) if pattern == "filter" else masks
    masked = baked(model)
    apply_masks(masked, trained)
    result = {"dense": model, "mask on": masked, "mask baked": baked(model, trained)}
    if pattern == "filter":
        result["slim"] = slim(model, trained, x[:2])
    else:
        result["CSR, forced"] = sparsify(model, masks, x, repeats=1, gain=0.0)
        result["CSR where faster"] = sparsify(model, masks, x)
    return result


def row(case: str, cost: Cost, dense: Cost) -> str:
    low, high = (1e3 * seconds for seconds in cost.latency_quartiles)
    return (
        f"| {case} | {cost.name} | {cost.parameters:,} | {cost.nonzeros:,} "
        f"| {cost.macs / 1e6:.2f} M | {cost.effective_macs / 1e6:.2f} M "
        f"| {cost.file_bytes / 1e6:.2f} MB | {1e3 * cost.latency:.2f} ms ({low:.2f}–{high:.2f}) "
        f"| {dense.latency / cost.latency:.2f} |"
    )


def networks(repeats: int) -> None:
    print(
        "| network, batch, kept | form | parameters | non-zero | MACs | with non-zero weight "
        "| file | latency, median (quartiles) | dense / this |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, inputs, options, batch, pattern, density in CASES:
        torch.manual_seed(0)
        model = build_model(name, inputs, options=options).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and batch norm as after training: none is zero
                nn.init.normal_(parameter, 1.0, 0.1)
        x = torch.rand(batch, *inputs.input_shape)
        contenders = forms(model, random_masks(model, pattern, density), x, pattern)
        costs = compare_cost(contenders, x, repeats=repeats)
        unit = "weights" if pattern == "element" else "filters"
        for cost in costs:
            print(row(f"{name}, {batch}, {density:.0%} of {unit}", cost, costs[0]), flush=True)


class CSRConvolution(nn.Module):
    """A k x k convolution that keeps the size, as CSR times the columns of the input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        out, self.size = layer.out_channels, layer.kernel_size[0]
        flat = nn.Linear(layer.weight[0].numel(), out, bias=False)
        flat.weight = nn.Parameter(layer.weight.detach().reshape(out, -1))
        self.csr = to_csr(flat)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.size, padding=self.size // 2) if self.size > 1 else x.flatten(2)
        product = self.csr.matrix() @ columns.transpose(0, 1).flatten(1)
        return product.unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1)


def layers(repeats: int) -> None:
    print("\n| layer, input | 80% zeros | 90% | 95% | 99% |\n| --- | --- | --- | --- | --- |")
    for kind, width, side, batch in (
        ("linear", 1024, 0, 64),
        ("1x1", 64, 16, 32),
        ("1x1", 256, 8, 32),
        ("3x3", 64, 16, 32),
        ("3x3", 256, 8, 8),
    ):
        ratios = []
        for sparsity in (0.8, 0.9, 0.95, 0.99):
            torch.manual_seed(0)
            linear = kind == "linear"
            size = 0 if linear else int(kind[0])
            dense = (
                nn.Linear(width, width)
                if linear
                else nn.Conv2d(width, width, size, padding=size // 2, bias=False)
            )
            with torch.no_grad():
                dense.weight *= torch.rand_like(dense.weight) > sparsity
            sparse = to_csr(dense) if isinstance(dense, nn.Linear) else CSRConvolution(dense)
            x = torch.rand(batch, width) if linear else torch.rand(batch, width, side, side)
            with torch.no_grad():
                torch.testing.assert_close(sparse(x), dense(x), atol=1e-4, rtol=1e-4)
            one, two = time_in_turns([dense, sparse], x, repeats=repeats)
            ratios.append(f"{statistics.median(one) / statistics.median(two):.2f}")
        shape = f"{batch}×{width}" if linear else f"{batch}×{width}×{side}×{side}"
        print(f"| {kind} {width}→{width}, {shape} | {' | '.join(ratios)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU, float32\n")
    networks(options.repeats)
    layers(options.repeats)


if __name__ == "__main__":
    main()
