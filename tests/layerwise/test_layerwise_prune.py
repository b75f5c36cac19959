"""Pruning whole networks layer by layer: what stays as it is, what comes out, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.layerwise import LayerProblem, Solution, prune_layerwise
from robustprune.layerwise.calibrate import layer_of
from robustprune.sparsity import LeftOut


def batches(*shape: int, number: int = 2, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [
        (torch.rand(8, *shape, generator=g), torch.randint(classes, (8,), generator=g))
        for _ in range(number)
    ]


class Residual(nn.Module):
    """A small pre-activation residual network whose layers are registered backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.stem = nn.Conv2d(2, 8, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        y = self.second(torch.relu(self.norm(self.first(torch.relu(h)))))
        h = h + y
        return self.head(h.relu_().mean((2, 3)))


def seeded(make: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
            nn.init.uniform_(module.weight, 0.5, 2)
    return network


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["own", "dense", "residual"])
@pytest.mark.parametrize("make", [Residual, cnn])
@pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
def test_density_one_changes_nothing_and_the_given_network_stays_as_it_is(
    make: Any, target: Any
) -> None:
    network = seeded(make).train()
    network.eval() if target == "own" else network.train()
    before = copy.deepcopy(network.state_dict())
    data = batches(2, 10, 10)
    ticket = prune_layerwise(network, data, density=1.0, target=target, solver="refit")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
    assert network.training == ticket.model.training == (target != "own")
    network.eval()
    torch.testing.assert_close(ticket.model.eval()(data[0][0]), network(data[0][0]))
    assert ticket.masks.density == 1


@pytest.mark.parametrize("target", ["own", "dense", "residual"])
@pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
def test_two_runs_are_equal_and_keep_what_was_asked_for(target: Any) -> None:
    network, data = seeded(Residual), batches(2, 10, 10)
    one, two = (
        prune_layerwise(network, data, density=0.3, target=target, dense=("head",))
        for _ in range(2)
    )
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name])
    assert one.masks == two.masks
    assert list(one.masks) == ["stem.weight", "first.weight", "second.weight"]  # as they run
    assert len(one.history) == 3
    for name, mask in one.masks.items():
        weight = layer_of(one.model, name).weight
        assert isinstance(weight, Tensor)
        assert torch.equal(weight != 0, mask)
        assert int(mask.sum()) == -(-mask.numel() * 3 // 10)


def test_no_hook_is_left_when_a_solver_fails() -> None:
    network = seeded(cnn)

    def fails(problem: LayerProblem) -> Solution:
        raise RuntimeError("no solution")

    with pytest.raises(RuntimeError, match="no solution"):
        prune_layerwise(network, batches(2, 10, 10), density=0.5, solver=fails)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


@pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
def test_attacked_inputs_are_drawn_by_the_seed() -> None:
    network, data = seeded(cnn).eval(), batches(2, 10, 10)
    attack = FGSM(ThreatModel("linf", 0.1), random_start=True)
    state = torch.get_rng_state()
    seeds = [
        prune_layerwise(network, data, density=0.5, attack=attack, seed=seed).history[0].loss
        for seed in (0, 0, 1)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"density": 0.0}, "density must be in"),
        ({"density": 0.4, "pattern": "2:4"}, "keeps exactly 0.5"),
        ({"solver": "adm"}, "did you mean 'admm'"),
        ({"target": "desne"}, "did you mean 'dense'"),
        ({"allocate": "owll"}, "did you mean 'owl'"),
        ({"allocate": "owl", "pattern": "2:4"}, "fixes what each layer keeps"),
        ({"rigde": 1.0}, "did you mean 'ridge'"),
        ({"clean": 0.5}, "has no effect without an attack"),
        ({"sweeps": 2}, "has no effect without an attack"),
        ({"batches": 0}, "at least 1"),
        ({"dtype": torch.float16}, "float64 or"),
    ],
)
def test_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(seeded(cnn), batches(2, 10, 10), **{"density": 0.5, **options})


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "the loader has no batches"),
        ([torch.zeros(3)], "yields a Tensor"),
        ([(torch.zeros(2, 2, 10, 10, dtype=torch.uint8), torch.zeros(2).long())], "floating"),
        ([(torch.full((2, 2, 10, 10), torch.nan), torch.zeros(2).long())], "non-finite"),
        ([(torch.zeros(2, 5, 10, 10), torch.zeros(2).long())], "does not take"),
    ],
)
def test_loaders_that_are_refused(loader: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(seeded(cnn), loader, density=0.5)


@pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
def test_layers_that_cannot_be_pruned_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 4, 2)
            self.conv = nn.Conv2d(4, 3, 3)
            self.never = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.up(x)).mean((2, 3))

    with pytest.warns(LeftOut) as said:
        ticket = prune_layerwise(Odd(), batches(2, 10, 10), density=0.5)
    assert list(ticket.masks) == ["conv.weight"]
    texts = [str(one.message) for one in said]
    assert any("never.weight are not called" in text for text in texts)
    assert any("up.weight (32)" in text for text in texts)
