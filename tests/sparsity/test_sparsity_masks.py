"""MaskSet, allocation, and masks on a model."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    bake,
    computed_once,
    full_masks,
    maskable_layers,
)
from robustprune.sparsity.apply import Masked


@pytest.mark.parametrize("first", ["copy", "original"])
def test_a_copy_is_baked_alone(first: str) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    x = torch.rand(4, 3)
    apply_masks(original, MaskSet({"0.weight": torch.rand(2, 3) > 0.5}))
    expected = original(x)
    copied = copy.deepcopy(original)
    baked, other = (copied, original) if first == "copy" else (original, copied)
    bake(baked)
    assert not parametrize.is_parametrized(baked[0])
    assert type(baked[0]) is nn.Linear
    assert parametrize.is_parametrized(other[0], "weight")
    assert torch.equal(baked(x), expected)
    assert torch.equal(other(x), expected)
    other(x).sum().backward()  # and it can go on training
    assert other[0].parametrizations.weight.original.grad is not None
    bake(other)
    assert torch.equal(other(x), expected)
    assert type(other[0]) is nn.Linear


def mask_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_density_and_layers() -> None:
    masks = MaskSet({"a": mask_of(1, 0, 0, 0), "b": mask_of(1, 1)})
    assert (masks.kept, masks.total, masks.density, masks.sparsity) == (3, 6, 0.5, 0.5)
    assert [layer.density for layer in masks.layers()] == [0.25, 1.0]


def test_a_mask_set_cannot_be_changed_from_outside() -> None:
    source = mask_of(1, 0)
    masks = MaskSet({"a": source})
    source[1] = True
    masks["a"][1] = True
    masks.to_device("cpu")["a"][1] = True
    assert masks["a"].tolist() == [True, False]


def test_intersection_keeps_what_both_keep() -> None:
    both = MaskSet({"a": mask_of(1, 1, 0)}) & MaskSet({"a": mask_of(0, 1, 1), "b": mask_of(1)})
    assert both == MaskSet({"a": mask_of(0, 1, 0), "b": mask_of(1)})


def test_saved_masks_come_back(tmp_path: Path) -> None:
    masks = MaskSet({"a": torch.rand(3, 4) > 0.5, "b.weight": mask_of(1, 0)})
    masks.save(tmp_path / "masks.safetensors")
    assert MaskSet.load(tmp_path / "masks.safetensors") == masks
    assert MaskSet({"a": mask_of(1)}) != masks


def test_what_holds_no_masks_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("masks", encoding="utf-8")
    for name, message in (("pipe", "not an ordinary"), (".", "not an ordinary"), ("text", "damag")):
        with pytest.raises(ValueError, match=message):
            MaskSet.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        MaskSet.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "at least one mask"),
        ({"a": torch.ones(2)}, "'a' must be boolean, got torch.float32"),
        ({"a": torch.ones(0, 2, dtype=torch.bool)}, "'a' is empty"),
    ],
)
def test_bad_masks_are_refused(masks: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskSet(masks)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


def test_maskable_layers_are_found_and_left_out() -> None:
    model = network()
    assert list(maskable_layers(model)) == ["0.weight", "4.weight"]
    assert list(maskable_layers(model, dense=("first",))) == ["4.weight"]
    assert list(maskable_layers(model, dense=("4",))) == ["0.weight"]
    assert list(maskable_layers(model, dense=("4*",))) == ["0.weight"]
    assert list(maskable_layers(model, dense=("[0-3].weight",))) == ["4.weight"]
    with pytest.raises(ValueError, match="nothing to mask"):
        maskable_layers(model, dense=("first", "last"))
    with pytest.raises(ValueError, match=r"cannot keep 'nope' dense.*0\.weight, 4\.weight"):
        maskable_layers(model, dense=("nope",))
    with pytest.raises(ValueError, match="ReLU has nothing to mask"):
        maskable_layers(nn.ReLU())


def test_tied_weights_are_left_out() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward = nn.Embedding(5, 4)
            self.middle = nn.Linear(4, 4)
            self.outward = nn.Linear(4, 5, bias=False)
            self.outward.weight = self.inward.weight

    assert list(maskable_layers(Tied())) == ["middle.weight"]


def test_masked_weights_stay_exactly_zero_through_training() -> None:
    model = network()
    masks = MaskSet({"4.weight": torch.rand(3, 8) > 0.5})
    apply_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    bake(model)
    weight = model.get_parameter("4.weight")
    assert bool((weight[~masks["4.weight"]] == 0).all())
    assert bool((weight[masks["4.weight"]] != 0).all())
    assert set(dict(model.named_parameters())) == set(dict(network().named_parameters()))


def test_masks_must_fit_the_model() -> None:
    with pytest.raises(ValueError, match=r"no parameter '9\.weight'"):
        apply_masks(network(), MaskSet({"9.weight": mask_of(1)}))
    with pytest.raises(ValueError, match=r"shape \(1,\), the parameter \(3, 8\)"):
        apply_masks(network(), MaskSet({"4.weight": mask_of(1)}))


def test_masked_weights_are_computed_once_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    apply_masks(model, MaskSet({"4.weight": torch.rand(3, 8) > 0.5}))
    calls = []
    forward = Masked.forward
    monkeypatch.setattr(
        Masked, "forward", lambda self, weight: calls.append(1) or forward(self, weight)
    )
    x = torch.randn(4, 1, 4, 4)
    with computed_once(model):
        for _ in range(5):
            model(x)
    assert len(calls) == 1
    model(x)
    assert len(calls) == 2


def test_full_masks_keep_everything() -> None:
    assert full_masks(network()).density == 1.0
    assert full_masks(network()).total == 2 * 9 + 3 * 8
