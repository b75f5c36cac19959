"""One update of a sparse training, weight by weight, against the method's own words."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from sparse_networks import ATTACK, MOVING, SPEC, Watch, examples, network, trained
from torch import Tensor, nn

from robustprune.minmax import (
    Natural,
    OptimizerSpec,
    Validation,
)
from robustprune.search import SPARSE_METHODS
from robustprune.search.sparse_constraint import rank_by_sign
from robustprune.sparsity import (
    MaskSet,
    bake,
    count_kept,
)


@pytest.mark.parametrize("method", MOVING)
def test_an_update_is_the_one_that_the_method_describes(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brute force over each layer's weights, one by one."""
    watch, row = Watch(monkeypatch), SPARSE_METHODS[method]
    density = 0.25
    trained(method, density=density, every=2, epochs=4, seed=3)
    assert len(watch.updates) >= 5
    moved = 0
    for one in watch.updates:
        share, number = row.share(one["number"], one["updates"]), one["number"]
        if row.first is not None:
            path = density + (row.first - density) * max(0, 1 - number / 5) ** 3
            now = MaskSet(one["after"])
            assert now.kept == count_kept(path, now.total)
        for name, weight in one["weights"].items():
            before, after = one["before"][name].flatten(), one["after"][name].flatten()
            values, n = weight.flatten().abs().tolist(), before.numel()
            alive = [i for i in range(n) if before[i]]
            if row.first is not None:  # the cut compares all layers; it only shrinks
                smallest = sorted(alive, key=lambda i: values[i])
                base = int(after.sum())
                alive = [i for i in alive if i not in smallest[: len(alive) - base]]
            if row.extra:
                base = math.ceil(density * n)
                stays = set(sorted(alive, key=lambda i: -values[i])[:base])
                grown = round(share * n)
            else:
                grown = round(share * (n if row.of_all else len(alive)))
                grown = min(grown, len(alive) // 2) if row.of_all else grown
                ranked = {i: values[i] for i in alive}
                if row.by_sign:
                    for sign in (1, -1):
                        same = [i for i in alive if sign * float(weight.flatten()[i]) > 0]
                        for place, i in enumerate(sorted(same, key=lambda i: values[i]), 1):
                            ranked[i] = place / len(same)
                drops = sorted(alive, key=lambda i: (ranked[i], -i))[:grown]
                stays = set(alive) - set(drops)
            kept = {i for i in range(n) if after[i]}
            assert stays <= kept
            assert len(kept) == len(stays) + grown
            if row.grow == "gradient":
                slope = one["gradients"][name].flatten().abs().tolist() if grown else []
                others = [i for i in range(n) if i not in stays]
                best = sorted(others, key=lambda i: (-slope[i], i))[:grown] if grown else []
                assert kept - stays == set(best)
            moved += len(kept - set(alive))
    assert moved > 0


@pytest.mark.parametrize(("density", "drop"), [(0.125, 0.3), (0.5, 0.02)])
def test_with_equal_rows_the_smallest_of_the_layer_are_replaced_in_their_rows(
    density: float, drop: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    trained("rigl", allocate="row", density=density, drop=drop, drop_end=drop, every=2)
    assert len(watch.updates) == 6
    moved = 0
    for one in watch.updates:
        for name, weight in one["weights"].items():
            before, after = one["before"][name], one["after"][name]
            assert after.sum(1).unique().tolist() == before.sum(1).unique().tolist()
            number = round(drop * int(before.sum()))
            order = weight.abs().masked_fill(~before, torch.inf).flatten().argsort(stable=True)
            dropped = torch.zeros_like(before).view(-1).index_fill(0, order[:number], True)
            stays = before & ~dropped.view_as(before)
            assert bool((after | ~stays).all())
            slope = one["gradients"][name].abs().masked_fill(stays, torch.inf)
            for row, active in enumerate(after):
                best = slope[row].argsort(descending=True, stable=True)[: int(active.sum())]
                assert set(active.nonzero().flatten().tolist()) == set(best.tolist())
            moved += int((after & ~before).sum())
    assert moved > 0


def test_an_adaptive_density_keeps_rows_equal_and_none_empty() -> None:
    noise = [(x, y[torch.randperm(8, generator=torch.Generator().manual_seed(1))])
             for x, y in examples()]  # fmt: skip
    found = trained(
        "flyingbird_plus", allocate="row", density=0.125, drop_end=0.5, every=2, epochs=12,
        more_drop=1.0, more_growth=0.0, validation=Validation(loader=noise),
    )  # fmt: skip
    for mask in found.masks.values():
        assert len(mask.sum(1).unique()) == 1
        assert mask.any(1).all()


def test_the_gradient_of_growth_is_that_of_an_unmasked_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, slopes = Watch(monkeypatch), []

    class Copies(Natural):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Any:
            plain = copy.deepcopy(model)
            plain = bake(plain).train()
            nn.functional.cross_entropy(plain(x), y).backward()
            slopes.append({name: p.grad for name, p in plain.named_parameters()})
            return super().__call__(model, x, y, epoch)

    trained("rigl", objective=Copies(), every=3)
    for one in watch.updates[:-1]:  # the last drops nothing
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(gradient, slopes[one["step"] - 1][name])
    assert len(watch.updates) == 4


@pytest.mark.parametrize("optimizer", [SPEC, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("method", ["set", "rigl", "mest_ems"])
def test_what_grows_is_new_and_changes_no_output(
    method: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = examples()[0][0]
    watch = Watch(monkeypatch, x)
    trained(method, every=3, optimizer=optimizer)
    grown = 0
    for one in watch.updates:
        assert torch.equal(one["logits"], one["without growth"])
        names = [name for name in one["model"] if name.endswith(("original", "bias"))]
        for stored in names:
            if not stored.endswith("original"):
                continue
            name = f"{stored[0]}.weight"
            new = one["after"][name] & ~one["before"][name]
            grown += int(new.sum())
            assert not one["model"][stored][new].any()
            for value in one["state"].get(_index(names, stored), {}).values():
                if isinstance(value, Tensor) and value.shape == new.shape:
                    assert not value[new].any()
                    assert value[~new].any()
    assert grown > 3


def _index(names: list[str], stored: str) -> int:
    """Biases come before the weight that a parametrization holds."""
    layer = [names.index(name) for name in names if name[0] == stored[0]]
    return min(layer) + 1


@pytest.mark.parametrize("method", ["set", "rigl", "itop", "mest"])
def test_to_drop_nothing_is_static_bit_for_bit(method: str) -> None:
    static = trained("static", attack=ATTACK, allocate="igq", seed=2)
    other = trained(method, attack=ATTACK, allocate="igq", seed=2, drop=0, drop_end=0, every=1)
    assert other.masks == static.masks
    assert [r.loss for r in other.history] == [r.loss for r in static.history]
    for name, value in static.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_rank_by_sign_by_hand() -> None:
    weight = torch.tensor([0.1, -5.0, 0.3, -6.0, 0.2, 9.0])
    alive = torch.tensor([True, True, True, True, True, False])
    found = rank_by_sign(weight, alive)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 2, 1, 1, 2 / 3, 0])


def test_hard_thresholding_is_projected_gradient_descent() -> None:
    """w ← the k largest of w − η ∇L(w), with the gradient of all weights."""
    rate, data, ours = 2.0, examples(), network()
    ticket = trained(
        "hard_thresholding", ours, density=0.3,
        optimizer=OptimizerSpec(lr=rate, momentum=0.0, weight_decay=0.0, schedule="constant"),
    )  # fmt: skip
    plain, came_back = network(), 0
    for x, y in data * 4:
        before = {name: p.detach() != 0 for name, p in plain.named_parameters()}
        plain.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        with torch.no_grad():
            for name, p in plain.named_parameters():
                p -= rate * p.grad  # type: ignore[operator]
                if name.endswith("weight"):
                    kept = count_kept(0.3, p.numel())
                    smallest = p.abs().flatten().topk(p.numel() - kept, largest=False).indices
                    p.view(-1)[smallest] = 0
                    came_back += int(((p != 0) & ~before[name]).sum())
    assert came_back > 0
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ticket.model.state_dict()[name], value)
    assert ticket.masks.kept == int(sum((p != 0).sum() for n, p in plain.named_parameters()
                                        if n.endswith("weight")))  # fmt: skip
