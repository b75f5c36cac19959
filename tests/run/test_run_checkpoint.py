"""Files that are whole or not there."""

import errno
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustprune.run.checkpoint import (
    Damaged,
    flatten_optimizer,
    forget,
    load_latest,
    load_state,
    load_tensors,
    restore_optimizer,
    save_tensors,
    write_atomically,
)


def test_tensors_and_json_come_back(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    tensors = {"a": torch.randn(3), "b": torch.tensor(5), "c": torch.tensor([True])}
    tensors["shared"] = tensors["a"]
    save_tensors(file, tensors, {"epoch": 3, "history": [{"loss": 0.1}]})
    loaded, meta = load_tensors(file)
    assert meta == {"epoch": 3, "history": [{"loss": 0.1}]}
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_damaged_file_is_named(tmp_path: Path, size: int) -> None:
    file = tmp_path / "state.safetensors"
    save_tensors(file, {"a": torch.randn(30)}, {"epoch": 3})
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged .* delete it"):
        load_tensors(file)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    write_atomically(file, "old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"


def written(tmp_path: Path, *epochs: int) -> Path:
    """A checkpoint that was saved at each of the epochs."""
    file = tmp_path / "state.safetensors"
    for epoch in epochs:
        save_tensors(file, {"w": torch.full((3,), epoch)}, {"epoch": epoch}, keep_previous=True)
    return file


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@given(bit=st.integers(min_value=0, max_value=10**9))
def test_a_flipped_bit_is_told(bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("flip") / "state.safetensors"
    tensors = {"a": torch.arange(3.0), "b": torch.tensor([True, False]), "c": torch.tensor(1)}
    save_tensors(file, {**tensors, "d": torch.ones(2, dtype=torch.bfloat16)}, {"epoch": 3})
    flip(file, bit % (8 * file.stat().st_size))
    try:
        loaded, meta = load_tensors(file)
    except Damaged:
        return
    # only the header's name for the digest can change unseen: then there is none to compare with
    assert meta in ({}, {"epoch": 3})
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the order of the tensors: safetensors sorts them."""
    tensors = {name: torch.arange(5.0) for name in "abc"}
    save_tensors(tmp_path / "1.safetensors", tensors, {"epoch": 1})
    save_tensors(tmp_path / "2.safetensors", dict(reversed(tensors.items())), {"epoch": 1})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    file = written(tmp_path, 1, 2, 3)
    flip(file, 8 * (file.stat().st_size - 1))
    with pytest.warns(UserWarning, match="is damaged .* going on from the checkpoint before it"):
        found = load_latest(file)
    assert found is not None
    assert found[1] == {"epoch": 2}
    assert load_tensors(file)[1] == {"epoch": 2}  # the damaged one is gone, not kept as a spare
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_two_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        flip(path, 8 * (path.stat().st_size - 1))
    with pytest.raises(Damaged, match="delete it to start over"):
        load_latest(file)


def test_a_kill_between_the_two_moves_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 1, 2)
    file.unlink()  # 2 was moved aside for 3, which is not in place yet: here, 1 for 2
    found = load_latest(file)
    assert found is not None
    assert found[1] == {"epoch": 1}
    assert load_latest(tmp_path / "other.safetensors") is None


def test_nothing_is_left_of_what_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    for epoch in range(2):
        save_tensors(file, {"w": torch.zeros(3)}, {"epoch": epoch}, keep_previous=True)
    assert len(list(tmp_path.iterdir())) == 2
    forget(file)
    forget(file)  # of what is not there, too
    assert list(tmp_path.iterdir()) == []
    assert load_latest(file) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_no_room_for_a_file_leaves_the_old_one(tmp_path: Path) -> None:
    """The system itself refuses the write, half-way."""
    import resource

    file = written(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="larger than is allowed here; make room"):
            save_tensors(file, {"w": torch.zeros(5000)})
        with pytest.raises(OSError, match="larger than is allowed here; make room"):
            write_atomically(file, "x" * 6000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_tensors(file)[1] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_told_from_other_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, "the system's words")

    monkeypatch.setattr("os.fsync", refuse)
    said = {
        errno.ENOSPC: "no space left on the device; make room and give the same command again",
        errno.EDQUOT: "the disk quota is used up; make room",
        errno.EROFS: "the system's words$",
    }
    with pytest.raises(OSError, match=rf"cannot write .*metrics\.json: {said[number]}"):
        write_atomically(tmp_path / "metrics.json", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1),
    ],
)
def test_an_optimizer_goes_on_bit_for_bit(build, tmp_path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    straight = nn.Linear(3, 2)
    optimizer = build(straight.parameters())
    step(straight, optimizer)
    save_tensors(tmp_path / "o.safetensors", flatten_optimizer(optimizer))
    resumed = nn.Linear(3, 2)
    resumed.load_state_dict(straight.state_dict())
    other = build(resumed.parameters())
    restore_optimizer(other, load_tensors(tmp_path / "o.safetensors")[0])
    for _ in range(3):
        step(straight, optimizer)
        step(resumed, other)
    assert torch.equal(straight.weight, resumed.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.complex64, torch.int64])
def test_weights_of_another_type_are_refused_not_rounded(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: torch.full_like(value, 2) for name, value in before.items()}
    state["1.running_var"] = state["1.running_var"].to(dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"w.safetensors: '1.running_var' is {kind}, and the "):
        load_state(model, state, tmp_path / "w.safetensors")
    assert all(bool((model.state_dict()[name] == value).all()) for name, value in before.items())


def test_weights_of_the_same_type_are_loaded(tmp_path: Path) -> None:
    model = nn.Linear(2, 3).double()
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    load_state(model, state, tmp_path / "w.safetensors")
    assert torch.equal(model.weight, state["weight"])
    with pytest.raises(ValueError, match=r"does not fit the network: .*Missing key"):
        load_state(model, {"weight": state["weight"]}, tmp_path / "w.safetensors")
