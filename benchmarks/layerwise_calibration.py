"""CPU seconds of calibration, as ratios to the forward passes that it needs.

    OMP_NUM_THREADS=1 python -m benchmarks.layerwise_calibration

A walk over all layers runs parts of the dense and of the pruned network and sums up second moments
(`robustprune.layerwise.calibrate.walk`). The same walk without targets and sums shows what its
forward passes take. Both are run in turn, and the least of each counts. Networks have random
weights: pre-activation ResNets-18 on 200 images of 32 × 32, and the packaged language model on 32
sequences of 256 tokens.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

import robustprune
from robustprune.layerwise import TARGETS, TargetName, calibrate
from robustprune.layerwise.checks import route_of
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import Moments
from robustprune.layerwise.route import Route
from robustprune.models import build_model
from robustprune.sparsity import group_weight, maskable_layers

CPU = torch.device("cpu")


def resnet(width: int) -> tuple[nn.Module, list[Batch]]:
    inputs = SimpleNamespace(input_shape=(3, 32, 32), num_classes=10, mean=None, std=None)
    model = build_model("preact_resnet18", inputs, options={"width": width})
    return model, [Batch(torch.rand(100, 3, 32, 32)) for _ in range(2)]


def llama() -> tuple[nn.Module, list[Batch]]:
    from transformers import AutoModelForCausalLM

    folder = Path(robustprune.__file__).parent / "data" / "lm" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.use_cache = False
    return model, [Batch({"input_ids": torch.randint(3, 500, (16, 256))}) for _ in range(2)]


NETWORKS: dict[str, Callable[[], tuple[nn.Module, list[Batch]]]] = {
    "ResNet-18 of width 8": lambda: resnet(8),
    "ResNet-18 of width 16": lambda: resnet(16),
    "stories260K": llama,
}


def walked(pair: calibrate.Pair, route: Route, target: TargetName, dtype: torch.dtype) -> float:
    """Return the CPU seconds of a walk."""
    began = time.process_time()
    for _ in calibrate.walk(pair, route, target=target, dtype=dtype):
        pass
    return time.process_time() - began


def passes(pair: calibrate.Pair, route: Route, target: TargetName, dtype: torch.dtype) -> float:
    """Return the CPU seconds of a walk without targets and sums."""

    def nothing(*_: object) -> Tensor:
        return torch.zeros(1)

    with patch.object(Moments, "add", nothing), patch.object(calibrate, "outputs_of", nothing):
        return walked(pair, route, target, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", default=["own", "dense"], choices=TARGETS)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print("| network | target | sums | passes alone | calibration | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.networks:
        torch.manual_seed(0)
        model, batches = NETWORKS[name]()
        model.eval()
        route = route_of(model, maskable_layers(model), batches[0], CPU)
        layers = {n: layer for n, layer in maskable_layers(model).items() if n in route.calls}
        groups = {n: group_weight(layer) for n, layer in layers.items()}
        pair = calibrate.Pair(model, copy.deepcopy(model), groups, batches, CPU, CPU)
        for target in args.targets:
            for dtype in (torch.float64, torch.float32):
                pairs = [
                    (passes(pair, route, target, dtype), walked(pair, route, target, dtype))
                    for _ in range(args.repeats)
                ]
                least, whole = (min(times) for times in zip(*pairs, strict=True))
                print(
                    f"| {name} | {target} | {str(dtype)[6:]} | {least:.2f} | {whole:.2f} | "
                    f"{whole / least:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
