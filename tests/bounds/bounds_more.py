"""Networks of attention, recurrent layers, curves and transposed convolutions."""

import torch
from torch import nn
from torch.nn import functional as F


class Function(nn.Module):
    """A function without weights, and its name for the case at hand."""

    def __init__(self, name, function):
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return self.name


def curved(rng):
    low = rng.choice([-1.0, -0.3, 0.0, 2.0])
    return rng.choice(
        [
            nn.GELU,
            lambda: nn.GELU("tanh"),
            nn.SiLU,
            nn.Mish,
            nn.Hardswish,
            nn.Hardsigmoid,
            nn.ReLU6,
            lambda: nn.Hardtanh(low, low + 1.7),
            lambda: nn.ELU(rng.choice([0.5, 1.0, 2.0])),
            lambda: Function("square", lambda x: x * x),
            lambda: Function("exp", torch.exp),
            lambda: Function("abs", torch.abs),
            lambda: Function(f"clamp at {low}", lambda x: x.clamp(min=low)),
            lambda: Function("softmax", lambda x: x.softmax(1)),
        ]
    )()


class Attention(nn.Module):
    """Patches of a series, multi-head attention, and attention in functional form."""

    def __init__(self, heads=2):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.position = nn.Parameter(torch.randn(1, 4, 4))
        self.attention = nn.MultiheadAttention(4, heads, batch_first=True, bias=True)
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        z = self.embed(x.unflatten(1, (4, 3))) + self.position
        z = z + self.attention(z, z, z, need_weights=False)[0]
        q, k, v = self.qkv(F.gelu(z)).chunk(3, dim=-1)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        weights = torch.softmax(q @ k.transpose(1, 2) / 2, -1)
        return self.head((z + torch.bmm(weights, v)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        options = {"bidirectional": True} if kind == "GRU" else {"num_layers": 2}
        self.cells = getattr(nn, kind)(2, 3, batch_first=True, **options)
        self.head = nn.Linear(6 if kind == "GRU" else 3, 3)

    def forward(self, x):
        out, state = self.cells(x.transpose(1, 2))
        if isinstance(self.cells, nn.LSTM):
            state = state[0]
        own = state[-1] if isinstance(self.cells, nn.LSTM) else out[:, -1]
        return self.head(own + out[..., 0, :])


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.second = nn.ConvTranspose2d(2, 2, (2, 3), dilation=(1, 2), bias=False)
        self.third = nn.ConvTranspose3d(2, 1, 2)
        self.fourth = nn.Conv3d(1, 2, 2, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        z = F.hardswish(self.first(x))
        z = F.mish(self.second(z.unflatten(1, (2, 2))))
        z = F.max_pool3d(F.silu(self.third(z.unsqueeze(2))), 2, padding=1)
        z = F.relu6(self.fourth(z), inplace=True)
        return self.head(torch.stack(z.movedim(1, -1).unbind(-1), 1).flatten(1))


class Curves(nn.Module):
    """Every curve, a product, and values cut and joined again."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 3)
        self.functions = [
            F.gelu, lambda z: F.gelu(z, approximate="tanh"), F.silu, F.mish, F.hardswish,
            F.hardsigmoid, F.relu6, F.hardtanh, F.elu, torch.abs, torch.square, torch.exp,
        ]  # fmt: skip

    def forward(self, x):
        parts = self.first(x).split(1, dim=1)
        parts = [f(parts[i]) for i, f in enumerate(self.functions)]
        z = torch.cat(parts, 1)
        z = torch.stack((z[:, :6], z[:, 6:]), dim=2).permute(0, 2, 1)
        z = z[..., 0, :] * z[:, 1].clamp(-2, 0.7)
        return self.second(torch.cat((z, z**2), dim=-1).softmax(-1))


class Encoder(nn.Module):
    """Layer norms behind both parts of a block, and over two dimensions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, 3)
        for module in self.blocks.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, -1.5, 1.5)

    def forward(self, x):
        z = self.blocks(self.embed(x.unflatten(1, (2, 3))))
        z = z + F.layer_norm(z, z.shape[1:], eps=0.1)
        return self.head(z.flatten(1))


NETS = {
    "encoder": ((6,), Encoder),
    "attention": ((12,), Attention),
    "lstm": ((2, 3), lambda: Recurrent("LSTM")),
    "gru": ((2, 3), lambda: Recurrent("GRU")),
    "rnn": ((2, 4), lambda: Recurrent("RNN")),
    "decoder": ((2, 3), Decoder),
    "curves": ((6,), Curves),
}


def random_more(name, seed, dtype, examples=2):
    """A network, inputs, and its own predictions."""
    shape, build = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().to(dtype).eval()
        x = torch.rand(examples, *shape).to(dtype)
    return model, x, model(x).argmax(1)
