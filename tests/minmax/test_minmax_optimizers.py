"""Optimizers as `OptimizerSpec` builds them."""

import pytest
import torch
from torch import nn

from robustprune.minmax import OptimizerSpec

PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_the_plain_optimizer_in_every_layout(
    name: str, layout: torch.memory_format
) -> None:
    spec = OptimizerSpec(name=name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 4, 3, 3, generator=generator).to(memory_format=layout)
    gradients = [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(5)]  # contiguous
    options = {"momentum": spec.momentum} if name == "sgd" else {}
    ends = []
    for build in (
        spec.build,
        lambda p: PLAIN[name](p, lr=0.01, weight_decay=0.1, fused=False, **options),
    ):
        weight = nn.Parameter(start.clone(memory_format=torch.preserve_format))
        optimizer = build([weight])
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()
        ends.append(weight.detach())
    assert not torch.allclose(ends[0], start, atol=0.01)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
