"""The solvers of a layer, and the walk over layers, find on the accelerator what they find on the
CPU."""

import pytest
import torch
from accelerator import DEVICE, needs_one
from torch import Tensor, nn

from robustprune.layerwise import TARGETS, TargetName, prune_layerwise
from robustprune.layerwise.problem import LayerProblem
from robustprune.layerwise.solvers import SOLVERS
from robustprune.sparsity import Groups


def problem(pattern: str, by_row: bool, device: torch.device) -> LayerProblem:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    inputs = (normal(2, 24, 24) + 2 * torch.eye(24)) @ normal(2, 24, 90) + 0.5
    weight = normal(2, 8, 24)
    targets = weight @ inputs + normal(2, 8, 90)
    groups = Groups((16, 12, 2), pattern, conv_groups=2, by_row=by_row)
    kept = groups.fixed or groups.number // 32 * 16
    on = [
        value.to(device)
        for value in (weight, inputs @ inputs.mT, targets @ inputs.mT, targets.square().sum())
    ]
    mean, variance = inputs.mean(-1).to(device), inputs.var(-1).to(device)
    return LayerProblem(*on, 90, groups, kept, mean=mean, variance=variance)


@needs_one
@pytest.mark.parametrize(
    ("solver", "pattern", "by_row"),
    [
        (name, pattern, by_row)
        for name, row in SOLVERS.items()
        for pattern, by_row in (
            ("element", False),
            ("element", True),
            ("2:4", False),
            ("4x2", False),
        )
        if pattern != "4x2" or not row.single
    ],
)
def test_the_accelerator_finds_what_the_cpu_finds(solver: str, pattern: str, by_row: bool) -> None:
    cpu = SOLVERS[solver].solve(problem(pattern, by_row, torch.device("cpu")))
    there = SOLVERS[solver].solve(problem(pattern, by_row, DEVICE))
    assert there.weight.device.type == DEVICE.type
    assert torch.equal(cpu.mask, there.mask.cpu())
    torch.testing.assert_close(cpu.weight, there.weight.cpu(), rtol=1e-4, atol=1e-5)


@needs_one
@pytest.mark.parametrize("target", TARGETS)
def test_a_network_is_pruned_on_the_accelerator_as_on_the_cpu(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], target: TargetName
) -> None:
    there, here = (
        prune_layerwise(network, batches, density=0.5, target=target, device=device)
        for device in (DEVICE, "cpu")
    )
    assert next(there.model.parameters()).device.type == DEVICE.type
    for name, mask in there.masks.items():
        assert float((mask == here.masks[name]).float().mean()) > 0.98
    for one, two in zip(there.history, here.history, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=0.05, abs=1e-4)
