"""Devices and the record of the machine."""

import json

import pytest
import torch

from robustprune.run.runtime import (
    choose_device,
    environment,
    generator_named,
    seed_everything,
)


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


def test_a_named_generator_has_the_digest_of_its_name_as_seed() -> None:
    # the seed is the first seven bytes of printf "twin 3" | sha256sum
    seed = 0x41398286992562
    expected = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(4, generator=generator_named("twin 3")), expected)
    assert not torch.equal(torch.rand(4, generator=generator_named("twin 4")), expected)
