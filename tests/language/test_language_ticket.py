"""The search for language tickets: what must hold whatever is learned."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Checkpoint, FreeLB, Natural, OptimizerSpec, Trades, Validation, train
from robustprune.models import EmbeddingClassifier
from robustprune.packing import words
from robustprune.search import (
    LanguageTicket,
    find_language_ticket,
    find_lottery_ticket,
    finetune_ticket,
    prune_admm,
    prune_scores,
    train_control,
)
from robustprune.search.learned_gates import HardConcreteGates, expected_density, first_scores
from robustprune.sparsity import (
    Granularity,
    count_kept,
    gate_groups,
    keep_best,
    maskable_layers,
    weights_of,
)
from robustprune.sparsity.hard_concrete import probability_kept, score_of
from robustprune.tasks import BatchLoader, Split

MakeModel = Callable[..., EmbeddingClassifier]
ATTACK = PGD(ThreatModel("l2", 0.3, support=words), steps=2)
ADAM = OptimizerSpec(name="adamw", lr=1e-3, weight_decay=1e-2, schedule="linear")
LINEARS = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32  # of both layers and the pooler


def find(model: EmbeddingClassifier, split: Split, **options: object) -> LanguageTicket:
    settings: dict = {"density": 0.7, "attack": ATTACK, "epochs": 2, "quiet": True} | options
    torch.manual_seed(0)
    loader = BatchLoader(split, 12, shuffle=True, seed=0)
    return find_language_ticket(model, loader, **settings)


def test_the_weights_do_not_move(make_model: MakeModel, split: Split) -> None:
    model, pretrained = make_model(), make_model(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = make_model().requires_grad_(False)
    groups = gate_groups(frozen, "weight", dense=("last",))
    gates = HardConcreteGates(frozen, groups, density=0.5, penalty=0.5, kept=0.9, seed=0)
    loader = BatchLoader(split, 12, shuffle=True, seed=0)
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=1e-6)
    start = gates.scores()
    train(frozen, loader, Natural(), optimizer=spec, epochs=2, parameters=gates.parameters(),
          constraint=gates, quiet=True)  # fmt: skip
    moved = frozen.state_dict()
    for name, value in before.items():
        layer, _, leaf = name.rpartition(".")
        found = moved.get(name, moved.get(f"{layer}.parametrizations.{leaf}.original"))
        assert torch.equal(found, value), name
    assert any(not torch.equal(s, start[n]) for n, s in gates.scores().items())
    ticket = find(model, split, pretrained=pretrained)
    for name, value in before.items():  # the caller's model too
        assert torch.equal(model.state_dict()[name], value)
    for name, value in pretrained.state_dict().items():  # and the ticket starts where it should
        assert torch.equal(ticket.start.state_dict()[name], value)
        mask = ticket.masks.get(name)
        expected = value if mask is None else value * mask
        assert torch.equal(ticket.model.state_dict()[name], expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.7, 1.0])
def test_the_density_is_exact(make_model: MakeModel, split: Split, density: float) -> None:
    ticket = find(make_model(), split, epochs=1).at(density)
    assert ticket.masks.total == LINEARS
    assert ticket.masks.kept == count_kept(density, LINEARS)


@pytest.mark.parametrize(
    ("granularity", "kept", "of"), [("head", 5, 8), ("neuron", 77, 128), ("layer", 2, 2)]
)
def test_coarser_granularities(
    make_model: MakeModel, split: Split, granularity: str, kept: int, of: int
) -> None:
    ticket = find(make_model(), split, granularity=granularity, density=0.6, epochs=1)
    assert ticket.masks.density == kept / of
    columns = {"head": "attention.output", "neuron": "output", "layer": "output"}[granularity]
    alive = 0
    for layer in range(2):
        prefix = f"network.bert.encoder.layer.{layer}"
        down = ticket.masks[f"{prefix}.{columns}.dense.weight"]
        assert bool((down == down[:1]).all())  # whole columns
        if granularity == "head":
            heads = down[0].view(4, 8)
            assert bool((heads == heads[:, :1]).all())
            for name in ("query", "key", "value"):
                rows = ticket.masks[f"{prefix}.attention.self.{name}.weight"]
                assert torch.equal(rows, down[0][:, None].expand_as(rows))
            alive += int(heads[:, 0].sum())
        elif granularity == "neuron":
            rows = ticket.masks[f"{prefix}.intermediate.dense.weight"]
            assert torch.equal(rows, down[0][:, None].expand_as(rows))
            alive += int(down[0].sum())
        else:
            alive += int(down.all())
    assert alive == kept


def test_equal_seeds_give_equal_tickets(make_model: MakeModel, split: Split) -> None:
    first, again = find(make_model(), split), find(make_model(), split)
    assert first.masks == again.masks
    for name, score in first.scores.items():
        assert torch.equal(score, again.scores[name])
    other = find(make_model(), split, seed=1)
    assert any(not torch.equal(s, other.scores[n]) for n, s in first.scores.items())


def test_an_interrupted_search_ends_alike(
    make_model: MakeModel, split: Split, tmp_path: Path
) -> None:
    straight = find(make_model(), split, epochs=3)
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)

    class Killed(Exception):
        pass

    def kill(record: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        find(make_model(), split, epochs=3, checkpoint=place, on_epoch=kill)
    resumed = find(make_model(), split, epochs=3, checkpoint=place)
    for name, score in straight.scores.items():
        assert torch.equal(score, resumed.scores[name])
    assert len(resumed.history) == 3


def test_a_heavier_penalty_keeps_less(make_model: MakeModel, split: Split) -> None:
    densities = [
        find(make_model(), split, penalty=p, epochs=4).history[-1].figures["expected density"]
        for p in (0.0, 100.0)
    ]
    assert densities[1] < densities[0] - 0.02


@pytest.mark.parametrize("allocate", ["global", "layer"])
@pytest.mark.parametrize("granularity", ["head", "neuron"])
def test_multipliers_drive_the_gates_to_the_density(
    make_model: MakeModel, split: Split, granularity: Granularity, allocate: str
) -> None:
    asked = {"granularity": granularity, "allocate": allocate, "density": 0.5, "epochs": 60}
    ticket = find(make_model(), split, penalty=None, **asked)
    reached = [record.figures["expected density"] for record in ticket.history]
    assert reached[0] > 0.8  # it starts at 0.9
    assert reached[-1] == pytest.approx(0.5, abs=0.05)
    each = [float(probability_kept(scores).mean()) for scores in ticket.scores.values()]
    if allocate == "layer":
        assert each == pytest.approx([0.5] * len(each), abs=0.08)
        for place, group in gate_groups(ticket.model, granularity).items():
            name, span = list(group.spans.items())[-1]
            kept = span.total(ticket.masks[name].float(), group.shape) > 0
            assert int(kept.sum()) == group.number // 2, place
        again = ticket.at(0.25).masks
        assert {layer.density for layer in again.layers()} == {0.25}


def test_multipliers_are_the_sums_of_what_was_in_excess(make_model: MakeModel) -> None:
    model = make_model().requires_grad_(False)
    groups = gate_groups(model, "head")
    gates = HardConcreteGates(model, groups, density=0.6, penalty=None, kept=0.9, each=True, seed=0)
    assert float(gates.penalty(model).detach()) == 0  # both multipliers begin at zero
    gates.after_step(model, 1)
    gates.after_step(model, 2)
    torch.testing.assert_close(gates.multipliers, torch.tensor([[0.6] * 2, [0.18] * 2]))
    with torch.no_grad():
        gates.gates["head.0"].score.fill_(100.0)  # all open: R = 1
    excess = torch.tensor([0.4, 0.3])
    wanted = (0.6 * excess + 0.18 * excess.square()).sum()
    torch.testing.assert_close(gates.penalty(model).detach(), wanted)
    other = HardConcreteGates(
        make_model(), groups, density=0.6, penalty=None, kept=0.9, each=True, seed=0
    )
    other.load_state_dict(gates.state_dict())
    assert torch.equal(other.multipliers, gates.multipliers)
    assert other.gates["head.0"].draw == 2


def test_the_expected_density_counts_weights(make_model: MakeModel) -> None:
    model = make_model()
    groups = gate_groups(model, "head")
    gates = HardConcreteGates(model, groups, density=0.5, penalty=1.0, kept=0.9, seed=0)
    assert float(gates.expected_density().detach()) == pytest.approx(0.9)
    with torch.no_grad():  # half of the first layer's heads closed for good
        gates.gates["head.0"].score[:2] = -100.0
    assert float(gates.expected_density().detach()) == pytest.approx(0.9 * 6 / 8)


@pytest.mark.parametrize("granularity", ["weight", "head", "neuron"])
def test_spread_scores_start_in_the_order_of_magnitude(
    make_model: MakeModel, granularity: Granularity
) -> None:
    model = make_model()
    with torch.no_grad():  # no two groups alike
        for index, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + 0.1 * index)
    groups = gate_groups(model, granularity, dense=("last",) if granularity == "weight" else ())
    scores = first_scores(model, groups, density=0.5, kept=0.9, spread=2.0)
    pairs = []
    for name, group in groups.items():
        for index in range(group.number):
            chosen = torch.zeros(group.number, dtype=torch.bool)
            chosen[index] = True
            weights = [
                model.get_parameter(weight)[
                    span.expand(chosen.view(group.shape)).expand(span.shape)
                ]
                for weight, span in group.spans.items()
            ]
            size = float(torch.cat(weights).detach().square().mean().sqrt())
            pairs.append((size, float(scores[name].flatten()[index])))
    pairs.sort()
    found = [score for _, score in pairs]
    assert found == sorted(found)
    middle = score_of(0.9)
    assert found[0] == pytest.approx(middle - 2)
    assert found[-1] == pytest.approx(middle + 2)


def test_without_steps_a_spread_search_is_magnitude_pruning(
    make_model: MakeModel, split: Split
) -> None:
    model = make_model()
    still = OptimizerSpec(name="sgd", lr=1e-30)
    ticket = find(model, split, spread=3.0, epochs=1, optimizer=still, density=0.6)
    layers = maskable_layers(model, dense=("last",))
    scores = {name: weight.detach().abs() for name, weight in weights_of(layers).items()}
    assert ticket.masks == keep_best(scores, layers, density=0.6, allocate="global")
    moved = find(model, split, spread=3.0, epochs=2, density=0.6)
    assert moved.masks != ticket.masks


@pytest.mark.parametrize("granularity", ["weight", "head", "neuron", "layer"])
@pytest.mark.parametrize("spread", [0.0, 3.0, 20.0])
@pytest.mark.parametrize("density", [0.2, 0.7, 0.95])
def test_without_kept_the_search_starts_at_the_density(
    make_model: MakeModel, granularity: Granularity, spread: float, density: float
) -> None:
    model = make_model()
    groups = gate_groups(model, granularity, dense=("last",) if granularity == "weight" else ())
    scores = first_scores(model, groups, density=density, kept=None, spread=spread)
    kept = total = 0.0
    for name, group in groups.items():
        covered = group.weights // group.number  # by each group of this place
        kept += covered * float(probability_kept(scores[name].double()).sum())
        total += covered * group.number
    assert kept / total == pytest.approx(density, abs=1e-4)


def test_without_kept_something_must_go(make_model: MakeModel, split: Split) -> None:
    with pytest.raises(ValueError, match="below 1, not 1"):
        find(make_model(), split, density=1.0, kept=None)


@pytest.mark.parametrize("spread", [-1.0, math.inf, math.nan])
def test_bad_spreads_are_refused(make_model: MakeModel, split: Split, spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        find(make_model(), split, spread=spread)


def test_the_epoch_is_chosen_on_held_out_data(make_model: MakeModel, split: Split) -> None:
    held = BatchLoader(split, 24, shuffle=False, seed=0)
    ticket = find(make_model(), split, validation=Validation(loader=held, attack=ATTACK))
    assert all(record.val_robust is not None for record in ticket.history)


@dataclass(frozen=True, kw_only=True)
class Falling(Validation):
    """Finds each epoch worse than the one before."""

    seen: ClassVar[list[int]] = []

    def measured(self, model: nn.Module, device: torch.device) -> tuple[float, None, float]:
        self.seen.append(len(self.seen))
        return 1 - self.seen[-1] / 100, None, 0.0


@pytest.mark.parametrize("density", [0.5, 0.1])
@pytest.mark.parametrize("allocate", ["global", "layer"])
@pytest.mark.parametrize("penalty", [None, 0.5])
def test_no_epoch_is_chosen_in_which_multipliers_leave_more_than_asked(
    make_model: MakeModel, split: Split, density: float, allocate: str, penalty: float | None
) -> None:
    """At a density that is never reached, the last epoch is the result."""
    Falling.seen.clear()
    ticket = find(
        make_model(), split, attack=None, objective=Natural(), epochs=24, density=density,
        granularity="neuron", allocate=allocate, penalty=penalty,
        validation=Falling(loader=BatchLoader(split, 24, shuffle=False, seed=0)),
    )  # fmt: skip
    reached = [record.figures["expected density"] for record in ticket.history]
    fits = [value <= 1.1 * density or penalty is not None for value in reached]
    wanted = reached[fits.index(True)] if True in fits else reached[-1]
    assert float(expected_density(ticket.scores, ticket.groups)) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize(
    "objective", [Natural(), FreeLB(ATTACK), Trades(ATTACK, 1.0, symmetric=True)]
)
def test_finetuning_and_controls(make_model: MakeModel, split: Split, objective) -> None:
    ticket = find(make_model(), split, epochs=1, pretrained=make_model(seed=1))
    loader = BatchLoader(split, 12, shuffle=True, seed=0)
    options: dict = {"epochs": 2, "optimizer": ADAM, "quiet": True}
    tuned = finetune_ticket(ticket, loader, objective, **options)
    for name, mask in ticket.masks.items():
        weight = tuned.model.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
        assert not torch.equal(weight, ticket.model.get_parameter(name))
    random = train_control(ticket, loader, "random", objective=objective, **options)
    assert random.masks != ticket.masks
    assert random.masks.kept == ticket.masks.kept
    reinit = train_control(ticket, loader, "reinit", objective=objective, **options)
    assert reinit.masks == ticket.masks


def test_the_other_searches_take_text_as_it_is(make_model: MakeModel, split: Split) -> None:
    loader = BatchLoader(split, 12, shuffle=True, seed=0)
    options: dict = {
        "density": 0.5,
        "attack": ATTACK,
        "epochs": 1,
        "dense": ("last",),
        "quiet": True,
    }
    total = LINEARS
    for found in (
        prune_admm(make_model(), loader, optimizer=ADAM, every=1, allocate="global", **options),
        prune_scores(make_model(), loader, allocate="global", **options),
        find_lottery_ticket(make_model(), loader, optimizer=ADAM, rounds=2, **options),
    ):
        assert found.masks.total == total
        assert found.masks.kept == count_kept(0.5, total)


def test_embeddings_norms_and_biases_are_never_masked(make_model: MakeModel) -> None:
    model = make_model()
    names = set(maskable_layers(model))
    assert all(name.endswith("weight") for name in names)
    assert not any("embeddings" in name or "LayerNorm" in name for name in names)
    # a linear layer whose weight is the table of word embeddings is left out too
    tied = torch.nn.Linear(32, 50, bias=False)
    tied.weight = model.table.weight
    model.decoder = tied
    assert set(maskable_layers(model)) == names


def test_refusals(make_model: MakeModel, split: Split) -> None:
    for options, match in (
        ({"density": 0.0}, "density must be in"),
        ({"penalty": -1.0}, "penalty=-1.0 must be at least 0"),
        ({"granularity": "heads"}, "unknown granularity 'heads'"),
        ({"kept": 1.0}, "strictly between 0 and 1"),
        ({"attack": None}, "give either `attack` or `objective`"),
        ({"dense": ("nothing",)}, "no such layer"),
    ):
        with pytest.raises(ValueError, match=match):
            find(make_model(), split, **options)
