"""How large a network may be is known before any of it is built."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch

from robustprune.models import ModelInputs, build_model
from robustprune.run.size import check_size

FLAT, SERIES, COLOURS = ModelInputs((96,), 2), ModelInputs((1, 96), 2), ModelInputs((3, 32, 32), 10)


@pytest.mark.parametrize(
    ("name", "inputs", "options", "match"),
    [
        ("mlp", FLAT, {"hidden": [10**8]}, r"9,600,000,000 weights or more would take 35\.76 GiB"),
        ("mlp", ModelInputs((10**12,), 2), {}, "more than the limit of 1 GiB"),
        ("mlp", FLAT, {"hidden": [10**30]}, "cannot be built"),
        ("fcn", SERIES, {"widths": [10**9], "kernels": [10**9]}, "more than the limit"),
        ("tiny_cnn", SERIES, {"kernel": 10**18 + 1}, "cannot be built"),
        ("resnet1d", SERIES, {"widths": [10**5]}, "more than the limit"),
        ("inception", SERIES, {"width": 10**7}, "more than the limit"),
        ("wide_resnet", COLOURS, {"depth": 6 * 10**8 + 4}, "more than the limit"),
        ("wide_resnet", COLOURS, {"widen": 10**12}, "more than the limit"),
        ("preact_resnet18", COLOURS, {"width": 10**6}, "more than the limit"),
        ("lenet", COLOURS, {"units": 10**9}, "more than the limit"),
    ],
)
def test_too_large_is_one_line_and_takes_no_memory(
    name: str, inputs: ModelInputs, options: dict[str, Any], match: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=match) as refused:
        build_model(name, inputs, options=options)
    assert str(refused.value).startswith(f"model '{name}'")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_the_number_of_tensors_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustprune.run.size._MOST_TENSORS", 8)
    build_model("mlp", FLAT, options={"hidden": [1] * 3})
    with pytest.raises(ValueError, match="'mlp' would have more than 8 tensors of weights"):
        build_model("mlp", FLAT, options={"hidden": [1] * 4})


def test_the_limit_is_counted_in_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 96 * 4 + 4 + 4 * 2 + 2
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", str(4 * count / 2**30))
    model = build_model("mlp", FLAT, options={"hidden": [4]})
    assert sum(p.numel() for p in model.parameters()) == count
    with pytest.raises(ValueError, match="set the environment variable ROBUSTPRUNE_MAX_GB"):
        build_model("mlp", FLAT, options={"hidden": [5]})


def test_looking_at_the_size_moves_no_random_numbers_and_leaves_no_hook() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_size(lambda: torch.nn.Linear(5, 5), model="x")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.nn.modules.module._global_parameter_registration_hooks
