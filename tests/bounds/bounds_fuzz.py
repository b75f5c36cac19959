"""Random networks of all supported operations at all scales, and ways to evaluate them."""

import math

import torch
from bounds_more import Function, curved
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: exponents of ten within which weights are numbers of the format
DECADES = {torch.float32: (-44, 37), torch.float64: (-320, 300), torch.bfloat16: (-38, 37)}


class Branches(nn.Module):
    def __init__(self, one, other, join):
        super().__init__()
        self.one, self.other, self.join = one, other, join

    def forward(self, x):
        one, other = self.one(x), self.other(x)
        if self.join == "cat":
            return torch.cat((one, other), dim=1)
        if self.join == "mul":
            return one * other
        if self.join == "iadd":
            one += other
            return one
        return one + other if self.join == "add" else one - other


class Absorbs(nn.Module):
    """((v·z + big) − big − v·z) · gain: 0 in real numbers, in floats what rounding leaves."""

    def __init__(self, big, v, gain):
        super().__init__()
        self.big, self.v, self.gain = big, v, gain

    def forward(self, x):
        return x + ((x * self.v + self.big) - self.big - x * self.v) * self.gain

    def extra_repr(self):
        return f"{self.big}, {self.v}, {self.gain}"


def constant(rng, dtype):
    value = rng.choice([0.1, 0.7, -3, 1 / 3, 2, 10.0 ** rng.uniform(-3, 3)])
    if rng.random() < 0.1:
        low, high = DECADES[dtype]
        value = 10.0 ** rng.uniform(low, high)
    return value


def elementwise(rng, dtype):
    c = constant(rng, dtype)
    big = 2.0 ** rng.randint(0, 6) / torch.finfo(dtype).eps
    return rng.choice(
        [
            lambda: nn.ReLU(inplace=rng.random() < 0.3),
            nn.ReLU,
            lambda: nn.LeakyReLU(rng.choice([0.01, 0.3, 1.0])),
            nn.Tanh,
            nn.Sigmoid,
            lambda: curved(rng),
            lambda: curved(rng),
            lambda: Function(f"x * {c}", lambda x: x * c),
            lambda: Function(f"{c} - x", lambda x: c - x),
            lambda: Function(f"x + {c}", lambda x: c + x),
            lambda: Function(f"x / {c}", lambda x: x / c),
            lambda: Function("-x", lambda x: -x),
            lambda: Absorbs(big, rng.uniform(0.3, 3), rng.choice([1, 9])),
            nn.Identity,
            nn.Dropout,
        ]
    )()


def flat_part(rng, dtype, width):
    """A part that takes (N, width), and its own width."""
    kind = rng.randrange(6)
    if kind <= 1:
        after = rng.randint(2, 6)
        return nn.Linear(width, after, bias=rng.random() < 0.7), after
    if kind == 2 and width > 1:
        return nn.BatchNorm1d(
            width, eps=rng.choice([1e-5, 1e-12]), affine=rng.random() < 0.7
        ), width
    if kind == 3:
        one, after = flat_part(rng, dtype, width)
        if after != width:
            return Branches(one, nn.Identity(), "cat"), after + width
        return Branches(
            one, elementwise(rng, dtype), rng.choice(["add", "sub", "iadd", "mul"])
        ), width
    return elementwise(rng, dtype), width


def spread_part(rng, dtype, shape):
    """A part that takes (N, C, L) or (N, C, H, W)."""
    two, channels = len(shape) == 3, shape[0]
    kind = rng.randrange(9)
    if kind == 8:
        layer = nn.ConvTranspose2d if two else nn.ConvTranspose1d
        stride = rng.randint(1, 2)
        return layer(channels, 2, rng.randint(1, 3), stride, output_padding=stride - 1)
    if kind <= 2:
        layer = nn.Conv2d if two else nn.Conv1d
        return layer(
            channels,
            rng.randint(1, 3),
            rng.randint(1, 3),
            stride=rng.randint(1, 2),
            padding=rng.randint(0, 2),
            bias=rng.random() < 0.7,
            padding_mode=rng.choice(["zeros", "replicate"]),
        )
    if kind == 3:
        return (nn.BatchNorm2d if two else nn.BatchNorm1d)(channels)
    if kind == 4:
        return (nn.MaxPool2d if two else nn.MaxPool1d)(2, stride=1, padding=rng.randint(0, 1))
    if kind == 5:
        return (nn.AvgPool2d if two else nn.AvgPool1d)(2, stride=1, padding=rng.randint(0, 1))
    if kind == 6:
        return (nn.AdaptiveAvgPool2d if two else nn.AdaptiveAvgPool1d)(rng.randint(1, 3))
    return elementwise(rng, dtype)


def parts_of(rng, dtype):
    shape = rng.choice([(rng.randint(1, 6),), (rng.randint(1, 2), rng.randint(3, 7)), (1, 4, 4)])
    z, parts = torch.zeros(2, *shape), []
    for _ in range(rng.randint(0, 3) if len(shape) > 1 else 0):
        part = spread_part(rng, dtype, tuple(z.shape[1:])).eval()
        try:
            z = part(z.float())
        except RuntimeError:  # a window larger than what is left
            continue
        parts.append(part)
    if len(shape) > 1:
        pooled = Function("mean", lambda x: x.flatten(2).mean(2))
        parts.append(rng.choice([nn.Flatten(), pooled]))
        z = parts[-1](z)
    width = z.shape[1]
    for _ in range(rng.randint(0, 5)):
        part, width = flat_part(rng, dtype, width)
        parts.append(part)
    return shape, nn.Sequential(*parts, nn.Linear(width, rng.randint(2, 4)))


def scaled(weight, rng, dtype):
    """Weights of one scale, mostly harmless; some of them 0, or the same as others."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    low, high = DECADES[dtype]
    exponent = rng.choice([0, 0, 0, 0, rng.uniform(-3, 3), rng.uniform(low, high)])
    values = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    values = (
        values * (torch.rand(weight.shape, generator=generator) < rng.choice([0.4, 1])).double()
    )
    limit = torch.finfo(dtype).max
    return (values * 10.0**exponent).clamp(-limit, limit).to(dtype)


def random_case(rng, dtype):
    """A network in dtype, inputs (3, …) and a radius."""
    with torch.random.fork_rng():
        torch.manual_seed(rng.randrange(2**31))
        shape, model = parts_of(rng, dtype)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.copy_(scaled(parameter, rng, dtype))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(scaled(module.running_mean, rng, dtype))
                variance = scaled(module.running_var, rng, dtype).abs()
                module.running_var.copy_(variance)
    if rng.random() < 0.25:
        almost_underflow(model, rng, dtype)
    scale = 10.0 ** rng.choice([0, 0, 0, rng.uniform(-4, 4)])
    x = (torch.rand(3, *shape, dtype=torch.float64) * scale).to(dtype)
    return model, x, scale * 10.0 ** rng.uniform(-8, 0.5)


@torch.no_grad()
def almost_underflow(model, rng, dtype):
    """Scale an early layer down to the smallest numbers, and a later one up by as much."""
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    if len(layers) < 2:
        return
    early, late = sorted(rng.sample(range(len(layers)), 2))
    lowest = math.log10(torch.finfo(dtype).tiny)
    factor = 10.0 ** rng.uniform(lowest - 5, lowest + 3)
    limit = torch.finfo(dtype).max
    layers[early].weight.copy_((layers[early].weight.double() * factor).to(dtype))
    if layers[early].bias is not None:
        layers[early].bias.copy_((layers[early].bias.double() * factor).to(dtype))
    raised = layers[late].weight.double() / max(factor, 1 / limit)
    layers[late].weight.copy_(raised.clamp(-limit, limit).to(dtype))


class AnyOrder(TorchFunctionMode):
    """Sums one product after another in a given order, batch norm by another formula."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear:
            return self._linear(*args, **(kwargs or {}))
        if function is F.batch_norm:
            return self._norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _linear(self, z, weight, bias=None):
        products = z.unsqueeze(-2) * weight
        if bias is not None:
            products = torch.cat((products, bias.expand(*products.shape[:-1]).unsqueeze(-1)), -1)
        order = self.rng.choice(["rising", "falling", "signs", "random"])
        if order == "random":
            products = products[..., torch.randperm(products.shape[-1])]
        else:
            key = products if order == "signs" else products.abs()
            products = products.gather(-1, key.argsort(-1, descending=order != "rising"))
        total = products[..., 0]
        for i in range(1, products.shape[-1]):
            total = total + products[..., i]
        return total

    def _norm(self, z, mean, var, weight=None, bias=None, training=False, momentum=0, eps=0):
        assert not training
        places = (-1, *(1,) * (z.dim() - 2))
        z, total = z - mean.reshape(places), var.reshape(places) + eps
        z = z / total.sqrt() if self.rng.random() < 0.5 else z * total.rsqrt()
        return z if weight is None else z * weight.reshape(places) + bias.reshape(places)


def points_of(model, x, y, threat, rng, count):
    """Inputs of the ball as the network gets them: (P, 3, …), the worst-looking among them."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    project = threat.projector(x)
    z = x.clone().requires_grad_()
    logits = model(z.clone())
    lead = logits.gather(1, y[:, None]).squeeze(1) - logits.scatter(1, y[:, None], -math.inf).amax(
        1
    )
    try:
        (grad,) = torch.autograd.grad(lead.sum(), z)
    except RuntimeError:  # an operation in place overwrote what the gradient needs
        grad = torch.zeros_like(z)
    down = -grad.nan_to_num().sign()
    eps = threat.eps
    found = [x]
    for i in range(count):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
        share = rng.choice([1.0, 1.0, rng.random()])
        direction = (down, -down, noise.sign(), noise, torch.ones_like(x))[i % 5]
        if threat.norm == "l1" and i % 2:  # all of it on one entry
            at = torch.randint(x[0].numel(), (1,), generator=generator)
            direction = torch.zeros_like(x).flatten(1).index_fill(1, at, 1.0).reshape(x.shape)
            direction = direction * rng.choice([-1, 1])
        elif threat.norm != "linf":
            direction = direction / direction.abs().flatten(1).norm(dim=1).clamp_min(1e-30).reshape(
                -1, *(1,) * (x.dim() - 1)
            )
            share *= 1.0 if threat.norm == "l2" else 9.0
        found.append(project(x + (share * eps) * direction))
    return torch.stack(found).detach()


def evaluations(model, points, rng):
    """Logits (P, 3, C) of every point: all at once, one by one, in orders of ours, flushed."""
    flat = points.flatten(0, 1)
    shape = points.shape[:2]
    with torch.no_grad():
        yield "at once", model(flat.clone()).reshape(*shape, -1)
        yield "one by one", torch.cat([model(p[None].clone()) for p in flat]).reshape(*shape, -1)
        for _ in range(2):
            with AnyOrder(rng):
                yield "in another order", model(flat.clone()).reshape(*shape, -1)
        if torch.set_flush_denormal(True):
            try:
                yield "flushed to zero", model(flat.clone()).reshape(*shape, -1)
            finally:
                torch.set_flush_denormal(False)
