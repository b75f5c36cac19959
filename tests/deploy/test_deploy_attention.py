"""Self-attention in networks that are deployed: its width, its calls, and what is refused."""

from __future__ import annotations

import pytest
import torch
from attending import HIDDEN, E, seeded, size, without_heads
from torch import Tensor, nn

from robustprune.deploy import prune_channels, record, slim
from robustprune.deploy.network import Network


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
