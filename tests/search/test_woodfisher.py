"""WoodFisher against matrices that are inverted, minima that are solved, and least squares."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.layerwise.obs import obs
from robustprune.layerwise.problem import LayerProblem
from robustprune.minmax import Natural, StepResult
from robustprune.search import prune_one_shot, prune_woodfisher
from robustprune.search.woodfisher import compensated, gradients_of, inverse_diagonal
from robustprune.sparsity import count_kept, groups_of, maskable_layers

Batches = list[tuple[Tensor, Tensor]]
Make = Callable[[], nn.Module]
DAMPING = 0.05


@pytest.fixture
def gradients() -> Tensor:
    return torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fisher(gradients: Tensor) -> Tensor:
    damped = DAMPING * torch.eye(gradients.shape[1], dtype=gradients.dtype)
    return damped + sum(torch.outer(g, g) for g in gradients) / len(gradients)


def least(matrix: Tensor, weight: Tensor, gone: Tensor) -> Tensor:
    """The minimum of ½ δᵀFδ with δ = −w where `gone` says so, by its Lagrange equations."""
    some = torch.eye(len(weight), dtype=weight.dtype)[gone]
    top = torch.cat([matrix, some.mT], 1)
    bottom = torch.cat([some, some.new_zeros(len(some), len(some))], 1)
    right = torch.cat([torch.zeros_like(weight), -weight[gone]])
    return torch.linalg.solve(torch.cat([top, bottom]), right)[: len(weight)]


def test_the_inverse_is_that_of_the_matrix_and_of_the_recursion(gradients: Tensor) -> None:
    found = inverse_diagonal(gradients, DAMPING)
    torch.testing.assert_close(found, torch.linalg.inv(fisher(gradients)).diagonal())
    inverse = torch.eye(9, dtype=torch.float64) / DAMPING  # Eq. 8 and 9 of the paper
    for g in gradients:
        moved = inverse @ g
        inverse -= torch.outer(moved, moved) / (len(gradients) + g @ moved)
    torch.testing.assert_close(found, inverse.diagonal())


@pytest.mark.parametrize("gone", [[3], [0, 4, 8], [1, 2, 3, 4, 5, 6, 7], list(range(9))])
def test_the_change_is_the_least_of_the_quadratic(
    gradients: Tensor, weight: Tensor, gone: list[int]
) -> None:
    kept = torch.ones(9, dtype=torch.bool)
    kept[gone] = False
    found = compensated(weight, gradients, DAMPING, kept)
    torch.testing.assert_close(found, weight + least(fisher(gradients), weight, ~kept))
    assert (found[~kept] == 0).all()


class Squares(nn.Module):
    """½ ‖f(x) − t‖², with targets that are given."""

    class_labels = False

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        loss = 0.5 * (model(x) - y).square().sum(1).mean()
        return StepResult(loss, torch.zeros(()), len(y))


def regression(rows: int = 1) -> tuple[nn.Linear, Batches]:
    """A linear network whose errors are all ±½, so that F is ¼ XᵀX/N in each row."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=draw, dtype=torch.float64)
    x = x @ torch.randn(8, 8, generator=draw, dtype=torch.float64)  # correlated
    model = nn.Linear(8, rows, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(rows, 8, generator=draw, dtype=torch.float64))
        signs = 2 * torch.randint(2, (40, rows), generator=draw).double() - 1
        y = model(x) + signs / 2
    return model, list(zip(x.split(7), y.split(7), strict=True))


@pytest.mark.parametrize(
    ("rows", "steps", "removed"), [(1, 1, 1), (3, 1, 1), (1, 64, 4), (1, 64, 6)]
)
def test_a_least_squares_problem_is_that_of_the_optimal_brain_surgeon(
    rows: int, steps: int, removed: int
) -> None:
    """A row a block, whose weights are compared with those of other rows, as `obs` does. So many
    steps remove one weight at a time."""
    model, data = regression(rows)
    x = torch.cat([x for x, _ in data])
    gram, weight = x.mT @ x, model.weight.detach()
    groups = groups_of({"weight": model})["weight"]
    problem = LayerProblem(
        weight[None], gram[None], (weight @ gram)[None], torch.tensor([1.0]), 40, groups,
        8 * rows - removed,
    )  # fmt: skip
    wanted = obs(problem, ridge=0.0)
    found = prune_woodfisher(
        model, data, density=1 - (removed + 0.5) / (8 * rows), objective=Squares(), block=8,
        damping=1e-8, steps=steps,
    )  # fmt: skip
    assert torch.equal(found.masks["weight"], wanted.mask[0])
    torch.testing.assert_close(found.model.weight, wanted.weight[0], rtol=1e-5, atol=1e-6)


def test_what_stays_is_the_least_squares_on_it() -> None:
    model, data = regression()
    x = torch.cat([x for x, _ in data])
    found = prune_woodfisher(model, data, density=0.5, objective=Squares(), damping=1e-8, steps=64)
    kept = found.masks["weight"][0]
    wanted = np.linalg.lstsq(x[:, kept].numpy(), model(x).detach().numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.model.weight[0, kept].detach(), wanted[:, 0], rtol=1e-5)

    def error(network: nn.Module) -> float:
        return float((network(x) - model(x)).square().sum().detach())

    assert error(found.model) < 0.5 * error(prune_one_shot(model, density=0.5).model)


def test_steps_do_not_remove_all_that_look_cheap() -> None:
    """Two equal inputs can stand in for each other: one step removes both, two steps one."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = x[:, 0]
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 1.0, 0.5]]))
        data = [(x, model(x) + torch.where(torch.arange(40)[:, None] % 2 == 0, 0.5, -0.5))]
    options: dict[str, Any] = {"density": 1 / 3, "objective": Squares(), "damping": 1e-6}
    one = prune_woodfisher(model, data, steps=1, **options)
    assert one.masks["weight"].tolist() == [[False, False, True]]
    two = prune_woodfisher(model, data, steps=2, **options)
    assert two.masks["weight"].tolist() == [[True, False, False]]
    assert two.model.weight[0, 0].item() == pytest.approx(3, abs=0.2)


def test_blocks_of_one_are_the_diagonal(make_network: Make, batches: Batches) -> None:
    """ρ = w² (λ + mean of g²)/2, and no weight makes up for another."""
    model = make_network().eval()
    found = prune_woodfisher(
        model, batches, density=0.3, block=1, damping=DAMPING, allocate="global", steps=1
    )
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches:
        for one, label in zip(x, y, strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(one[None]), label[None]).backward()
            for name, p in model.named_parameters():
                squares[name] += p.grad**2 / 48
    layers = maskable_layers(model)
    costs = {n: model.get_parameter(n) ** 2 * (DAMPING + squares[n]) / 2 for n in layers}
    order = torch.cat([c.flatten() for c in costs.values()]).sort(descending=True).values
    threshold = order[count_kept(0.3, len(order)) - 1]
    for name, cost in costs.items():
        assert torch.equal(found.masks[name], cost >= threshold * (1 - 1e-6)), name
        assert torch.equal(
            found.model.get_parameter(name), model.get_parameter(name) * found.masks[name]
        )


@pytest.mark.parametrize(("steps", "estimates"), [(1, 1), (3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize(
    ("pattern", "allocate"),
    [*itertools.product(["element", "filter"], ["layer", "global", "erk"]), ("2:4", "layer")],
)
def test_counts_are_exact_and_steps_are_nested(
    make_network: Make, batches: Batches, pattern: str, allocate: str, steps: int, estimates: int
) -> None:
    model = make_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options: dict[str, Any] = {"pattern": pattern, "allocate": allocate, "gradients": 12}
    found = prune_woodfisher(
        model, batches, density=0.5, steps=steps, estimates=estimates, **options
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    layers = maskable_layers(model)
    kept, total = 0, 0
    for name, groups in groups_of(layers, pattern).items():
        inside = int((groups.reduce(found.masks[name].float()) > 0).sum())
        kept, total = kept + inside, total + groups.number
        if allocate == "layer":
            assert inside == (groups.fixed or count_kept(0.5, groups.number))
        new = found.model.get_parameter(name)
        assert (new[~found.masks[name]] == 0).all()
        moved = (new != before[name])[found.masks[name]].any()
        assert moved != bool(found.masks[name].all())  # nothing to make up for in a full layer
    assert kept == count_kept(0.5, total) or allocate == "layer"
    if steps * estimates > 1 and pattern == "element":
        first = prune_woodfisher(
            model, batches, density=0.5 ** (1 / (steps * estimates)), steps=1, **options
        )
        for name, mask in found.masks.items():
            assert not (mask & ~first.masks[name]).any()


def test_later_estimates_see_the_network_that_is_left(make_network: Make, batches: Batches) -> None:
    """Two estimates are the step to √d, and then the step of the smaller network."""
    options: dict[str, Any] = {"allocate": "global", "damping": 1e-2, "steps": 1}
    found = prune_woodfisher(make_network(), batches, density=0.25, estimates=2, **options)
    half = prune_woodfisher(make_network(), batches, density=0.5, **options)
    network = half.model.eval()
    layers = maskable_layers(network)
    weights = {name: network.get_parameter(name) for name in layers}
    losses = (
        nn.functional.cross_entropy(network(one[None]), label[None])
        for x, y in batches
        for one, label in zip(x, y, strict=True)
    )
    rows = gradients_of(losses, weights)
    rows = {name: found * half.masks[name].flatten() for name, found in rows.items()}
    costs = torch.cat(
        [
            w.double().flatten() ** 2 / (2 * inverse_diagonal(rows[n].double(), 1e-2))
            for n, w in weights.items()
        ]
    )
    threshold = costs.sort(descending=True).values[count_kept(0.25, len(costs)) - 1]
    kept = torch.cat([found.masks[n].flatten() for n in weights])
    assert torch.equal(kept, costs >= threshold)


def test_the_gradients_are_those_at_attacked_inputs(make_network: Make, batches: Batches) -> None:
    model, attack = make_network(), FGSM(ThreatModel("linf", 0.3))
    found = prune_woodfisher(model, batches, density=0.4, attack=attack)
    moved = [(attack(model.eval(), x, y), y) for x, y in batches]
    wanted = prune_woodfisher(model, moved, density=0.4, objective=Natural())
    clean = prune_woodfisher(model, batches, density=0.4)
    assert found.masks == wanted.masks != clean.masks
    for name, mask in found.masks.items():
        a, b = found.model.get_parameter(name), wanted.model.get_parameter(name)
        torch.testing.assert_close(a[mask], b[mask], rtol=1e-4, atol=1e-6)


def test_examples_of_a_gradient_are_averaged(make_network: Make, batches: Batches) -> None:
    """Four a gradient, ten gradients, of batches of twelve: their means, three of each batch."""
    model = make_network()
    found = prune_woodfisher(model, batches, density=0.4, examples=4, gradients=10)
    asked = [(x[i : i + 4], y[i : i + 4]) for x, y in batches for i in (0, 4, 8)][:10]
    wanted = prune_woodfisher(model, asked, density=0.4, examples=99)
    assert found.masks == wanted.masks
    other = prune_woodfisher(model, batches, density=0.4, gradients=40)
    assert found.masks != other.masks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradients": 0}, "gradients=0 must be at least 1"),
        ({"examples": 0}, "examples=0 must be at least 1"),
        ({"block": 0}, "block=0 must be at least 1"),
        ({"estimates": 0}, "estimates=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"damping": 0.0}, "damping=0.0 must be positive and finite"),
        ({"damping": float("nan")}, "damping=nan must be positive and finite"),
        ({"damping": 1e-300}, "damping=1e-300 is lost beside the squared gradients; raise it"),
        ({"seed": 1}, "seed=1 has no effect; leave it at 0: the examples are the first"),
        ({"attack": FGSM(ThreatModel("linf", 0.1)), "objective": Natural()}, "give either"),
        ({"density": 0.0}, r"density must be in \(0, 1\]"),
    ],
)
def test_what_has_no_meaning_is_refused(
    make_network: Make, batches: Batches, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        prune_woodfisher(make_network(), batches, **{"density": 0.5, **options})
    assert "\n" not in str(refused.value)


def test_an_empty_loader_and_gradients_without_end_are_refused(
    make_network: Make, batches: Batches
) -> None:
    with pytest.raises(ValueError, match="no batch"):
        prune_woodfisher(make_network(), [], density=0.5)

    def endless(model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        loss = (model(x) * torch.inf).sum()
        return StepResult(loss, torch.zeros(()), len(y))

    with pytest.raises(ValueError, match=r"gradients of '0\.weight' are NaN or infinite"):
        prune_woodfisher(make_network(), batches, density=0.5, objective=endless)
