"""What a call was asked to do, as text: the same for the same, another for another."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Free, OptimizerSpec, Trades
from robustprune.run.fingerprint import check_same_call, described
from robustprune.search import Ticket
from robustprune.sparsity import MaskSet
from robustprune.tasks import BatchLoader, Split


def weighted(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, y: factor * logits.gather(1, y.unsqueeze(1)).squeeze(1)


def of(scale: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.weight.data.mul_(scale)
    return model


class Plain:
    """An object that is no dataclass."""

    def __init__(self, strength: float, secret: float = 0.0) -> None:
        self.strength, self._secret, self.steps = strength, secret, 0


@dataclass
class Found:
    kept: float
    history: list[float] = field(default_factory=list)


class Lines(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([])


SMALL = ThreatModel("linf", 0.1)
X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])
PAIRS: list[tuple[object, object]] = [
    (0.1, 0.2),
    (1, 1.0),
    ("layer", "global"),
    ({"a": 0.1}, {"a": 0.2}),
    (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-30])),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (of(1.0), of(1.0001)),
    (PGD(SMALL), PGD(ThreatModel("linf", 0.2))),
    (PGD(SMALL, loss=weighted(1.0)), PGD(SMALL, loss=weighted(2.0))),
    (Adversarial(PGD(ThreatModel("l2", 0.1))), Adversarial(PGD(SMALL))),
    (Trades(PGD(SMALL), 6.0), Trades(PGD(SMALL), 1.0)),
    (Free(SMALL), Free(SMALL, step_size=0.01)),
    (OptimizerSpec(lr=0.1), OptimizerSpec(lr=0.2)),
    (Plain(1.0), Plain(2.0)),
    (partial(weighted, 1.0), partial(weighted, 2.0)),
    (weighted, of),
    ([(X, Y)], [(X + 1, Y)]),
    (DataLoader(TensorDataset(X, Y), 2), DataLoader(TensorDataset(X, 1 - Y), 2)),
    (DataLoader(TensorDataset(X, Y), 2), DataLoader(TensorDataset(X, Y), 4)),
    (DataLoader(TensorDataset(X, Y), 2), DataLoader(TensorDataset(X, Y), 2, shuffle=True)),
    (
        BatchLoader(Split(X, Y), 2, shuffle=True, seed=0),
        BatchLoader(Split(X, Y), 2, shuffle=True, seed=1),
    ),
    (
        Ticket(MaskSet({"weight": torch.ones(2, 3, dtype=torch.bool)}), of(1.0), []),
        Ticket(MaskSet({"weight": torch.eye(2, 3, dtype=torch.bool)}), of(1.0), []),
    ),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: type(pair[0]).__name__)
def test_other_values_are_told_apart(pair: tuple[object, object]) -> None:
    one, other = map(described, pair)
    assert one != other
    try:
        again = copy.deepcopy(pair)
    except TypeError:  # a generator of random numbers is held by it
        again = pair
    assert [one, other] == list(map(described, again))


def test_what_does_not_decide_the_result_is_left_out() -> None:
    assert described(Plain(1.0, secret=1.0)) == described(Plain(1.0, secret=2.0))
    assert described(Found(1.0, [3.0])) == described(Found(1.0)) == "Found(kept=1.0)"
    moved = Plain(1.0)
    moved.steps = 7  # what it has come to, not what it was made with
    assert described(moved) == described(Plain(1.0))


def test_names_stand_for_values_that_cannot_be_written() -> None:
    assert described(print) == "builtins.print"
    assert described(np.float32(0.5)) == "0.5"
    assert described(DataLoader(Lines(), 2)).startswith("DataLoader(batch_size=2")
    assert described({3, 1}) == "{1, 3}"
    assert described(PGD(SMALL).__call__).startswith("PGD.__call__ of PGD(threat")
    ring: list[object] = []
    ring.append(ring)
    assert described(ring) == "((((((((list))))))))"


def test_content_may_be_left_to_a_name() -> None:
    """Shapes are told all the same."""
    assert described(of(1.0), digests=False) == described(of(2.0), digests=False)
    loaders = [[(X, Y)], [(X + 1, Y)], [(X[:2], Y[:2])]]
    first, second, shorter = (described(loader, digests=False) for loader in loaders)
    assert first == second != shorter


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(values, values)
def test_equal_text_means_equal_values(one: object, other: object) -> None:
    assert described(one) == described(copy.deepcopy(one))
    if described(one, depth=50) == described(other, depth=50):
        assert repr(one) == repr(other) or one == other


def test_another_process_says_the_same() -> None:
    """Hashes of strings and addresses differ from process to process; what is told must not."""
    attack = PGD(ThreatModel("linf", 0.1, support=torch.ones_like), steps=2, loss=torch.dot)
    here = described([Adversarial(attack), {"b", "a", "c"}, torch.ones(3), object()])
    program = (
        "import torch; from attacks import PGD, ThreatModel\n"
        "from robustprune.minmax import Adversarial\n"
        "from robustprune.run.fingerprint import described\n"
        "attack = PGD(ThreatModel('linf', 0.1, support=torch.ones_like), steps=2, loss=torch.dot)\n"
        "print(described([Adversarial(attack), {'b', 'a', 'c'}, torch.ones(3), object()]))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    assert there.stdout.strip() == here
    assert "ones_like" in here
    assert "0x" not in here


def test_the_refusal_names_the_option_and_both_values() -> None:
    path, call = Path("c"), {"density": "0.5", "seed": "0"}
    check_same_call(path, dict(call), call)
    with pytest.raises(ValueError, match=r"^c is of another call: seed is 0 there and 5 here; del"):
        check_same_call(path, call, {**call, "seed": "5"})
    with pytest.raises(ValueError, match=r"density is not given there and 0.5 here; diff"):
        check_same_call(path, {"seed": "1"}, call)
    with pytest.raises(ValueError, match="seed is 0 there and not given here"):
        check_same_call(path, call, {"density": "0.5"})
    with pytest.raises(ValueError, match="c does not say of which call it is"):
        check_same_call(path, None, call)


@settings(max_examples=50)
@given(st.integers(0, 400), st.integers(0, 400))
def test_long_values_are_shown_where_they_differ(before: int, after: int) -> None:
    old, new = (
        " ".join(["word"] * before + [middle] + ["end"] * after) for middle in ("0.125", "0.25")
    )
    with pytest.raises(ValueError, match=r"\b0\.125\b.* there and .*\b0\.25\b.* here") as caught:
        check_same_call(Path("c"), {"attack": old}, {"attack": new})
    assert len(str(caught.value)) < 400
