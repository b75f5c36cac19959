"""Stratified hold-out, classes that are dealt out, and the batch loader's exact resume."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustprune.tasks import BatchLoader, Split, dealt, holdout
from robustprune.tasks.augment import crop_and_flip


def numbered(labels: list[int]) -> Split:
    """A split whose x is the index of the example."""
    return Split(torch.arange(len(labels)).float().unsqueeze(1), torch.tensor(labels))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_holdout_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    split, counts = numbered(labels), Counter(labels)
    if max(counts.values()) == 1:
        with pytest.raises(ValueError, match="can be held out"):
            holdout(split, fraction, seed)
        return
    train, validation = holdout(split, fraction, seed)
    indices = [int(i) for part in (train, validation) for i in part.x[:, 0]]
    assert sorted(indices) == list(range(len(labels)))
    assert [labels[i] for i in indices] == [*train.y.tolist(), *validation.y.tolist()]
    held = Counter(validation.y.tolist())
    for label, count in counts.items():
        if count == 1:
            assert held[label] == 0
        else:
            assert 1 <= held[label] <= count - 1
            assert abs(held[label] - fraction * count) <= max(
                0.5 + 1e-9, 1 - fraction * count, fraction * count - (count - 1)
            )


def test_holdout_depends_on_the_seed_alone() -> None:
    split = numbered([0, 1] * 50)
    first, second = holdout(split, 0.2, 3)[1], holdout(split, 0.2, 3)[1]
    torch.rand(5)
    assert torch.equal(first.x, second.x)
    assert not torch.equal(first.x, holdout(split, 0.2, 4)[1].x)
    assert first.y.bincount().tolist() == [10, 10]
    assert torch.equal(first.x, first.x.sort(dim=0).values)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_holdout_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction .* must be in \(0, 1\)"):
        holdout(numbered([0, 1]), fraction, 0)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6).filter(lambda c: sum(c) > 40),
    order=st.permutations(range(6)),
)
def test_any_beginning_of_what_is_dealt_has_the_classes_in_their_shares(
    counts: list[int], order: list[int]
) -> None:
    """The j-th of n_c comes at (j + ½) / n_c, so that C classes are at most (C + 1) / 2 off."""
    labels = [c for c in order if c < len(counts) for _ in range(counts[c])]
    split = numbered(labels)
    found = dealt(split)
    indices = found.x[:, 0].long()
    assert sorted(indices.tolist()) == list(range(len(labels)))
    assert found.y.tolist() == [labels[i] for i in indices]
    assert torch.equal(dealt(found).x, found.x)
    for number in range(1, len(labels) + 1):
        have = found.y[:number].bincount(minlength=len(counts))
        for one, count in zip(have.tolist(), counts, strict=True):
            assert abs(one - number * count / len(labels)) <= (len(counts) + 1) / 2
    for label in range(len(counts)):  # within a class the order stays
        mine = indices[found.y == label]
        assert torch.equal(mine, mine.sort().values)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 10), count=st.integers(40, 400))
def test_what_is_mixed_already_keeps_its_order(seed: int, classes: int, count: int) -> None:
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    split = numbered(labels.tolist())
    assert dealt(split) is split


def test_a_split_of_one_class_or_one_example_is_left_alone() -> None:
    for labels in ([0], [1] * 20, [0, 0, 1, 1]):
        split = numbered(labels)
        assert dealt(split) is split


def test_each_epoch_has_every_example_once_in_a_new_order() -> None:
    loader = BatchLoader(numbered([0, 1] * 8), 5, shuffle=True, seed=0)
    assert len(loader) == 4
    epochs = [[int(i) for x, _ in loader for i in x[:, 0]] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(16))
    assert epochs[0] != epochs[1]
    for x, y in loader:
        assert torch.equal(x[:, 0].long() % 2, y)


def test_without_shuffle_the_order_is_kept() -> None:
    loader = BatchLoader(numbered([0, 1] * 4), 3, shuffle=False, seed=0)
    assert [x[:, 0].tolist() for x, _ in loader] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    loader = BatchLoader(numbered([0, 1] * 4), 3, shuffle=False, seed=0, drop_last=True)
    assert len(loader) == 2
    assert [len(x) for x, _ in loader] == [3, 3]


def test_the_order_does_not_depend_on_the_global_generator() -> None:
    orders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        loader = BatchLoader(numbered([0, 1] * 8), 16, shuffle=True, seed=7)
        orders.append(next(iter(loader))[0])
    assert torch.equal(orders[0], orders[1])


def image_loader(seed: int, *, shuffle: bool = True) -> BatchLoader:
    x = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(99))
    split = Split(x, torch.arange(10))
    return BatchLoader(split, 4, shuffle=shuffle, seed=seed, augment=crop_and_flip)


def collect(loader: BatchLoader, count: int) -> list[torch.Tensor]:
    """The x of the next `count` batches, over as many epochs as it takes."""
    out: list[torch.Tensor] = []
    while len(out) < count:
        for x, _ in loader:
            out.append(x)
            if len(out) == count:
                break
    return out


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("stop", range(1, 8))
def test_a_resumed_loader_continues_bit_for_bit(stop: int, shuffle: bool) -> None:
    straight = collect(image_loader(3, shuffle=shuffle), 9)
    first = image_loader(3, shuffle=shuffle)
    collect(first, stop)
    state = {key: value.clone() for key, value in first.state_dict().items()}
    assert state["generator"].dtype == torch.uint8
    second = image_loader(1234, shuffle=shuffle)
    second.load_state_dict(state)
    for key, value in second.state_dict().items():
        assert torch.equal(value, state[key])
    resumed = collect(second, 9 - stop)
    for expected, got in zip(straight[stop:], resumed, strict=True):
        assert torch.equal(expected, got)


def test_state_between_epochs_starts_the_next_epoch() -> None:
    straight, stopped = image_loader(3), image_loader(3)
    epochs = [[x for x, _ in straight] for _ in range(2)]
    for _ in stopped:
        pass
    resumed = image_loader(4)
    resumed.load_state_dict(stopped.state_dict())
    for expected, (got, _) in zip(epochs[1], resumed, strict=True):
        assert torch.equal(expected, got)


def test_a_new_iteration_after_a_break_starts_an_epoch() -> None:
    loader = image_loader(3)
    next(iter(loader))
    assert sum(len(x) for x, _ in loader) == 10


def test_a_resumed_epoch_is_continued_once() -> None:
    first, resumed = image_loader(3), image_loader(3)
    collect(first, 1)
    resumed.load_state_dict(first.state_dict())
    next(iter(resumed))
    assert sum(len(x) for x, _ in resumed) == 10


def test_the_loader_refuses_what_gives_no_batches() -> None:
    split = numbered([0, 1, 0])
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        BatchLoader(split, 0, shuffle=False, seed=0)
    with pytest.raises(ValueError, match="batch_size 4 exceeds the 3 examples"):
        BatchLoader(split, 4, shuffle=False, seed=0, drop_last=True)
    empty = Split(torch.zeros(0, 1), torch.zeros(0).long())
    with pytest.raises(ValueError, match="empty"):
        BatchLoader(empty, 4, shuffle=False, seed=0)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 900),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_batches_of_like_length_are_an_epoch_and_resume(
    count: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    lengths = torch.randint(1, 60, (count,), generator=torch.Generator().manual_seed(seed))
    split = numbered([0] * count)

    def loader() -> BatchLoader:
        return BatchLoader(split, batch_size, shuffle=True, seed=seed, lengths=lengths)

    epoch = [x[:, 0].long() for x, _ in loader()]
    assert sorted(torch.cat(epoch).tolist()) == list(range(count))
    assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
    stopped = loader()
    stop = data.draw(st.integers(1, len(epoch)))
    for index, _ in enumerate(stopped, 1):
        if index == stop:
            break
    again = loader()
    again.load_state_dict(stopped.state_dict())
    following = [x for x, _ in again] if stop < len(epoch) else []
    assert torch.equal(
        torch.cat([*following, torch.zeros(0, 1)]),
        torch.cat([*(b.float().unsqueeze(1) for b in epoch[stop:]), torch.zeros(0, 1)]),
    )


def test_batches_of_like_length_have_little_padding_and_a_random_order() -> None:
    lengths = torch.randint(1, 61, (3200,), generator=torch.Generator().manual_seed(1))
    loader = BatchLoader(numbered([0] * 3200), 16, shuffle=True, seed=0, lengths=lengths)
    epochs = [[lengths[x[:, 0].long()] for x, _ in loader] for _ in range(2)]
    for epoch in epochs:
        padded = sum(int(batch.max()) * len(batch) for batch in epoch)
        assert padded < 1.06 * int(lengths.sum())  # without sorting 1.85
        longest = torch.tensor([int(batch.max()) for batch in epoch])
        assert (longest.diff() < 0).sum() > 50  # short and long batches take turns
    assert [b.tolist() for b in epochs[0]] != [b.tolist() for b in epochs[1]]


def test_lengths_need_shuffling_and_every_example() -> None:
    for lengths, shuffle in ((torch.ones(3), True), (torch.ones(4), False)):
        with pytest.raises(ValueError, match="one number for each of the 4 examples"):
            BatchLoader(numbered([0] * 4), 2, shuffle=shuffle, seed=0, lengths=lengths)


def test_the_loader_refuses_a_foreign_state() -> None:
    loader = image_loader(0)
    with pytest.raises(ValueError, match=r"keys \['generator'\], expected"):
        loader.load_state_dict({"generator": torch.zeros(1)})
    state = loader.state_dict() | {"next_batch": torch.tensor(3)}
    with pytest.raises(ValueError, match="batch 3 of an epoch of 3 batches"):
        loader.load_state_dict(state)
