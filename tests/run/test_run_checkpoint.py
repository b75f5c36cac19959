"""Files that are whole or not there."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustprune.run.checkpoint import (
    flatten_optimizer,
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
