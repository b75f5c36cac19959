"""Every solver under every allocation, pattern, target and network keeps what was asked for."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerwise_networks import data_for, made
from torch import Tensor

from attacks import FGSM, ThreatModel
from robustprune.layerwise import SOLVERS, TARGETS, FewExamples, prune_layerwise
from robustprune.layerwise.calibrate import AFTER, layer_of
from robustprune.sparsity import count_kept, group_weight

#: those that factor or search for each output anew
SLOW = ("obs", "omp", "basis_pursuit")


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=6)
@given(
    name=st.sampled_from(["cnn", "pre-activation", "resnet", "twice"]),
    pattern=st.sampled_from(["element", "kernel", "filter", "column", "3x2", "1:3", "2:4"]),
    allocate=st.sampled_from(["layer", "row", "global", "erk", "igq", "owl"]),
    target=st.sampled_from(TARGETS),
    after=st.sampled_from(AFTER),
    density=st.sampled_from([0.25, 0.6, 1.0]),
    attacked=st.booleans(),
    bias=st.booleans(),
)
def test_every_combination(
    solver: str,
    name: str,
    pattern: str,
    allocate: Any,
    target: Any,
    after: Any,
    density: float,
    attacked: bool,
    bias: bool,
) -> None:
    if ":" in pattern:
        density, allocate = int(pattern[0]) / int(pattern[-1]), "layer"
    if SOLVERS[solver].single and ":" not in pattern:
        pattern = "element"
    if allocate == "row" and pattern in ("filter", "column", "3x2", "kernel"):
        pattern = "element"
    name = "twice" if solver in SLOW else name
    network, data = made(name), data_for(name, batches=1)
    before = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExamples)
        ticket = prune_layerwise(
            network, data, density=density, solver=solver, target=target, pattern=pattern,
            allocate=allocate, after=after, bias=bias,
            attack=FGSM(ThreatModel("linf", 0.1)) if attacked else None,
        )  # fmt: skip
    assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())
    total = kept = 0
    for key, mask in ticket.masks.items():
        layer = layer_of(ticket.model, key)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        assert bool(torch.isfinite(weight).all())
        assert not bool(weight[~mask].any())
        groups = group_weight(layer, pattern)
        alive = groups.reduce(mask.double()) > 0
        assert torch.equal(groups.expand(alive), mask)  # whole groups
        number = int(alive.sum())
        total, kept = total + groups.number, kept + number
        if groups.fixed is not None:
            assert number == groups.fixed
        elif allocate == "layer":
            assert number == count_kept(density, groups.number)
        elif allocate == "row":
            rows = groups.out_first[0]
            assert number == rows * count_kept(density, groups.number // rows)
    if allocate in ("global", "erk", "igq", "owl"):
        assert kept == max(count_kept(density, total), len(ticket.masks))
