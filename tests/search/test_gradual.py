"""Gradual magnitude pruning: the path of the density, what is dropped, what a checkpoint keeps."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, Natural, OptimizerSpec, Validation, train
from robustprune.run.sections import GradualSection
from robustprune.search import SPARSE_METHODS, Ticket, finetune_ticket, prune_gradual
from robustprune.search.sparse_constraint import SparseTraining
from robustprune.sparsity import MaskSet, count_kept, maskable_layers

SPEC = OptimizerSpec(lr=0.05, schedule="constant")
ATTACK = PGD(ThreatModel("linf", 0.1), steps=1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))


def examples(batches: int = 4) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(8 * batches, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(8), y.split(8), strict=True))


def pruned(model: nn.Module | None = None, **options: Any) -> Any:
    chosen = {"density": 0.2, "epochs": 3, "optimizer": SPEC, "quiet": True, **options}
    if "attack" not in chosen:
        chosen.setdefault("objective", Natural())
    return prune_gradual(model or network(), chosen.pop("loader", examples()), **chosen)


def constraint_on(model: nn.Module, *, steps: int = 100, **options: Any) -> SparseTraining:
    chosen = {
        "density": 0.2, "pattern": "element", "allocate": "layer",
        "every": None, "epochs": 1, "seed": 0, **options,
    }  # fmt: skip
    way = {"start": chosen.pop("start", 0.0), "stop": chosen.pop("stop", 1.0)}
    method = replace(SPARSE_METHODS["gradual"], ramp=way["stop"], **way)
    found = SparseTraining(model, maskable_layers(model), method, **chosen)
    found.bind(model, torch.optim.SGD(model.parameters()), steps, 1)
    return found


@settings(max_examples=30, deadline=None)
@given(
    density=st.floats(0.01, 1.0),
    start=st.floats(0.0, 0.5),
    stop=st.floats(0.6, 1.0),
    every=st.one_of(st.none(), st.integers(1, 15)),
)
def test_the_density_follows_the_paper_step_by_step(
    density: float, start: float, stop: float, every: int | None
) -> None:
    """s_t = s_f (1 − (1 − (t − t₀)/(nΔ))³) at t₀ + Δ, ..., t₀ + nΔ, and constant in between."""
    model, steps = nn.Linear(40, 10), 200
    found = constraint_on(model, steps=steps, density=density, start=start, stop=stop, every=every)
    t0 = int(start * steps)
    delta = every or max(1, (int(stop * steps) - t0) // 100)
    n = (int(stop * steps) - t0) // delta
    for t in range(1, steps + 1):
        found.after_step(model, t)
        update = min(max(0, (t - t0) // delta), n)  # so many were made
        sparsity = (1 - density) * (1 - (1 - update / n) ** 3)
        exact = 400 * (1 - sparsity)
        kept = found.masks(model).kept
        assert exact - 1e-6 <= kept < exact + 1 + 1e-6
        assert kept == int((model.weight != 0).sum())
    assert found.masks(model).kept == count_kept(density, 400)


@pytest.mark.parametrize("allocate", ["layer", "global"])
def test_each_update_drops_the_smallest_weights_that_are_left(allocate: str) -> None:
    model = network()
    layers = maskable_layers(model)
    found = constraint_on(model, allocate=allocate, steps=10)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, 11):
        with torch.no_grad():  # all move, as by an optimizer with weight decay
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        before = found.masks(model)
        weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        found.after_step(model, t)
        after = found.masks(model)
        pools = [list(before)] if allocate == "global" else [[name] for name in before]
        for names in pools:
            alive = torch.cat([weights[name][before[name]].abs() for name in names])
            stays = torch.cat([after[name][before[name]] for name in names])
            assert int(stays.sum()) == sum(int(after[name].sum()) for name in names)  # none is new
            dropped = int((~stays).sum())
            assert torch.equal(alive[~stays].sort().values, alive.sort().values[:dropped])
    assert after.kept == pytest.approx(0.2 * after.total, abs=3)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [10, 20, 4]),  # ⌈0.2 · 48⌉, ⌈0.2 · 96⌉, ⌈0.2 · 16⌉
        ({"allocate": {"0.weight": 0.5, "2.weight": 0.05, "4.weight": 0.2}}, [24, 5, 4]),
        ({"pattern": "row"}, [3 * 4, 2 * 12, 1 * 8]),
        ({"pattern": "2:4", "density": 0.5}, [24, 48, 8]),
        ({"pattern": "1:4", "density": 0.25}, [12, 24, 4]),
        ({"dense": ("first", "last")}, [20]),
        ({"density": 1.0}, [48, 96, 16]),
        ({"attack": ATTACK}, [10, 20, 4]),
        ({"average": 0.5}, [10, 20, 4]),
    ],
)
def test_the_count_is_exact_in_the_end(options: dict[str, Any], kept: list[int]) -> None:
    ticket = pruned(**options)
    assert [int(mask.sum()) for mask in ticket.masks.values()] == kept
    for name, mask in ticket.masks.items():
        weight = ticket.model.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        assert type(weight) is nn.Parameter
    densities = [record.figures["density"] for record in ticket.history]
    assert all(a >= b for a, b in pairwise(densities))
    assert densities[-1] == ticket.masks.density


@pytest.mark.parametrize("allocate", ["global", "erk"])
def test_other_allocations_keep_the_whole_count(allocate: str) -> None:
    assert pruned(allocate=allocate).masks.kept == 32  # ⌈0.2 · 160⌉


def test_of_four_as_many_stay_as_the_path_asks_for() -> None:
    model = nn.Linear(8, 4, bias=False)
    found = constraint_on(model, pattern="1:4", density=0.25, steps=4)
    masks = [found.masks(model)]
    for t in range(1, 5):
        found.after_step(model, t)
        masks.append(found.masks(model))
        four = masks[-1]["weight"].view(4, 2, 4).sum(-1)
        path = 0.25 + 0.75 * (1 - t / 4) ** 3
        assert four.unique().tolist() == [math.ceil(4 * path)]
    for before, after in pairwise(masks):
        assert (after & before) == after


def test_density_one_is_plain_training_bit_for_bit() -> None:
    spec, plain = OptimizerSpec(), network()
    torch.manual_seed(5)
    ticket = pruned(plain, density=1.0, objective=Adversarial(ATTACK), optimizer=spec)
    torch.manual_seed(5)
    history = train(plain, examples(), Adversarial(ATTACK), optimizer=spec, epochs=3, quiet=True)
    assert [r.loss for r in ticket.history] == [r.loss for r in history]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ticket.model.state_dict()[name])


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_resumed_search_is_the_same_bit_for_bit(tmp_path: Path, stopped: int) -> None:
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)

    def seeded(**options: Any) -> Any:
        torch.manual_seed(2)
        return pruned(attack=ATTACK, epochs=4, **options)

    def stop(record: Any) -> None:
        if record.epoch == stopped:
            raise KeyboardInterrupt

    straight = seeded()
    with pytest.raises(KeyboardInterrupt):
        seeded(checkpoint=place, on_epoch=stop)
    torch.manual_seed(9)
    resumed = pruned(attack=ATTACK, epochs=4, checkpoint=place)
    assert resumed.masks == straight.masks
    assert [r.loss for r in resumed.history] == [r.loss for r in straight.history]
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    # by its end the path is another one, so that fewer epochs are no beginning of more
    for other in ({"epochs": 6}, {"stop": 0.5}, {"every": 2}, {"density": 0.3}):
        with pytest.raises(ValueError, match="is of another call"):
            pruned(**{"attack": ATTACK, "epochs": 4, "checkpoint": place, **other})


def test_the_model_given_is_not_changed_and_weights_are_trained() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ticket = pruned(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mask = ticket.masks["0.weight"]
    assert not torch.equal(ticket.model.get_parameter("0.weight")[mask], before["0.weight"][mask])


def test_better_than_a_random_mask_of_its_size() -> None:
    torch.manual_seed(0)
    ticket = pruned(epochs=20, loader=examples(8), density=0.15)
    losses = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        shuffled = MaskSet(
            {
                name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view_as(
                    mask
                )
                for name, mask in ticket.masks.items()
            }
        )
        model = network()
        with torch.no_grad():
            for name, mask in shuffled.items():
                model.get_parameter(name).mul_(mask)
        other = finetune_ticket(
            Ticket(shuffled, model, []), examples(8), Natural(),
            epochs=20, optimizer=SPEC, quiet=True,
        )  # fmt: skip
        losses.append(other.history[-1].loss)
    assert ticket.history[-1].loss < min(losses)


class Short(list[Any]):
    """Says that it has more batches than it gives."""

    def __len__(self) -> int:
        return 8


class NoLength:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(examples())


def test_a_loader_that_gives_less_than_it_says_still_leads_to_the_density() -> None:
    assert pruned(loader=Short(examples()), stop=1.0).masks.kept == 10 + 20 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "density"),
        ({"start": 0.5, "stop": 0.5}, "0 <= start < stop <= 1"),
        ({"stop": 1.5}, "0 <= start < stop <= 1"),
        ({"start": float("nan")}, "0 <= start < stop <= 1"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"every": 10}, "every=10 leaves no update between start=0 and stop=0.75 of 12 steps"),
        ({"loader": NoLength()}, "the loader has no length"),
        ({"validation": Validation(loader=examples())}, "before the network is sparse"),
        ({"pattern": "2:4"}, "keeps exactly 0.5"),
        ({"objective": Natural(), "attack": ATTACK}, "either `attack` or `objective`"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pruned(**options)
    assert "\n" not in str(caught.value)


def test_the_defaults_of_a_config_are_those_of_the_call() -> None:
    section = GradualSection().model_dump()
    defaults = {n: p.default for n, p in inspect.signature(prune_gradual).parameters.items()}
    assert OptimizerSpec(**section.pop("optimizer")) == defaults["optimizer"]
    del section["weights"]
    assert section == {name: defaults[name] for name in section}
