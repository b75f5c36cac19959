"""Sparse training: every update against the method's own words, and what the loop makes of it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Awp,
    Certified,
    Checkpoint,
    Mart,
    Natural,
    OptimizerSpec,
    Trades,
    Validation,
    masks_of,
)
from robustprune.minmax.average import WeightAverage
from robustprune.search import SPARSE_METHODS, Ticket, train_sparse, training_work
from robustprune.search.sparse_constraint import SparseTraining, rank_by_sign
from robustprune.search.sparse_methods import schedule
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    bake,
    count_kept,
    groups_of,
    maskable_layers,
)
from robustprune.tasks import BatchLoader, Split

SPEC = OptimizerSpec(lr=0.1, schedule="constant")
THREAT = ThreatModel("linf", 0.1)
ATTACK = PGD(THREAT, steps=1)
MOVING = [name for name, row in SPARSE_METHODS.items() if row.drop and not row.adaptive]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))


def examples(batches: int = 4) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(8 * batches, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(8), y.split(8), strict=True))


def trained(method: str, model: nn.Module | None = None, **options: Any) -> Ticket:
    chosen = {"density": 0.25, "epochs": 4, "optimizer": SPEC, "quiet": True, **options}
    if "attack" not in chosen:
        chosen.setdefault("objective", Natural())
    if method == "flyingbird_plus":
        chosen.setdefault("validation", Validation(loader=examples()))
    loader = chosen.pop("loader", examples())
    return train_sparse(model or network(), loader, method=method, **chosen)


class Watch:
    """Notes what each update found and made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, x: Tensor | None = None) -> None:
        self.updates: list[dict[str, Any]] = []
        update = SparseTraining.update

        def noted(one: SparseTraining, model: nn.Module, number: int, step: int) -> None:
            weights = {name: layer.weight.detach().clone() for name, layer in one.layers.items()}
            found = {
                "number": number, "step": step, "before": masks_of(model), "weights": weights,
                "gradients": dict(one.gradients), "updates": one.schedule.updates,
            }  # fmt: skip
            update(one, model, number, step)
            found["after"] = masks_of(model)
            found["state"] = copy.deepcopy(one.optimizer.state_dict()["state"])
            found["model"] = {name: value.clone() for name, value in model.state_dict().items()}
            if x is not None:
                found["logits"] = model(x).detach()
                plain = bake(copy.deepcopy(model))
                for name in one.layers:
                    both = found["before"][name] & found["after"][name]
                    assert torch.equal(plain.get_parameter(name)[both], weights[name][both])
                    plain.get_parameter(name).mul_(both)
                found["without growth"] = plain(x).detach()
            self.updates.append(found)

        monkeypatch.setattr(SparseTraining, "update", noted)


# --- the schedule -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "first", "last", "number"),
    [
        ("rigl", 400, 3, 300, 100),  # until three quarters
        ("set", 400, 4, 396, 99),  # after each epoch of four steps but the last
        ("itop", 62_560, 1525, 62_525, 41),
        ("granet", 62_560, 1009, 62_558, 62),
        ("mest", 320, 10, 240, 24),  # every 5 of 160 epochs of two steps, until epoch 120
        ("hard_thresholding", 12, 1, 12, 12),
    ],
)
def test_updates_are_where_the_method_has_them(
    name: str, steps: int, first: int, last: int, number: int
) -> None:
    length = {"set": 4, "mest": 2}.get(name, 1)
    found = schedule(SPARSE_METHODS[name], None, length, steps // length)
    assert list(found.numbers.values()) == list(range(1, number + 1))
    assert (min(found.numbers), max(found.numbers)) == (first, last)


@pytest.mark.parametrize(("ramp", "last"), [(0.7, 9), (1.0, 10)])
def test_nothing_grows_in_the_last_step_unless_the_density_is_reached_there(
    ramp: float, last: int
) -> None:
    found = schedule(replace(SPARSE_METHODS["granet"], ramp=ramp), 1, 10, 1)
    assert max(found.numbers) == last
    assert found.density(last, 0.5, 0.1) == 0.1


def test_what_comes_on_top_is_gone_in_the_end() -> None:
    ticket = trained("mest_ems", density=0.25, drop=0.2, drop_end=0.1, every=2)
    assert ticket.history[0].figures["density"] > 0.35
    for mask in ticket.masks.values():
        assert int(mask.sum()) == count_kept(0.25, mask.numel())


def test_flying_bird_updates_less_often_after_half() -> None:
    steps = list(schedule(SPARSE_METHODS["flyingbird"], 900, 352, 200).numbers)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert steps[0] == 900
    assert set(gaps) == {900, 1200}
    for step, gap in zip(steps[:-1], gaps, strict=True):
        assert gap == (900 if 2 * step < 70_400 else 1200)


def test_shares_fall_as_published() -> None:
    rigl, itop, mest = (SPARSE_METHODS[name] for name in ("rigl", "itop", "mest"))
    for t in range(1, 76):  # α/2 (1 + cos(π t/T_end))
        assert rigl.share(t, 75) == pytest.approx(0.15 * (1 + math.cos(math.pi * t / 75)))
    decayed = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(decayed, 60, 0.005)
    for t in range(1, 61):  # the scheduler of the authors' code
        decayed.step()
        cosine.step()
        assert itop.share(t, 60) == pytest.approx(cosine.get_last_lr()[0])
    # update i comes at epoch 5 i: 2% until epoch 90, then 1% until 120
    assert [mest.share(i, 24) for i in (1, 17, 18, 23, 24)] == [0.02, 0.02, 0.01, 0.01, 0.0]
    assert SPARSE_METHODS["set"].share(3, 9) == SPARSE_METHODS["set"].share(9, 9) == 0.3


# --- one update -------------------------------------------------------------------------------


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


# --- Flying Bird+ -----------------------------------------------------------------------------


def test_flying_bird_plus_by_hand() -> None:
    row = SPARSE_METHODS["flyingbird_plus"]
    assert row.counts(100, 1000, 0.5) == (50, 100)
    assert row.counts(100, 1000, 0.5, True, False) == (30, 80)  # 0.4 · 50 more are dropped
    assert row.counts(100, 1000, 0.5, False, True) == (50, 102)  # 0.05 · 50 more grow
    assert row.counts(100, 1000, 0.5, True, True) == (30, 82)
    assert SPARSE_METHODS["flyingbird"].counts(100, 1000, 0.5, True, True) == (50, 100)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], (False, False)),
        ([(9, 0.1, 1.0), (10, 0.2, 1.1)], (True, True)),
        ([(8, 0.1, 1.0), (9, 0.2, 1.1)], (False, False)),  # not half of 20 epochs
        ([(10, 0.1, 1.0)], (False, False)),  # nothing to compare
        # four differences: the gap rises in two, the loss falls in three
        ([(7, 9, 9), (8, 0.1, 4.0), (9, 0.2, 3.0), (10, 0.1, 2.0), (11, 0.3, 1.0), (12, 0.1, 1.0)],
         (True, False)),
        ([(8, 0.3, 1.0), (9, 0.2, 1.0), (10, 0.1, 2.0), (11, 0.2, 1.0), (12, 0.1, 0.5)],
         (False, True)),
    ],
)  # fmt: skip
def test_when_a_training_overfits(seen: Any, expected: tuple[bool, bool]) -> None:
    model = network()
    found = SparseTraining(
        model, maskable_layers(model), SPARSE_METHODS["flyingbird_plus"], density=0.2,
        pattern="element", allocate=None, every=None, seed=0, epochs=20,
    )  # fmt: skip
    found.seen = seen
    assert found.overfits() == expected


def test_the_density_follows_what_validation_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    wrong = [(x, 1 - y) for x, y in examples(2)]  # the better the training, the larger the gap
    fixed = PGD(THREAT, steps=1, seed=0)
    check = Validation(loader=wrong, attack=fixed)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    ticket = trained(
        "flyingbird_plus", model, density=0.4, attack=ATTACK, validation=check, epochs=8, every=4
    )
    cross_entropy, model = nn.functional.cross_entropy, ticket.model.eval()
    losses = [cross_entropy(model(fixed(model, x, y)), y).detach() for x, y in wrong]
    loss = float(torch.stack(losses).mean())
    chosen = max(ticket.history, key=lambda record: (record.val_robust, record.epoch))
    assert chosen.val_loss == pytest.approx(loss, rel=1e-5)
    row, seen = SPARSE_METHODS["flyingbird_plus"], []
    changed = 0
    for one in watch.updates:
        late = [r for r in ticket.history if r.epoch <= (one["step"] - 1) // 4]
        seen = [(r.robust - r.val_robust, r.val_loss) for r in late]  # type: ignore[operator]
        pairs = list(itertools.pairwise(seen[-5:]))
        half = len(late) >= 4
        rises = half and 2 * sum(b[0] > a[0] for a, b in pairs) >= len(pairs)
        stalls = half and 2 * sum(b[1] >= a[1] for a, b in pairs) >= len(pairs)
        share = row.share(one["number"], one["updates"])
        for name, before in one["before"].items():
            expected = row.counts(int(before.sum()), before.numel(), share, rises, stalls)[1]
            assert int(one["after"][name].sum()) == expected
            changed += expected != int(before.sum())
    assert changed > 0


# --- what the loop makes of it ----------------------------------------------------------------


PATTERNS = {"element": 0.25, "row": 0.25, "channel": 0.5, "4x2": 0.5, "2:4": 0.5}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_any_method_under_any_pattern(
    method: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "flyingbird_plus" and pattern == "2:4":
        with pytest.raises(ValueError, match="adapts the density, and pattern 2:4 fixes it"):
            trained(method, density=0.5, pattern=pattern)
        return
    watch, density = Watch(monkeypatch), PATTERNS[pattern]
    ticket = trained(method, density=density, pattern=pattern, attack=ATTACK)
    row = SPARSE_METHODS[method]
    groups = groups_of(maskable_layers(network()), pattern)
    for one in watch.updates:
        for name, mask in one["after"].items():
            alive = groups[name].reduce(mask.float()) > 0
            assert torch.equal(groups[name].expand(alive), mask)  # whole groups
            if not row.moves_density and not row.projected and not row.adaptive:
                assert mask.sum() == one["before"][name].sum()
    ever = {name: mask.clone() for name, mask in watch.updates[0]["before"].items()} if (
        watch.updates) else dict(ticket.masks)  # fmt: skip
    for one in watch.updates:
        ever = {name: mask | one["after"][name] for name, mask in ever.items()}
    total = sum(mask.numel() for mask in ever.values())
    explored = sum(int(mask.sum()) for mask in ever.values()) / total
    figures = ticket.history[-1].figures
    assert figures["explored"] == pytest.approx(explored)
    assert figures["density"] == ticket.masks.density
    for key, (old, new) in {"dropped": ("before", "after"), "grown": ("after", "before")}.items():
        counted = sum(
            int((one[old][name] & ~one[new][name]).sum())
            for one in watch.updates
            for name in one[old]
        )
        assert sum(record.figures[key] for record in ticket.history) == counted
    if not row.adaptive:
        number = sum(g.number for g in groups.values())
        alive = sum(int((g.reduce(ticket.masks[n].float()) > 0).sum()) for n, g in groups.items())
        layerwise = pattern == "2:4" or (row.cut or row.allocate) == "layer"
        if layerwise and pattern != "2:4":
            assert alive == sum(count_kept(density, g.number) for g in groups.values())
        elif pattern == "2:4":
            assert alive == number // 2
        else:
            assert alive == count_kept(density, number)
    for name, mask in ticket.masks.items():
        weight = ticket.model.get_parameter(name)
        assert type(weight) is nn.Parameter
        assert not weight[~mask].any()


@pytest.mark.parametrize(
    "objective",
    [
        Adversarial(ATTACK),
        Trades(ATTACK),
        Mart(ATTACK),
        Certified(THREAT, method="ibp", warmup=1),
        Certified(THREAT, method="crown-ibp", warmup=1),
        Awp(Adversarial(ATTACK)),
    ],
    ids=["adversarial", "trades", "mart", "ibp", "crown-ibp", "awp"],
)
@pytest.mark.parametrize("method", ["set", "rigl", "granet", "hard_thresholding"])
def test_any_objective(method: str, objective: Any) -> None:
    ticket = trained(method, objective=objective, average=0.5)
    assert 0.25 <= ticket.masks.density < 0.27
    assert all(math.isfinite(record.loss) for record in ticket.history)
    for name, mask in ticket.masks.items():
        assert not ticket.model.get_parameter(name)[~mask].any()


def test_in_an_average_what_grows_starts_at_zero() -> None:
    model = nn.Linear(4, 1, bias=False)
    apply_masks(model, MaskSet({"weight": torch.tensor([[True, True, False, False]])}))
    stored, mask = model.parametrizations.weight.original, model.parametrizations.weight[0].mask  # type: ignore[union-attr, index]
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        stored.copy_(torch.tensor([[1.0, 2.0, 0.0, 4.0]]))
        mask.copy_(torch.tensor([[True, False, True, False]]))
        before = average.state["parametrizations.weight.original"].clone()
        average.update(model)
    decay = 2 / 11
    found = average.state["parametrizations.weight.original"]
    expected = torch.lerp(before, stored.detach(), 1 - decay)
    expected[0, 2] = 0.0  # not the rest of its earlier life
    torch.testing.assert_close(found, expected)
    assert torch.equal(average.state["parametrizations.weight.0.mask"], mask)


def test_the_epoch_is_chosen_with_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Falls:
        """The second epoch is the best one."""

        def __init__(self) -> None:
            self.calls = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.calls += 1
            x, y = examples()[0]
            yield x, y if self.calls == 2 else 1 - y

    watch = Watch(monkeypatch)
    ticket = trained(
        "set", validation=Validation(loader=Falls()), epochs=6,  # type: ignore[arg-type]
    )  # fmt: skip
    assert ticket.masks == watch.updates[1]["after"] != watch.updates[-1]["after"]
    for name, mask in ticket.masks.items():
        assert not ticket.model.get_parameter(name)[~mask].any()


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", [*SPARSE_METHODS])
def test_a_killed_training_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    """It is killed within an epoch, and in another one again."""
    x, y = (torch.cat(part) for part in zip(*examples(), strict=True))
    options: dict[str, Any] = {"attack": ATTACK, "epochs": 5, "every": 2, "average": 0.9}
    if SPARSE_METHODS[method].fixed:
        del options["every"]
    if method == "flyingbird_plus":
        options["validation"] = Validation(loader=examples(2), attack=ATTACK)

    class Dies(Adversarial):
        left = 10**6

        def __call__(self, *args: Any) -> Any:
            Dies.left -= 1
            if Dies.left < 0:
                raise Stop
            return super().__call__(*args)

    del options["attack"]

    def run(left: int, **more: Any) -> Ticket:
        Dies.left = left
        loader = BatchLoader(Split(x, y), 8, shuffle=True, seed=0)
        return trained(method, objective=Dies(ATTACK), loader=loader, **options, **more)

    torch.manual_seed(1)
    straight = run(10**6)
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    torch.manual_seed(1)
    for steps in (7, 8):
        with pytest.raises(Stop):
            run(steps, checkpoint=place)
        torch.manual_seed(99)
    resumed = run(10**6, checkpoint=place)
    assert resumed.masks == straight.masks
    assert [r.figures for r in resumed.history] == [r.figures for r in straight.history]
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_a_seed_draws_the_first_mask_and_the_growth() -> None:
    one, same, other = (trained("set", seed=seed) for seed in (1, 1, 2**62))
    assert one.masks == same.masks != other.masks


def test_growth_by_gradient_finds_the_inputs_that_matter() -> None:
    """Two of 200 inputs say the class; of 2% of the weights, a random mask has hardly any there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 200, generator=generator)
    data = list(zip(x.split(64), (x[:, :2].sum(1) > 0).long().split(64), strict=True))
    losses: dict[str, list[float]] = {"static": [], "rigl": []}
    for method, seed in itertools.product(losses, range(2)):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, 2))
        ticket = trained(
            method, model, loader=data, density=0.02, dense=("last",), epochs=20, seed=seed
        )
        losses[method].append(ticket.history[-1].loss)
        share = float(ticket.masks["0.weight"][:, :2].float().mean())
        assert (share > 0.1) == (method == "rigl")
    assert 10 * max(losses["rigl"]) < min(losses["static"])


def test_the_work_of_a_training_by_hand() -> None:
    """A convolution uses its weights once a position; the last update adds a dense gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    data = [(x.view(8, 1, 8), y) for x, y in examples()]
    given = {"0.weight": 0.25, "3.weight": 0.5}
    ticket = trained(
        "rigl", model, loader=data, density=27 / 60, allocate=given, every=4, attack=ATTACK
    )
    share = (6 * 3 + 24) / (6 * 12 + 48)
    for record in ticket.history:
        assert record.figures["work"] == pytest.approx(share)
    dense = [record.figures["dense_steps"] for record in ticket.history]
    assert dense == [1, 1, 0, 0]  # the third and last update drops nothing
    expected = share + (1 - share) * 2 / 16 / 5  # 2 passes of PGD-1 and 3 of the update
    assert training_work(ticket.history, 1) == pytest.approx(expected)
    gradual = trained("gradual", model, loader=data, density=0.5, every=4)
    path = [1.0, *(0.5 + 0.5 * (1 - i / 3) ** 3 for i in range(1, 4))]
    for record, now in zip(gradual.history, path, strict=True):
        kept = (count_kept(now, 12) * 6 + count_kept(now, 48)) / 120
        assert record.figures["work"] == pytest.approx(kept)
    assert training_work([], 1) is None


class Told(nn.Linear):
    """A layer that is called by keyword, and returns its bias, too."""

    def forward(self, told: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(told), self.bias


class Calls(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = nn.Linear if how == "weights" else Told
        self.first, self.last, self.how = kind(8, 8), nn.Linear(8, 2), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "weights":
            hidden = nn.functional.linear(x, self.first.weight).relu()
            return nn.functional.linear(hidden, self.last.weight)
        hidden, _ = self.first(told=x) if self.how == "keyword" else self.first(x)
        return self.last(hidden.relu())


@pytest.mark.parametrize("how", ["keyword", "tuple", "weights"])
def test_networks_that_call_their_layers_otherwise_are_trained(how: str) -> None:
    given = {"first.weight": 0.5, "last.weight": 0.25}
    ticket = trained("static", Calls(how), density=0.45, allocate=given)
    assert ticket.masks.density == 0.45
    # only the last layer says how often it is used, or none
    assert training_work(ticket.history, 3) == (None if how == "weights" else 0.25)


def test_a_finished_training_that_is_read_again_leaves_no_hooks(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "kept.safetensors", seconds=0)
    one, again = (trained("rigl", checkpoint=kept) for _ in range(2))
    assert not any(module._forward_hooks for module in again.model.modules())
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "hard_thresholding"])
def test_a_compiled_network_moves_its_masks_alike(method: str) -> None:
    # several updates could meet a tie that rounding decides, and then go other ways
    own: dict[str, Any] = {"every": 5} if method == "rigl" else {}
    plain, fast = (trained(method, compile=compiled, **own) for compiled in (False, True))
    assert fast.masks == plain.masks
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(value, fast.model.state_dict()[name])
    assert training_work(fast.history, 0) is None


class NoLength:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(examples())


class Short(list[Any]):
    """Says that it has more batches than it gives."""

    def __len__(self) -> int:
        return 8


@pytest.mark.parametrize("method", ["granet", "mest_ems"])
def test_a_loader_that_gives_less_than_it_says_still_leads_to_the_density(method: str) -> None:
    ticket = trained(method, loader=Short(examples()), density=0.25)
    assert ticket.masks.density == 0.25


CHECK = Validation(loader=examples())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("riggle", {}, "unknown method 'riggle'; choose one of gradual, static, set, rigl"),
        ("rigl", {"density": 0.0}, "density"),
        ("rigl", {"drop": 1.5}, "drop=1.5 must be a share from 0 to 1"),
        ("rigl", {"drop_end": float("nan")}, "drop_end=nan must be a share"),
        ("rigl", {"grow": "momentum"}, "unknown grow='momentum'; choose random or gradient"),
        ("rigl", {"start": 0.8}, "start=0.8 and stop=0.75"),
        ("rigl", {"every": 0}, "every=0 must be at least 1"),
        ("rigl", {"every": 2.5}, "every=2.5 must be at least 1, in whole steps"),
        ("rigl", {"every": 100}, "every=100 leaves no update between start=0 and stop=0.75"),
        ("rigl", {"first": 0.1}, "first=0.1 is the density at the start, and must be from 0.25"),
        ("rigl", {"ramp": 0.5}, "ramp=0.5 has no effect without first"),
        ("granet", {"ramp": 0.0}, r"ramp=0 must be a fraction of the training in \(0, 1\]"),
        ("granet", {"ramp": 0.01, "every": 4}, "ramp=0.01 ends before the first of 3 updates"),
        ("static", {"drop": 0.3}, "drop=0.3 is no option of method static; leave it out"),
        ("static", {"every": 3}, "every=3 is no option of method static"),
        ("hard_thresholding", {"grow": "random"}, "grow='random' is no option of method hard"),
        ("gradual", {"grow": "random"}, "grow='random' has no effect with drop=0"),
        ("hard_thresholding", {"seed": 1}, "seed=1 has no effect"),
        ("rigl", {"loader": NoLength()}, "the loader has no length"),
        ("granet", {"validation": CHECK}, "before the network is sparse"),
        ("mest_ems", {"validation": CHECK}, "before the network is sparse"),
        ("flyingbird_plus", {"validation": None}, "adapts the density to held-out examples; give"),
        ("rigl", {"pattern": "2:4"}, "keeps exactly 0.5"),
        ("rigl", {"pattern": "2:4", "density": 0.5, "allocate": "erk"}, "allocate='erk' has no"),
        ("rigl", {"attack": ATTACK, "objective": Natural()}, "either `attack` or `objective`"),
    ],
)
def test_what_cannot_be_is_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        trained(method, **options)
    assert "\n" not in str(caught.value)


def test_static_needs_no_length() -> None:
    assert trained("static", loader=NoLength()).masks.kept == count_kept(0.25, 96 + 96 + 16)
