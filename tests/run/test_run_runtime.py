"""Devices and the record of the machine."""

import json

import pytest
import torch

from robustprune.run.runtime import choose_device, environment, seed_everything


def test_a_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda")
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
            choose_device(name)


def test_seeding_repeats_the_global_generator() -> None:
    seed_everything(3)
    first = torch.randn(4)
    seed_everything(3)
    assert torch.equal(first, torch.randn(4))


def test_the_environment_is_plain_json() -> None:
    record = environment(torch.device("cpu"))
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__
