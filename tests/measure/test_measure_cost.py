"""Costs of tiny networks, counted by hand."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from robustprune.deploy import slim, to_csr
from robustprune.measure import compare_cost
from robustprune.measure.cost import state_bytes, used_weights
from robustprune.measure.work import count_macs, count_work
from robustprune.sparsity import MaskSet, apply_masks, bake, full_masks


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(3, 4), (5, 3), 12),
        (nn.Linear(3, 4), (5, 7, 3), 7 * 12),
        (nn.Conv1d(2, 3, 3), (5, 2, 10), 8 * 3 * 2 * 3),
        (nn.Conv2d(2, 3, 3, padding=1), (5, 2, 4, 4), 16 * 3 * 2 * 9),
        (nn.Conv2d(2, 4, 3, stride=2, groups=2), (5, 2, 5, 5), 4 * 4 * 1 * 9),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (5, 2, 4, 4), 16 * 2 * 3 * 4),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), (5, 3), 0),
    ],
    ids=lambda value: str(value),
)
def test_macs_of_one_example(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(layer, torch.ones(shape)) == (macs, macs)


def test_a_layer_called_twice_counts_twice() -> None:
    layer = nn.Linear(3, 3)
    assert count_macs(nn.Sequential(layer, layer), torch.ones(2, 3)) == (18, 18)


def network() -> tuple[nn.Sequential, MaskSet]:
    """4 hidden units, of which the masks leave 2, with 3 of their 6 weights each."""
    torch.manual_seed(0)
    first = torch.tensor([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [0] * 6, [0] * 6])
    return (
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval(),
        MaskSet({"0.weight": first.bool()}),
    )


def test_a_mask_saves_nothing_but_counts_of_zeros() -> None:
    model, masks = network()
    x = torch.randn(3, 6)
    small = slim(model, masks, x)
    masked = network()[0]
    apply_masks(masked, masks)
    flat = bake(network()[0])
    with torch.no_grad():
        flat.get_parameter("0.weight").mul_(masks["0.weight"])
    costs = {
        cost.name: cost
        for cost in compare_cost(
            {"dense": model, "masked": masked, "baked": flat, "slim": small}, x, repeats=3
        )
    }
    counts = {
        name: (cost.parameters, cost.nonzeros, cost.macs, cost.effective_macs)
        for name, cost in costs.items()
    }
    assert counts["dense"] == (38, 38, 32, 32)
    assert counts["masked"] == counts["baked"] == (38, 38 - 18, 32, 32 - 18)
    # biases of two hidden units went into the logits' bias: 6·2 + 2 + 2·2 + 2 weights are left
    assert counts["slim"] == (20, 14, 16, 10)
    assert costs["masked"].file_bytes > costs["dense"].file_bytes > costs["slim"].file_bytes
    for cost in costs.values():
        low, high = cost.latency_quartiles
        assert 0 < low <= cost.latency <= high
        assert (cost.batch_size, cost.device) == (3, "cpu")
        assert cost.threads == torch.get_num_threads()
    with pytest.raises(FrozenInstanceError):
        costs["dense"].macs = 0  # type: ignore[misc]


def test_csr_layers_cost_their_stored_weights() -> None:
    model, masks = network()
    sparse = nn.Sequential(to_csr(model[0], masks["0.weight"]), *model[1:])
    (cost,) = compare_cost({"sparse": sparse}, torch.randn(3, 6), repeats=1)
    assert (cost.parameters, cost.nonzeros) == (6 + 4 + 10, 6 + 4 + 10)
    assert (cost.macs, cost.effective_macs) == (6 + 8, 6 + 8)
    assert cost.latency_quartiles == (cost.latency, cost.latency)


def test_shared_weights_count_once() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    assert sum(weight.numel() for weight in used_weights(nn.Sequential(one, other))) == 9 + 6


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model, _ = network()
    save_file(model.state_dict(), tmp_path / "state")
    assert state_bytes(model) == (tmp_path / "state").stat().st_size


def test_modes_of_the_models_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    model[1].eval()
    compare_cost({"a": model}, torch.ones(2, 3), repeats=1)
    assert [m.training for m in model.modules()] == [True, True, False]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one model, and an example"):
        compare_cost({}, torch.ones(2, 3))
    with pytest.raises(ValueError, match="repeats 0 must be at least 1"):
        compare_cost({"a": nn.Linear(3, 2)}, torch.ones(2, 3), repeats=0)


class Products(nn.Module):
    """A linear layer, and products that no layer of the counted kinds carries out."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(4, 4)
        self.inner = {
            "LSTM": lambda: nn.LSTM(4, 4, batch_first=True),
            "GRU": lambda: nn.GRU(4, 4, batch_first=True),
            "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
            "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0),
            "Bilinear": lambda: nn.Bilinear(4, 4, 4),
        }.get(kind, nn.Identity)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        if self.kind == "MultiheadAttention":
            return cast(torch.Tensor, self.inner(h, h, h)[0])
        if self.kind == "Bilinear":
            return cast(torch.Tensor, self.inner(h, h))
        if self.kind == "forward":
            return h @ h.transpose(1, 2)
        out = self.inner(h)
        return out[0] if isinstance(out, tuple) else out


def test_products_that_cannot_be_counted_are_named() -> None:
    (cost,) = compare_cost({"a": Products("Bilinear")}, torch.ones(2, 3, 4), repeats=1)
    assert cost.uncounted == ("Bilinear 'inner'",)
    assert cost.macs == 3 * 16


@pytest.mark.parametrize(
    ("kind", "macs"),
    [
        ("LSTM", 3 * 4 * (16 + 16)),  # 3 steps, 4 gates
        ("GRU", 3 * 3 * (16 + 16)),
        ("MultiheadAttention", 3 * 4 * 16 + 2 * 3 * 3 * 4),  # q, k, v, out; q k' and its product
        # of the sequences (2, 3, 4), where the first dimension is the time: 2 steps
        ("TransformerEncoderLayer", 3 * 4 * 16 + 3 * 2 * 4 * 8 + 3 * 2 * 2 * 2 * 4 // 2),
        ("forward", 3 * 3 * 4),
        ("none", 0),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_recurrent_layers_attention_and_products_of_a_forward(
    kind: str, macs: int, masked: bool
) -> None:
    x, model = torch.ones(2, 3, 4), Products(kind).eval()
    work = count_work(model, x)
    assert (work.macs, work.effective, work.uncounted) == (3 * 16 + macs, 3 * 16 + macs, ())
    masks = MaskSet(
        {  # of each row of inputs, the first half
            name: (torch.arange(mask.shape[1]) < mask.shape[1] // 2).expand(mask.shape)
            for name, mask in full_masks(model).items()
        }
    )
    apply_masks(model, masks)
    if not masked:
        bake(model)
    products = {
        "MultiheadAttention": 2 * 3 * 3 * 4,
        "TransformerEncoderLayer": 3 * 2 * 2 * 2 * 4 // 2,
        "forward": 3 * 3 * 4,
    }.get(kind, 0)
    half = count_work(model, x)
    assert half.macs == work.macs
    assert half.effective == (work.macs - products) // 2 + products


def test_steps_of_packed_sequences_cells_and_products_with_a_weight() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
            self.cell = nn.GRUCell(6, 5)
            self.weight = nn.Parameter(torch.eye(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = pack_padded_sequence(x, torch.tensor([3, 1]), batch_first=True)
            steps, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.cell(steps[:, 0]) @ self.weight

    work = count_work(Packed(), torch.randn(2, 3, 4))
    rnn = 2 * 12 * (4 + 3) + 2 * 12 * (6 + 3)
    cell = 15 * (6 + 5)
    assert work.macs == (4 * rnn + 2 * cell + 2 * 25) // 2
    assert work.effective == (4 * rnn + 2 * cell + 2 * 5) // 2
    assert work.uncounted == ()


def test_what_makes_a_weight_is_none_of_the_network() -> None:
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    work = count_work(spectral, torch.ones(2, 3, 4))
    assert (work.macs, work.uncounted) == (3 * 16, ())
    fused = torch.backends.mha.get_fastpath_enabled()
    count_work(Products("MultiheadAttention"), torch.ones(2, 3, 4))
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_counting_leaves_the_network_and_the_example_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x -= 0.5
            return {"logits": self.layer(input=x)}

    model, x = InPlace(), torch.ones(3, 4)
    (cost,) = compare_cost({"a": nn.DataParallel(model)}, x, repeats=2)
    assert torch.equal(x, torch.ones(3, 4))
    assert cost.macs == 8
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_computed_weights_count_once() -> None:
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", 6)
    weights = list(used_weights(layer))
    assert sum(weight.numel() for weight in weights) == 12 + 3
    assert sum(int(torch.count_nonzero(weight)) for weight in weights) == 6 + 3


def test_modules_whose_layers_cannot_be_seen_are_refused() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(2, 3),)).module()
    with pytest.raises(ValueError, match=r"made by torch\.export, and its layers can't be read"):
        compare_cost({"a": program}, torch.ones(2, 3))
