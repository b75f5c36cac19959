"""When a sparse training updates its mask, and how many weights move: each method's own words."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from sparse_networks import ATTACK, THREAT, Watch, examples, network, trained
from torch import nn

from attacks import PGD
from robustprune.minmax import (
    Validation,
)
from robustprune.search import SPARSE_METHODS
from robustprune.search.sparse_constraint import SparseTraining
from robustprune.search.sparse_methods import schedule
from robustprune.sparsity import (
    count_kept,
    maskable_layers,
)


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
