"""Arrays in the format of CIFAR-10-C, made here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustprune.measure import compare_trust
from robustprune.pipeline.trust import corrupted_inputs
from robustprune.tasks import Split, Task, cifar_c
from robustprune.tasks.cifar_c import FOLDER, cifar10_c


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images a severity instead of 10,000."""
    monkeypatch.setattr(cifar_c, "IMAGES", 10)
    tmp_path = tmp_path / "arrays"
    tmp_path.mkdir()
    labels = np.tile(np.arange(10, dtype=np.uint8), 5)
    np.save(tmp_path / "labels.npy", labels)
    images = np.zeros((50, 32, 32, 3), np.uint8)
    images += np.repeat(np.arange(1, 6, dtype=np.uint8), 10)[:, None, None, None] * 51
    images[..., 2] = 0
    np.save(tmp_path / "fog.npy", images)
    return tmp_path


def test_severities_follow_one_another_and_channels_come_first(folder: Path) -> None:
    found = cifar10_c(folder, torch.arange(4))
    assert list(found) == ["fog"]
    assert found["fog"].shape == (5, 4, 3, 32, 32)
    for severity in range(5):
        expected = torch.tensor([severity + 1, severity + 1, 0.0]) / 5
        torch.testing.assert_close(found["fog"][severity, :, :, 0, 0], expected.expand(4, 3))


def test_runs_on_cifar10_use_them_where_they_are(folder: Path, tmp_path: Path) -> None:
    y = torch.arange(10)
    split = Split(torch.rand(10, 3, 32, 32), y)
    names = tuple(map(str, y.tolist()))
    task = Task("cifar10", split, split, 10, names, (0.0, 1.0), None, None, None, "made here")
    data = tmp_path / "data"
    data.mkdir()
    assert "jpeg" in corrupted_inputs(task, split.x, y, data)
    folder.rename(data / FOLDER)
    used = corrupted_inputs(task, split.x, y, data)
    assert isinstance(used, dict)
    found = compare_trust(
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
        split.x,
        y,
        corruptions=used,
    )
    assert "accuracy, fog" in [one.name for one in found.changes]
    assert "accuracy, jpeg" not in [one.name for one in found.changes]
    other = replace(task, name="own")
    assert "jpeg" in corrupted_inputs(other, split.x, y, data)
    assert corrupted_inputs(replace(other, bounds=(0.0, 2.0)), split.x, y, data) == ()
    unknown = replace(other, bounds=None)
    assert "jpeg" in corrupted_inputs(unknown, split.x, y, data)
    assert corrupted_inputs(unknown, split.x - 0.5, y, data) == ()


def test_refusals(folder: Path) -> None:
    with pytest.raises(ValueError, match="has other labels than the task's first 3 test images"):
        cifar10_c(folder, torch.tensor([1, 0, 2]))
    np.save(folder / "snow.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"snow.npy must have the shape \(50, 32, 32, 3\)"):
        cifar10_c(folder, torch.arange(4))
    np.save(folder / "snow.npy", np.zeros((50, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="has dtype float32"):
        cifar10_c(folder, torch.arange(4))
    np.save(folder / "snow.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="is no array of numpy"):
        cifar10_c(folder, torch.arange(4))
    for path in folder.glob("[fs]*.npy"):
        path.unlink()
    with pytest.raises(ValueError, match="has no corrupted images"):
        cifar10_c(folder, torch.arange(4))
