"""L0 gates against sums and samples, exact counts, and networks that become smaller for real."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.deploy import slim
from robustprune.minmax import Checkpoint, Natural, OptimizerSpec, Validation, train
from robustprune.search import finetune_ticket, prune_admm, prune_l0
from robustprune.search.l0_gates import L0Gates
from robustprune.sparsity import count_kept, groups_of, maskable_layers
from robustprune.sparsity.hard_concrete import expected, sampled, score_of

ADAM = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 2)
    )


def examples() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(16), (x[:, 0] > 0).long().split(16), strict=True))


def gates_on(network: nn.Module, pattern: str, **options: Any) -> L0Gates:
    layers = maskable_layers(network)
    how: dict[str, Any] = {
        "density": None, "allocate": "layer", "penalty": 1.0, "decay": 0.0, "kept": 0.7,
        "spread": 0.0, "gate_lr": 1.0, "seed": 0,
    }  # fmt: skip
    return L0Gates(network, layers, groups_of(layers, pattern), **{**how, **options})


@pytest.mark.parametrize("pattern", ["element", "channel", "filter", "4x3"])
def test_the_expected_density_is_a_sum_over_weights_and_the_mean_of_samples(pattern: str) -> None:
    constraint = gates_on(mlp(), pattern)
    generator = torch.Generator().manual_seed(1)
    total, kept, seen = 0, 0.0, 0.0
    for name, gates in constraint.gates.items():
        gates.score.data.normal_(0, 2, generator=generator)
        groups = constraint.groups[name]
        p = constraint.probabilities()[name]
        kept += float(groups.expand(p.detach()).sum())  # each weight has its group's probability
        u = torch.rand((20_000, groups.number), generator=generator)
        alive = (sampled(gates.score.detach(), u) > 0).double().mean(0)
        seen += float(groups.expand(alive).sum())
        total += math.prod(groups.shape)
    found = float(constraint.expected_density().detach())
    assert found == pytest.approx(kept / total, rel=1e-5)
    assert found == pytest.approx(seen / total, abs=0.004)


@pytest.mark.parametrize("allocate", ["layer", "global", "erk", "igq"])
@pytest.mark.parametrize("pattern", ["element", "channel", "filter", "4x3"])
def test_exactly_as_many_groups_as_asked_are_kept(pattern: str, allocate: Any) -> None:
    ticket = prune_l0(
        mlp(), examples(), density=0.4, attack=FGSM(ThreatModel("linf", 0.05)), pattern=pattern,
        allocate=allocate, epochs=2, optimizer=ADAM, gate_lr=10.0, quiet=True,
    )  # fmt: skip
    groups = groups_of(maskable_layers(mlp()), pattern)
    counts = {n: int((g.reduce(ticket.masks[n].float()) > 0).sum()) for n, g in groups.items()}
    if allocate == "layer":
        assert counts == {name: count_kept(0.4, g.number) for name, g in groups.items()}
    else:
        assert sum(counts.values()) == count_kept(0.4, sum(g.number for g in groups.values()))
    for name, mask in ticket.masks.items():
        assert not bool(ticket.model.get_parameter(name)[~mask].any())


def test_the_path_ends_at_the_density_and_a_large_weight_of_the_penalty_keeps_less() -> None:
    how: dict[str, Any] = {
        "objective": Natural(), "pattern": "channel", "epochs": 60, "optimizer": ADAM,
        "gate_lr": 10.0, "quiet": True,
    }  # fmt: skip
    reached = prune_l0(mlp(), examples(), density=0.4, **how).history[-1].figures
    assert reached["expected density"] == pytest.approx(0.42, abs=0.05)
    few, many = (prune_l0(mlp(), examples(), penalty=λ, **how) for λ in (3.0, 0.1))
    assert few.masks.density < many.masks.density < 1


def test_without_a_penalty_nothing_is_removed() -> None:
    ticket = prune_l0(
        mlp(), examples(), penalty=0.0, objective=Natural(), epochs=3, optimizer=ADAM,
        spread=0.0, gate_lr=1.0, quiet=True,
    )  # fmt: skip
    assert ticket.masks.density == 1.0


def test_the_penalty_is_that_of_the_formula() -> None:
    network = mlp()
    weights = {n: p.detach().clone() for n, p in network.named_parameters() if n.endswith("weight")}
    constraint = gates_on(network, "filter", penalty=0.3, decay=0.02)
    found = constraint.penalty(network)
    p = constraint.probabilities()
    literal = 0.3 * constraint.expected_density()
    for name, weight in weights.items():
        for row, probability in zip(weight, p[name], strict=True):
            literal = literal + 0.5 * 0.02 * probability * row.square().sum()
    assert float(found.detach()) == pytest.approx(float(literal.detach()), rel=1e-5)


def test_the_result_has_the_gates_of_eval_mode_in_its_weights() -> None:
    network = mlp()
    start = {n: p.detach().clone() for n, p in network.named_parameters()}
    still = OptimizerSpec(name="sgd", lr=0.0, momentum=0.0, weight_decay=0.0)
    ticket = prune_l0(
        network, examples(), density=0.5, objective=Natural(), epochs=1, optimizer=still,
        kept=0.6, spread=0.0, quiet=True,
    )  # fmt: skip
    gate = float(expected(torch.tensor(score_of(0.5))))  # the path leads all scores from 0.6 to 0.5
    assert 0 < gate < 1
    for name, mask in ticket.masks.items():
        torch.testing.assert_close(ticket.model.get_parameter(name), start[name] * gate * mask)
    assert all(torch.equal(p, start[n]) for n, p in network.named_parameters())


def test_scores_have_a_learning_rate_of_their_own() -> None:
    """With SGD one step moves a score by gate_lr times its gradient times the rate."""
    moved = []
    for gate_lr in (1.0, 50.0):
        network = mlp().requires_grad_(True)
        constraint = gates_on(network, "filter", penalty=5.0, gate_lr=gate_lr)
        train(
            network, examples()[:1], Natural(), epochs=1, quiet=True, constraint=constraint,
            optimizer=OptimizerSpec(lr=1e-3, momentum=0.0, schedule="constant"),
            parameters=constraint.parameters(),
        )  # fmt: skip
        scores = torch.cat([gates.score.detach() for gates in constraint.gates.values()])
        moved.append(scores - score_of(0.7))
    torch.testing.assert_close(moved[1], 50 * moved[0], rtol=1e-2, atol=1e-6)


class Convolutions(nn.Module):
    def __init__(self, padding: int) -> None:
        super().__init__()
        self.one = nn.Conv1d(1, 8, 3, padding=padding)
        self.norm = nn.BatchNorm1d(8)
        self.two = nn.Conv1d(8, 8, 3, padding=padding)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(x)))
        return self.head(torch.relu(self.two(x)).mean(2))


@pytest.mark.parametrize(("pattern", "padding"), [("channel", 1), ("channel", 0), ("filter", 0)])
def test_gated_inputs_and_filters_are_removed_with_the_shift_of_batch_norm(
    pattern: str, padding: int
) -> None:
    torch.manual_seed(0)
    network = Convolutions(padding)
    nn.init.normal_(network.norm.bias)
    series = [(x.unsqueeze(1), y) for x, y in examples()]
    ticket = prune_l0(
        network, series, density=0.5, objective=Natural(), pattern=pattern,
        dense=("first",) if pattern == "channel" else ("last",), epochs=8, optimizer=ADAM,
        gate_lr=20.0, quiet=True,
    )  # fmt: skip
    x = series[0][0]
    smaller = slim(ticket.model, ticket.masks, x)
    torch.testing.assert_close(smaller(x), ticket.model.eval()(x), rtol=1e-4, atol=1e-5)
    assert smaller.get_submodule("one").weight.shape[0] == 4  # type: ignore[union-attr]
    assert smaller.get_submodule("two").weight.shape[1] == 4  # type: ignore[union-attr]


def test_resume_continues_bit_for_bit_and_seeds_differ(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "density": 0.4, "objective": Natural(), "epochs": 4, "optimizer": ADAM, "quiet": True,
    }  # fmt: skip
    whole = prune_l0(mlp(), examples(), **how)

    class Stop(Exception):
        pass

    def stop(record: object) -> None:
        if getattr(record, "epoch", 0) == 1:
            raise Stop

    with pytest.raises(Stop):
        prune_l0(mlp(), examples(), **how, checkpoint=Checkpoint(tmp_path / "l0"), on_epoch=stop)
    again = prune_l0(mlp(), examples(), **how, checkpoint=Checkpoint(tmp_path / "l0"))
    other = prune_l0(mlp(), examples(), **how, seed=1)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    assert any(
        not torch.equal(weight, other.model.state_dict()[name])
        for name, weight in whole.model.state_dict().items()
    )


def test_the_ticket_is_fine_tuned_under_its_mask() -> None:
    ticket = prune_l0(mlp(), examples(), density=0.4, objective=Natural(), epochs=2, quiet=True)
    tuned = finetune_ticket(
        ticket, examples(), objective=Natural(), mode="inherit", epochs=2, quiet=True
    )
    for name, mask in ticket.masks.items():
        assert not bool(tuned.model.get_parameter(name)[~mask].any())


def test_first_scores_follow_the_norms_of_the_groups() -> None:
    network = mlp()
    norms = {n: p.detach().norm(dim=1) for n, p in network.named_parameters() if p.ndim == 2}
    constraint = gates_on(network, "filter", spread=2.0)
    for name, gates in constraint.gates.items():
        score = gates.score.detach()
        assert torch.equal(score.argsort(), norms[name].argsort())
        assert float(score.max()) == pytest.approx(score_of(0.7) + 2.0, abs=1e-5)
        assert float(score.min()) == pytest.approx(score_of(0.7) - 2.0, abs=1e-5)


def test_a_group_that_is_alone_in_its_layer_starts_open() -> None:
    """One input channel has the rank of the middle, and not that of the smallest."""
    network = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    constraint = gates_on(network, "channel", kept=0.9, spread=5.0)
    one = constraint.probabilities()["0.weight"].detach()
    torch.testing.assert_close(one, torch.tensor([0.9]))


def test_with_a_penalty_each_gate_of_stacked_matrices_decides_for_itself() -> None:
    network = nn.ModuleDict({"lstm": nn.LSTM(3, 2), "head": nn.Linear(2, 2)})
    constraint = gates_on(network, "element")
    generator = torch.Generator().manual_seed(0)
    for name, gates in constraint.gates.items():
        gates.score.data.normal_(0, 3, generator=generator)
        if name == "lstm.weight_hh_l0":
            gates.score.data.view(4, -1)[:3] = -9.0  # three of its four matrices are off
        if name == "head.weight":
            gates.score.data -= 30.0
    for name, mask in constraint.masks(network).items():
        score = constraint.gates[name].score.detach()
        if name == "head.weight":  # nothing is left: the largest stays
            assert mask.flatten().nonzero().tolist() == [[int(score.argmax())]]
        else:
            assert torch.equal(mask.flatten(), expected(score) > 0)


@pytest.mark.parametrize("seed", [0, -1, 2**62])
def test_any_seed_will_do(seed: int) -> None:
    constraint = gates_on(mlp(), "element", seed=seed)
    assert 0.6 < float((constraint.gates["0.weight"]() > 0).float().mean()) < 0.8


@dataclass(frozen=True, kw_only=True)
class Falling(Validation):
    """Finds each epoch worse than the one before, and notes the weights that it has seen."""

    seen: list[dict[str, Tensor]] = field(default_factory=list)

    def measured(self, model: nn.Module, device: torch.device) -> tuple[float, None, float]:
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return 1 - 0.1 * len(self.seen), None, 0.0


@pytest.mark.parametrize(
    ("search", "options", "chosen"),
    [
        (prune_l0, {"density": 0.4, "gate_lr": 1.0}, 3),  # the path ends after half
        (prune_l0, {"penalty": 0.5}, 1),
        (prune_admm, {"density": 0.4, "every": 1, "bits": 4, "hold": 0.5}, 4),  # held from then on
        (prune_admm, {"density": 0.4, "every": 1}, 1),
    ],
)
def test_no_epoch_is_chosen_that_keeps_more_than_the_result(
    search: Any, options: dict[str, Any], chosen: int
) -> None:
    looked = Falling(loader=examples())
    ticket = search(
        mlp(), examples(), objective=Natural(), epochs=6, quiet=True, validation=looked, **options
    )
    equal = [torch.equal(ticket.model[0].bias, state["0.bias"]) for state in looked.seen]
    assert equal == [epoch == chosen for epoch in range(1, 7)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `density` or `penalty`"),
        ({"density": 0.5, "penalty": 1.0}, "give either `density` or `penalty`"),
        ({"density": 0.0}, "density must be in"),
        ({"density": 0.5, "pattern": "2:4"}, "each gate decides for itself"),
        ({"density": 0.5, "allocate": "row"}, "each gate decides for itself"),
        ({"penalty": 1.0, "allocate": "erk"}, "allocate='erk' has no effect"),
        ({"penalty": -1.0}, "penalty=-1.0 must be at least 0"),
        ({"density": 0.5, "decay": math.nan}, "decay=nan must be at least 0"),
        ({"density": 0.5, "kept": 1.0}, "kept=1.0 is a probability"),
        ({"density": 0.5, "spread": -1.0}, "spread=-1.0 must be at least 0"),
        ({"density": 0.5, "gate_lr": 0.0}, "gate_lr=0.0 must be positive"),
    ],
)
def test_bad_input_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune_l0(mlp(), examples(), objective=Natural(), epochs=1, quiet=True, **options)
