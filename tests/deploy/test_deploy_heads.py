"""Attention heads: what is left of small vision transformers, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from robustprune.deploy import export_onnx, load_slim, prune_channels, record, save_slim, slim
from robustprune.deploy.network import Network
from robustprune.minmax import Natural
from robustprune.search import finetune_ticket
from robustprune.sparsity import MaskSet, full_masks

E, HIDDEN, TOKENS = 8, 12, 4


class Block(nn.Module):
    """A layer of a transformer, written by hand."""

    def __init__(self, heads: int, *, bias: bool, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, heads, bias=bias, batch_first=batch_first)
        self.norm, self.norm2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.up, self.down = nn.Linear(E, HIDDEN), nn.Linear(HIDDEN, E)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h, _ = self.attention(h, h, h, need_weights=not self.attention.batch_first)
        x = x + h
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    def __init__(self, heads: int = 4, *, bias: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        self.patches, self.batch_first = nn.Conv2d(3, E, 4, 4), batch_first
        self.places = nn.Parameter(torch.randn(1, TOKENS, E))
        self.one = Block(heads, bias=bias, batch_first=batch_first)
        self.two = Block(heads, bias=bias, batch_first=batch_first)
        self.norm, self.head = nn.LayerNorm(E), nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        if not self.batch_first:
            x = x.permute(1, 0, 2)
        x = self.norm(self.two(self.one(x)))
        return self.head(x.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


class OfTorch(nn.Module):
    """The same with torch's own encoder; without batch first, its fast path is not taken."""

    def __init__(self, *, norm_first: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            E, 4, HIDDEN, batch_first=batch_first, norm_first=norm_first,
            activation=F.relu if norm_first else nn.GELU(),
        )  # fmt: skip
        self.patches, self.batch_first = nn.Conv2d(3, E, 4, 4), batch_first
        self.places = nn.Parameter(torch.randn(1, TOKENS, E))
        norm = nn.LayerNorm(E) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        return self.head(x.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


class WithToken(nn.Module):
    """A class token, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, E, 4, 4), nn.Parameter(torch.randn(1, 1, E))
        self.one, self.two = (Block(4, bias=True, batch_first=True) for _ in range(2))
        self.head = nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.size(0), -1, -1), x), dim=1)
        return self.head(self.two(self.one(x))[:, 0])  # type: ignore[no-any-return]


NETWORKS = {
    "class token": WithToken,
    "torchvision": lambda: VisionTransformer(8, 4, 2, 4, E, HIDDEN, num_classes=3),
    "batch first": ViT,
    "sequence first": lambda: ViT(batch_first=False),
    "no bias": lambda: ViT(bias=False),
    "torch, norm first": lambda: OfTorch(norm_first=True),
    "torch, norm last": OfTorch,
    "torch, sequence first": lambda: OfTorch(batch_first=False),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return seeded(NETWORKS[name]()), torch.randn(5, 3, 8, 8)


def seeded(model: nn.Module) -> nn.Module:
    """Random biases, norms and heads, which are constants or zeros otherwise."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.uniform_(0.1, 1.0)
    return model.eval()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def without_heads(model: nn.Module, path: str, heads: list[int], total: int) -> MaskSet:
    """Masks without the rows of queries, keys and values of these heads, and their columns."""
    masks = dict(full_masks(model))
    width = E // total
    gone = [head * width + i for head in heads for i in range(width)]
    for part in range(3):
        masks[f"{path}.in_proj_weight"][[part * E + row for row in gone]] = False
    masks[f"{path}.out_proj.weight"][:, gone] = False
    return MaskSet(masks)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_heads_and_of_the_neurons_leave(name: str, tmp_path: Path) -> None:
    model, x = network(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ticket = prune_channels(model, x, density=0.5)
    small = slim(ticket.model, None, x)
    # two layers: rows of q, k, v and their biases, columns of the projection, and the neurons
    biases = 0 if name == "no bias" else 3 * E // 2
    removed = 2 * (4 * E * E // 2 + biases + (2 * E + 1) * HIDDEN // 2)
    assert size(model) - size(small) == removed
    assert round(ticket.coverage.whole_density * size(model)) == size(small)
    torch.testing.assert_close(small(x), ticket.model(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(small(x), model(x), atol=1e-3)
    assert not torch.allclose(small(x[:1]), small(x[1:2]), atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert set(small.state_dict()) == set(model.state_dict())
    save_slim(tmp_path / "small.safetensors", small)
    loaded = load_slim(tmp_path / "small.safetensors")
    torch.testing.assert_close(loaded(x[:2]), small(x)[:2], atol=1e-5, rtol=1e-5)
    assert size(loaded) == size(small)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_of_whole_heads_are_slimmed(name: str) -> None:
    """The biases of pruned queries, keys and values need no mask: no column reads them."""
    model, x = network(name)
    path = "encoder.layers.1.self_attn" if "torch, " in name else "two.attention"
    if name == "torchvision":
        path = "encoder.layers.encoder_layer_1.self_attention"
    masks = without_heads(model, path, [0, 2, 3], total=4)
    small = slim(model, masks, x)
    assert small.get_submodule(path).heads == 1
    assert small.get_parameter(f"{path}.in_proj_weight").shape == (3 * E // 4, E)
    assert small.get_parameter(f"{path}.out_proj.weight").shape == (E, E // 4)
    other = path.replace("1.", "0.").replace("two", "one")
    assert small.get_submodule(other).heads == 4
    state = {k: v * masks[k] if k in masks else v for k, v in model.state_dict().items()}
    expected = torch.func.functional_call(model, state, (x,))
    torch.testing.assert_close(small(x), expected, atol=1e-5, rtol=1e-5)


def test_the_weakest_head_of_all_its_weights_goes() -> None:
    model, x = network("batch first")
    assert isinstance(model, ViT)
    attention = model.one.attention
    with torch.no_grad():
        attention.in_proj_weight.fill_(1.0)
        attention.out_proj.weight.fill_(1.0)
        attention.in_proj_weight[2:4] = 0.9  # queries of head 1
        attention.in_proj_weight[E + 6 : E + 8] = 0.5  # keys of head 3
        attention.out_proj.weight[:, :2] = 0.7  # what reads head 0
    masks = prune_channels(model, x, density=0.75).masks
    alive = torch.tensor([True] * 6 + [False] * 2)  # of head 3
    assert torch.equal(
        masks["one.attention.in_proj_weight"], alive.repeat(3)[:, None].expand(-1, E)
    )
    assert torch.equal(masks["one.attention.in_proj_bias"], alive.repeat(3))
    assert torch.equal(masks["one.attention.out_proj.weight"], alive.expand(E, -1))
    assert "one.attention.out_proj.bias" not in masks
    masks = prune_channels(model, x, density=0.5).masks
    assert (
        masks["one.attention.out_proj.weight"][0].tolist() == [False] * 2 + [True] * 4 + [False] * 2
    )
    kept = prune_channels(model, x, density=0.5, dense=("one.attention",)).masks
    assert bool(kept["one.attention.in_proj_weight"].all())
    assert not bool(kept["two.attention.in_proj_weight"].all())


@pytest.mark.parametrize("bias", [True, False])
def test_one_head_stays_even_if_nothing_reads_it(bias: bool) -> None:
    torch.manual_seed(0)
    model, x = seeded(ViT(1, bias=bias)), torch.randn(3, 3, 8, 8)
    masks = prune_channels(model, x, density=0.5).masks
    assert bool(masks["one.attention.in_proj_weight"].all())
    several = seeded(ViT(4, bias=bias))
    for vit, heads in ((model, 1), (several, 4)):
        masks = without_heads(vit, "one.attention", list(range(heads)), heads)
        small = slim(vit, masks, x)
        assert small.get_submodule("one.attention").heads == 1
        assert small.get_submodule("two.attention").heads == heads


def test_a_head_of_constant_values_moves_into_the_bias() -> None:
    """Weights of attention sum to one, so that a head without value rows outputs its bias."""
    model, x = network("batch first")
    assert isinstance(model, ViT)
    with torch.no_grad():
        model.one.attention.in_proj_weight[2 * E + 2 : 2 * E + 4] = 0.0  # values of head 1
        model.two.attention.in_proj_weight[2 * E] = 0.0  # only one of two values of head 0
    small = slim(model, None, x)
    assert small.get_submodule("one.attention").heads == 3
    assert small.get_submodule("two.attention").heads == 4
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


class Narrow(nn.Module):
    """No norm and no places: the width itself can shrink, in the residual sum and in attention."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, E, 4, 4)
        self.attention = nn.MultiheadAttention(E, 2, bias=bias, batch_first=True)
        self.head = nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).relu().flatten(2).permute((0, 2, 1))
        x = x + self.attention(query=x, key=x, value=x)[0]
        return self.head(x).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("bias", [True, False])
def test_the_width_of_attention_shrinks_with_a_residual_sum(bias: bool) -> None:
    torch.manual_seed(0)
    model, x = seeded(Narrow(bias=bias)), torch.randn(3, 3, 8, 8)
    ticket = prune_channels(model, x, density=0.5)
    small = slim(ticket.model, None, x)
    assert small.get_parameter("attention.in_proj_weight").shape == (3 * E // 2, E // 2)
    assert small.get_parameter("attention.out_proj.weight").shape == (E // 2, E // 2)
    torch.testing.assert_close(small(x), ticket.model(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # channel 1 is the constant 2 in front of queries, keys and values
        model.patches.weight[1], model.patches.bias[1] = 0.0, 2.0
        model.attention.out_proj.weight[1] = 0.0
    small = slim(model, None, x)
    assert small.get_parameter("attention.in_proj_weight").shape == (3 * E, E - 1)
    assert size(small) <= size(model)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(record(small)(x), small(x))


def test_training_keeps_pruned_heads_zero() -> None:
    model, x = network("batch first")
    ticket = prune_channels(model, x, density=0.5)
    tuned = finetune_ticket(
        ticket, [(x, torch.arange(5) % 3)], Natural(), epochs=2, mode="inherit", quiet=True
    )
    small = slim(tuned.model.eval(), None, x)
    assert size(small) == size(slim(ticket.model, None, x))
    torch.testing.assert_close(small(x), tuned.model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    model, x = network("sequence first")
    small = slim(prune_channels(model, x, density=0.5).model, None, x)
    export_onnx(small, x, tmp_path / "small.onnx")  # which compares it with ONNX Runtime


class Calls(nn.Module):
    def __init__(self, call: object, **options: object) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.MultiheadAttention(E, 2, batch_first=True, **options))
        self.block = nn.TransformerEncoderLayer(E, 2, HIDDEN, batch_first=True)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)  # type: ignore[operator, no-any-return]


def written_into_a_token(m: Calls, x: Tensor) -> Tensor:
    x = x + m.inner[0](x, x, x)[0]
    x[:, 0].relu_()
    return x


REFUSED = {
    "cross": (lambda m, x: m.inner[0](x, x, x.relu())[0], {}, "'inner.0' attends from one tensor"),
    "mask": (
        lambda m, x: m.inner[0](x, x, x, attn_mask=x.mean(0))[0], {}, "'inner.0' is called with a"
    ),
    "causal": (
        lambda m, x: m.inner[0](x, x, x, is_causal=True)[0], {}, "'inner.0' is called with is_c"
    ),
    "weights": (
        lambda m, x: m.inner[0](x, x, x)[0] + m.inner[0](x, x, x)[1].mean(),
        {}, "uses the attention weights of layer 'inner.0'",
    ),
    "more keys": (
        lambda m, x: m.inner[0](x, x, x)[0], {"add_bias_kv": True}, "'inner.0' is a .* add_bias_kv"
    ),
    "zeros": (
        lambda m, x: m.inner[0](x, x, x)[0], {"add_zero_attn": True}, "'inner.0' is a .* add_zero"
    ),
    "widths": (lambda m, x: m.inner[0](x, x, x)[0], {"kdim": 4}, "'inner.0' is a .* kdim or vdim"),
    "its weight": (
        lambda m, x: x @ m.inner[0].in_proj_weight[:E], {}, "reads 'inner.0.in_proj_weight'"
    ),
    "sizes": (lambda m, x: m.inner[0](x, x, x)[0].expand(3, -1, -1), {}, "expands a tensor; write"),
    "in place": (written_into_a_token, {}, "changes .* in place at .* while"),
    "no size": (lambda m, x: x.expand(size=(3, 5, E)), {}, "expands a tensor; write"),
    "slices": (lambda m, x: m.inner[0](x, x, x)[0][:, :2], {}, "calls 'getitem'"),
    "truth": (lambda m, x: m.inner[0](x, x, x)[0][:, True], {}, "calls 'getitem'"),
    "layer": (lambda m, x: m.block(x, x.mean(0)), {}, "encoder 'block' is called with a mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_attention_cannot_be_is_refused_by_name(name: str) -> None:
    call, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        record(Calls(call, **options))


def test_what_is_kept_besides() -> None:
    """Weights that nobody uses, one sequence without a batch, a layer that is called twice."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, E)
    model = Calls(lambda m, x: m.inner[0](x, x, x)).eval()  # returns (output, weights)
    torch.testing.assert_close(record(model)(x), model(x)[0])
    torch.testing.assert_close(record(model)(x[0]), model(x[0])[0])
    alone = nn.TransformerEncoderLayer(E, 2, HIDDEN, batch_first=True).eval()
    assert isinstance(slim(alone, None, x), Network)
    twice = Calls(lambda m, x: m.block(m.block(src=x, src_mask=None, is_causal=False))).eval()
    small = slim(twice, without_heads(twice, "block.self_attn", [0], 2), x)
    assert small.get_submodule("block.self_attn").heads == 2
    half = Calls(lambda m, x: m.block(x).mean(1)).eval().bfloat16()
    ticket = prune_channels(half, x.bfloat16(), density=0.5)
    assert slim(ticket.model, None, x.bfloat16()).get_submodule("block.self_attn").heads == 1
