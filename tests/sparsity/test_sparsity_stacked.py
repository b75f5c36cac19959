"""Weights that stack matrices (gates, query, key and value) are masked like any others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.minmax import Natural
from robustprune.search import (
    Ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    prune_admm,
    prune_gradual,
    prune_one_shot,
    prune_scores,
    train_sparse,
)
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    bake,
    computed_once,
    count_kept,
    group_weight,
    groups_of,
    keep_best,
    maskable_layers,
    plain,
    weights_of,
)

WIDTH = 3
Case = Callable[[], nn.Module]


class Recurrent(nn.Module):
    """x (N, T, WIDTH) -> logits (N, 2)."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.inner = layer
        width = (layer.proj_size or layer.hidden_size) * (1 + layer.bidirectional)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[0].mean(1))


class Cell(nn.Module):
    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.inner, self.head = cell, nn.Linear(cell.hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.inner(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Attention(nn.Module):
    """x (N, T, WIDTH) -> logits (N, 2); `kdim` and `vdim` make separate weights of
    query, key and value."""

    def __init__(self, **options: int) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, 4)
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.head = nn.Linear(4, 2)
        self.other = bool(options)

    def forward(self, x: Tensor) -> Tensor:
        q = self.embed(x)
        k, v = (x if self.other else q), (x if self.other else q)
        return self.head(self.inner(q, k, v, need_weights=False)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, 4)
        self.inner = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.embed(x)).mean(1))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
        self.inner, self.head = Conv1D(6, WIDTH), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).relu().mean(1))


NETWORKS: dict[str, Case] = {
    "LSTM": lambda: Recurrent(nn.LSTM(WIDTH, 4, 2, batch_first=True, bidirectional=True)),
    "GRU": lambda: Recurrent(nn.GRU(WIDTH, 4, batch_first=True)),
    "RNN": lambda: Recurrent(nn.RNN(WIDTH, 4, batch_first=True, bias=False)),
    "LSTMCell": lambda: Cell(nn.LSTMCell(WIDTH, 4)),
    "attention": Attention,
    "separate": lambda: Attention(kdim=WIDTH, vdim=WIDTH),
    "encoder": Encoder,
    "Conv1D": Gpt,
}
GENTLE: dict = {"objective": Natural(), "epochs": 2, "quiet": True}
SEARCHES: dict[str, Callable[..., Ticket]] = {
    "rst": lambda *a, **k: find_scratch_ticket(*a, **k, **GENTLE),
    "hydra": lambda *a, **k: prune_scores(*a, **k, **GENTLE),
    "harp": lambda *a, **k: prune_scores(*a, method="harp", **k, **GENTLE),
    "admm": lambda *a, **k: prune_admm(*a, every=1, **k, **GENTLE),
    "lottery": lambda *a, **k: find_lottery_ticket(*a, rounds=2, **k, **GENTLE),
    "gradual": lambda *a, **k: prune_gradual(*a, stop=1.0, every=1, **k, **GENTLE),
    "rigl": lambda *a, **k: train_sparse(*a, allocate="layer", every=1, **k, **GENTLE),
    "granet": lambda *a, **k: train_sparse(
        *a, method="granet", allocate="layer", every=1, **k, **GENTLE
    ),
    "magnitude": prune_one_shot,
    "obd_ggn": lambda *a, **k: prune_one_shot(*a, criterion="obd_ggn", **k),
}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 5, WIDTH, generator=generator)
    return [*zip(x.split(4), (torch.arange(8) % 2).split(4), strict=True)]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def literal(name: str, model: nn.Module, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """The network's logits by the equations of torch's documentation, with the weights `w`."""
    p = {**dict(model.named_parameters()), **w}
    if name in ("LSTM", "GRU", "RNN"):
        layer = model.inner
        for number in range(layer.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: 1 + layer.bidirectional]:
                end = f"_l{number}{suffix}"
                run = x.flip(1) if suffix else x
                of = [p[f"inner.weight_{kind}{end}"] for kind in ("ih", "hh")]
                zero = torch.zeros(len(of[0]))
                of += [p.get(f"inner.bias_{kind}{end}", zero) for kind in ("ih", "hh")]
                hidden = _steps(name, run, *of)
                outputs.append(hidden.flip(1) if suffix else hidden)
            x = torch.cat(outputs, 2)
        return F.linear(x.mean(1), p["head.weight"], p["head.bias"])
    x = F.linear(x, p["embed.weight"], p["embed.bias"])
    mixed = _attention(x, p, "inner." if name == "attention" else "inner.self_attn.")
    if name == "encoder":
        one = F.layer_norm(x + mixed, (4,), p["inner.norm1.weight"], p["inner.norm1.bias"])
        inner = F.linear(one, p["inner.linear1.weight"], p["inner.linear1.bias"]).relu()
        two = F.linear(inner, p["inner.linear2.weight"], p["inner.linear2.bias"])
        mixed = F.layer_norm(one + two, (4,), p["inner.norm2.weight"], p["inner.norm2.bias"])
    return F.linear(mixed.mean(1), p["head.weight"], p["head.bias"])


def _steps(name: str, x: Tensor, ih: Tensor, hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    h = c = torch.zeros(len(x), hh.shape[1])
    out = []
    for step in x.unbind(1):
        a, b = step @ ih.T + b_ih, h @ hh.T + b_hh
        if name == "LSTM":
            i, f, g, o = (a + b).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        elif name == "GRU":
            (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
            z = (az + bz).sigmoid()
            h = (1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h
        else:
            h = (a + b).tanh()
        out.append(h)
    return torch.stack(out, 1)


def _attention(x: Tensor, p: dict[str, Tensor], at: str) -> Tensor:
    n, t, width = x.shape
    weights, biases = p[f"{at}in_proj_weight"].chunk(3), p[f"{at}in_proj_bias"].chunk(3)
    q, k, v = (
        (x @ w.T + b).view(n, t, 2, width // 2).transpose(1, 2)
        for w, b in zip(weights, biases, strict=True)
    )
    mixed = (q @ k.mT / (width // 2) ** 0.5).softmax(-1) @ v
    mixed = mixed.transpose(1, 2).reshape(n, t, width)
    return mixed @ p[f"{at}out_proj.weight"].T + p[f"{at}out_proj.bias"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "attention", "encoder"])
def test_a_masked_network_is_its_equations_with_masked_matrices(name: str, training: bool) -> None:
    """In eval mode without gradients, the encoder takes torch's fused path."""
    model = network(name).train(training)
    layers = maskable_layers(model)
    generator = torch.Generator().manual_seed(2)
    masks = MaskSet(
        {n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in weights_of(layers).items()}
    )
    by_hand = {n: w.detach().clone() * masks[n] for n, w in weights_of(layers).items()}
    x = batches()[0][0]
    wanted = literal(name, model, x, by_hand)
    apply_masks(model, masks)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(model(x), wanted)
        with computed_once(model):
            torch.testing.assert_close(model(x), wanted)
            torch.testing.assert_close(model(x), wanted)
    model.zero_grad()
    model.train()(x).square().sum().backward()
    for layer_name in masks:
        path, _, leaf = layer_name.rpartition(".")
        gradient = model.get_parameter(f"{path}.parametrizations.{leaf}.original").grad
        assert bool((gradient[~masks[layer_name]] == 0).all())
        assert bool((gradient[masks[layer_name]] != 0).any())
    copied = plain(model)  # after a forward pass with a graph
    torch.testing.assert_close(bake(model)(x), wanted)
    torch.testing.assert_close(copied(x), wanted)
    assert copied.state_dict().keys() == network(name).state_dict().keys()
    loaded = network(name).train(training)
    loaded.load_state_dict(copied.state_dict())
    torch.testing.assert_close(loaded(x), wanted)
    torch.testing.assert_close(copy.deepcopy(copied)(x), wanted)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_search_masks_every_weight(search: str, name: str) -> None:
    model = network(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    every = {n for n, p in model.named_parameters() if p.ndim > 1 and "norm" not in n}
    ticket = SEARCHES[search](model, batches(), density=0.4)  # a `LeftOut` would be an error
    assert set(ticket.masks) == every
    assert not ticket.coverage.left_out
    for layer_name, groups in groups_of(maskable_layers(ticket.model)).items():
        mask, weight = ticket.masks[layer_name], ticket.model.get_parameter(layer_name)
        assert bool((weight[~mask] == 0).all())
        if search == "harp":
            continue
        for matrix in mask.chunk(groups.stacked):  # each gate keeps its share
            assert int(matrix.sum()) == count_kept(0.4, matrix.numel())
    if search == "harp":
        assert ticket.masks.kept == count_kept(0.4, ticket.masks.total)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x = batches()[0][0]
    assert bool(torch.isfinite(ticket.model(x)).all())
    loaded = network(name)
    loaded.load_state_dict(ticket.model.state_dict())
    assert torch.equal(loaded.eval()(x), ticket.model.eval()(x))


@pytest.mark.parametrize("name", ["LSTM", "attention", "Conv1D"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model = network(name).to(dtype).eval()
    ticket = prune_one_shot(model, density=0.4)
    x = batches()[0][0].to(dtype)
    masked = copy.deepcopy(model)
    apply_masks(masked, ticket.masks)
    assert torch.equal(masked(x), ticket.model(x))
    assert all(p.dtype == dtype for p in ticket.model.parameters())


def test_groups_of_a_stacked_weight_by_hand() -> None:
    """Two gates of 2 outputs and 3 inputs would be [[0, 1, 2], [3, 4, 5]], [[6, ...]]: an RNN of
    three gates (GRU) with 1 output each."""
    gru = nn.GRU(2, 1)
    score = torch.tensor([[3.0, 1.0], [9.0, 8.0], [0.0, 7.0]])
    rows = group_weight(gru, "row", "weight_ih_l0")
    assert (rows.stacked, rows.number, rows.fan_in, rows.matrix) == (3, 3, 2, (1, 2))
    single = group_weight(gru, "element", "weight_ih_l0")
    assert single.choose(single.reduce(score), 3).view(3, 2).tolist() == [
        [True, False],
        [True, False],
        [False, True],
    ]
    # of 4, the first matrix keeps one more
    assert single.choose(single.reduce(score), 4).view(3, 2).sum(1).tolist() == [2, 1, 1]
    # what is −inf is gone, and others keep its share
    gone = score.masked_fill(
        torch.tensor([[True, True], [False, False], [True, False]]), -torch.inf
    )
    assert single.choose(single.reduce(gone), 3).view(3, 2).tolist() == [
        [False, False],
        [True, True],
        [False, True],
    ]
    together = group_weight(gru, "element", "weight_ih_l0", across=True)
    assert together.choose(together.reduce(score), 3).view(3, 2).sum(1).tolist() == [0, 2, 1]


def test_no_tile_spans_two_gates() -> None:
    tiles = group_weight(nn.LSTM(3, 3), "2x2", "weight_ih_l0")  # 4 gates of 3 x 3: 2 x 2 tiles each
    assert tiles.number == 16
    score = torch.arange(36.0).view(12, 3)
    sums = tiles.reduce(score).view(4, 2, 2)
    assert sums[0].tolist() == [[0 + 1 + 3 + 4, 2 + 5], [6 + 7, 8]]
    assert sums[1, 0, 0] == 9 + 10 + 12 + 13
    back = tiles.expand(torch.arange(16) == 4).nonzero().tolist()  # the first tile of gate 2
    assert back == [[3, 0], [3, 1], [4, 0], [4, 1]]


@pytest.mark.parametrize("allocate", ["layer", "row", "global", "erk", "igq"])
@pytest.mark.parametrize("pattern", ["element", "row", "channel", "2x2"])
def test_gates_are_layers_of_their_own_to_an_allocation(allocate: str, pattern: str) -> None:
    """An LSTM is allotted what four separate linear layers are, up to rounding."""
    if allocate == "row" and pattern != "element":
        pytest.skip("an output has one group of this pattern, or none")
    if allocate == "global" and pattern == "row":
        pytest.skip("some gate would keep nothing, which only a layer of its own is kept from")
    torch.manual_seed(3)
    lstm, head = nn.LSTM(7, 5, bias=False), nn.Linear(5, 4, bias=False)
    gates = {
        f"{name}.{i}": nn.Linear(*gate.shape[::-1], bias=False)
        for name, weight in lstm.named_parameters()
        for i, gate in enumerate(weight.chunk(4))
    }
    apart = {**gates, "head": head}
    layers = maskable_layers(nn.ModuleDict({"lstm": lstm, "head": head}))
    scores = {n: w.detach().abs() for n, w in weights_of(layers).items()}
    separate = {"head": scores["head.weight"]}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        for i, part in enumerate(scores[f"lstm.{name}"].chunk(4)):
            separate[f"{name}.{i}"] = part
    options: dict = {"density": 0.4, "pattern": pattern, "allocate": allocate}
    masks = keep_best(scores, layers, **options)
    wanted = keep_best(separate, apart, **options)
    if allocate in ("erk", "igq"):  # a fraction may be rounded up in another gate
        groups = groups_of(layers, pattern)
        counts = {n: int((groups[n].reduce(m.float()) > 0).sum()) for n, m in masks.items()}
        for name in ("weight_ih_l0", "weight_hh_l0"):
            each = [group_weight(layer, pattern) for n, layer in gates.items() if name in n]
            kept = [
                int((each[i].reduce(wanted[f"{name}.{i}"].float()) > 0).sum()) for i in range(4)
            ]
            assert abs(counts[f"lstm.{name}"] - sum(kept)) <= 4
            parts = masks[f"lstm.{name}"].chunk(4)
            found = [int((each[i].reduce(parts[i].float()) > 0).sum()) for i in range(4)]
            assert max(found) - min(found) <= 1
        assert sum(counts.values()) == count_kept(0.4, sum(g.number for g in groups.values()))
        return
    assert torch.equal(masks["head.weight"], wanted["head"])
    for name in ("weight_ih_l0", "weight_hh_l0"):
        for i, part in enumerate(masks[f"lstm.{name}"].chunk(4)):
            assert torch.equal(part, wanted[f"{name}.{i}"])


def test_thresholds_need_a_layer_with_one_matrix() -> None:
    with pytest.raises(ValueError, match="Recurrent begins with LSTM; leave thresholds out"):
        find_scratch_ticket(
            network("LSTM"), batches(), density=0.4, thresholds=(0.0, 1.0), **GENTLE
        )
