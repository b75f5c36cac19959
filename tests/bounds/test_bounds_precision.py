"""Certificates speak of the network as it is evaluated: in its own precision, in any order."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from attacks import ThreatModel
from robustprune.bounds import METHODS, certified, certified_radius, margin_bounds, output_bounds
from robustprune.bounds.precision import ULPS, Precision

FORMATS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8}


def linear(rows, bias=None, dtype=torch.float32):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows, dtype=torch.float64))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return layer


def absorbing(dtype):
    """Logits ((x + big) − big − x + lead, 0): constant in real numbers, a staircase in floats."""
    big = 1 / FORMATS[dtype] * 4  # numbers next to it are 8 apart
    return nn.Sequential(
        linear([[1.0], [1.0]], [big, 0.0], dtype),
        nn.ReLU(),
        linear([[1.0, 0.0], [0.0, 1.0]], [-big, 0.0], dtype),
        nn.ReLU(),
        linear([[1.0, -1.0], [0.0, 0.0]], [3.0, 0.0], dtype),
    )


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("method", METHODS)
def test_what_absorbs_its_input_is_not_certified_further_than_it_holds(dtype, method):
    model = absorbing(dtype)
    x, y = torch.tensor([[9.0]], dtype=dtype), torch.tensor([0])
    assert model(x)[0, 0] > 0  # 9 + big rounds to 8 + big: 3 − 1
    assert model(x + 2.75)[0, 0] <= 0 or model(x + 2.5)[0, 0] <= 1  # 3 − 3.75 before the next step
    fooled = torch.stack([model(x + d)[0, 0] <= 0 for d in torch.arange(0, 4, 0.25)]).any()
    assert bool(fooled)
    assert not bool(certified(model, x, y, ThreatModel("linf", 4.0), method=method))
    assert bool(certified(absorbing(dtype).double(), x.double(), y, ThreatModel("linf", 4.0))) == (
        dtype != torch.float64
    )  # in a finer format the same weights hold


def exact(model, point):
    """Logits without any rounding."""
    z = [Fraction(v) for v in point]
    for layer in model:
        if isinstance(layer, nn.ReLU):
            z = [max(v, Fraction(0)) for v in z]
        else:
            bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
            z = [
                sum((Fraction(w) * v for w, v in zip(row, z, strict=True)), Fraction(b))
                for row, b in zip(layer.weight.tolist(), bias, strict=True)
            ]
    return z


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_below_the_smallest_number_are_not_nothing(method, dtype):
    # 1e-40 nine times and 1e38 ten times: 1e20 in real numbers, 0 in float32
    small, large = (1e-40, 1e38) if dtype == torch.float32 else (1e-290, 1e290)
    layers = []
    for i in range(19):
        layers += [linear([[small if i < 9 else large]], dtype=dtype), nn.ReLU()]
    model = nn.Sequential(*layers, linear([[1.0], [0.0]], [0.0, 1.0], dtype))
    x = torch.ones(1, 1, dtype=dtype)
    truth = exact(model, [1.0])
    assert truth[0] > truth[1]
    assert model(x)[0, 0] == 0  # the network itself underflows
    for y in (0, 1):
        bound = margin_bounds(model, x, torch.tensor([y]), ThreatModel("linf", 1e-3), method=method)
        assert bound[0, 1 - y] <= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slope_below_the_smallest_number_is_not_what_it_says(method, dtype):
    """The leaky ReLU's slope becomes 0, and later weights would make up for it."""
    slope, big = 1e-46, 1e30
    model = nn.Sequential(
        linear([[big]], [-big], dtype),
        nn.LeakyReLU(slope),
        linear([[0.0], [1 / (slope * big)]], [0.0, 0.05], dtype),
    )
    x = torch.tensor([[1.0], [1.0], [0.5]], dtype=dtype)  # in real numbers the last is of class 0
    assert model(x).argmax(1).tolist() == [1, 1, 1]
    y = torch.tensor([1, 1, 0])
    assert not certified(model, x, y, ThreatModel("linf", 0.01), method=method)[2]
    usual = nn.Sequential(linear([[1.0]], [-1.0], dtype), nn.LeakyReLU(0.01), model[2])
    with torch.no_grad():
        usual[2].weight.copy_(torch.tensor([[0.0], [100.0]]))
    assert certified(usual, x, y, ThreatModel("linf", 0.01), method=method)[2]


@pytest.mark.parametrize("method", METHODS)
def test_values_that_may_overflow_prove_nothing(method):
    model = nn.Sequential(linear([[3e38], [0.0]]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 1.0]]))
    x, y = torch.tensor([[1.0], [0.25]]), torch.tensor([0, 0])
    bounds = margin_bounds(model, x, y, ThreatModel("linf", 0.2), method=method)
    assert bounds[0, 1] == -torch.inf  # 1.2 · 3e38 is no float32
    assert bounds[1, 1] > 1e37
    assert certified(model, x, y, ThreatModel("linf", 0.2), method=method).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sum_pays_for_every_order(dtype):
    # 1 + n tiny ones: added to 1 one by one they vanish, added first they count
    n, tiny = 64, FORMATS[dtype] * 0.99
    model = linear([[1.0] + [tiny] * n, [0.0] * (n + 1)], dtype=dtype)
    x = torch.ones(1, n + 1, dtype=dtype)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
    real = exact([model], x[0].tolist())[0]
    assert lower[0, 0] <= 1.0
    assert Fraction(upper[0, 0].item()) >= real
    # and no more: n roundings of a sum of this size, and those of the bound itself
    u = FORMATS[dtype]
    own = 8 * (n + 16) * torch.finfo(torch.float64).eps
    assert upper[0, 0] - lower[0, 0] <= (2.2 * (n + 4) * u / (1 - (n + 4) * u) + own) * float(real)


def test_weights_of_zero_round_nothing():
    dense, sparse = linear([[1.0] * 256, [0.0] * 256]), linear([[1.0] + [0.0] * 255, [0.0] * 256])
    x = torch.ones(1, 256)
    widths = []
    for model in (dense, sparse):
        lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
        widths.append(float(upper[0, 0] - lower[0, 0]))
    assert widths[1] < 1e-6 < 1e-3 < widths[0]


class Constant(nn.Module):
    def __init__(self, function, dtype, bias):
        super().__init__()
        self.function, self.last = function, linear([[1.0], [0.0]], bias, dtype)

    def forward(self, x):
        return self.last(self.function(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("function", "real"),
    [
        (lambda x: x * 0.1, lambda v: Fraction(0.1) * v),
        (lambda x: 0.1 + x, lambda v: Fraction(0.1) + v),
        (lambda x: x - 0.1, lambda v: v - Fraction(0.1)),
        (lambda x: x / 0.7, lambda v: v / Fraction(0.7)),
        (lambda x: 1e39 * (x * 1e-39), lambda v: v),
        (lambda x: x * torch.tensor([0.1]), lambda v: v * Fraction(torch.tensor(0.1).item())),
        (lambda x: x * (torch.tensor([0.1]) * 3), None),
    ],
)
def test_python_constants_have_the_networks_precision(function, real, dtype):
    model = Constant(function, dtype, [0.0, 0.0])
    x = torch.tensor([[1e6], [-3.7]], dtype=dtype)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
    out = model(x).double()
    assert bool(((lower <= out) & (out <= upper) | lower.isinf()).all())
    if real is not None:
        for i, v in enumerate(x[:, 0].tolist()):
            truth, ends = real(Fraction(v)), (lower[i, 0].item(), upper[i, 0].item())
            if ends[0] > -float("inf"):
                assert Fraction(ends[0]) <= truth <= Fraction(ends[1])
    if bool(lower.isfinite().all()):
        width = 512 * torch.finfo(dtype).eps * (1 + out.abs().amax())
        assert bool((upper - lower <= width).all())
    else:
        assert dtype == torch.float32  # 1e39 is no float32


def test_a_float64_input_of_a_float32_network_is_rounded():
    model = linear([[1.0], [0.0]], [0.0, 1.0])
    x = torch.tensor([[1.0 + 2.0**-25]], dtype=torch.float64)  # rounds to 1, a tie
    y = torch.tensor([0])
    for norm in ("linf", "l2", "l1"):
        assert not bool(certified(model, x, y, ThreatModel(norm, 0.0)))
        assert bool(certified(model.double(), x, y, ThreatModel(norm, 0.0)))
        model.float()


def test_casts_inside_the_network():
    class Cast(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.first, self.last = (linear([[1.0], [0.5]], dtype=dtype) for _ in range(2))
            self.last = linear([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)

        def forward(self, x):
            return self.last(self.first(x).float())

    x = torch.ones(1, 1)
    bound = margin_bounds(Cast(torch.float32), x, torch.tensor([0]), ThreatModel("linf", 0.1))
    assert bound[0, 1].item() == pytest.approx(0.45, abs=1e-5)
    model = Cast(torch.float64)
    with pytest.raises(ValueError, match="cast to float32 inside a float64 network"):
        margin_bounds(model, x.double(), torch.tensor([0]), ThreatModel("linf", 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_library_functions_keep_to_the_assumed_error(name, dtype):
    generator = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(20_000, generator=generator) * s for s in (1e-3, 0.1, 1, 10)])
    z = z.to(dtype)
    got = getattr(torch, name)(z)
    if dtype == torch.float32:
        truth = getattr(torch, name)(z.double())
    else:  # addition theorem at half the argument, whose errors it passes on
        half = getattr(torch, name)(z / 2)
        truth = (
            2 * half / (1 + half * half)
            if name == "tanh"
            else half**2 / (1 - 2 * half + 2 * half**2)
        )
    unit = torch.finfo(dtype).eps / 2
    slack = 2 * ULPS * unit if dtype == torch.float32 else 64 * unit
    assert bool(((got.double() - truth.double()).abs() <= slack * truth.abs().double()).all())


def test_batch_norm_in_every_order():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(norm, linear(torch.eye(4).tolist())).eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1e4, -3.0, 0.1, 1e-3]))
        norm.running_var.copy_(torch.tensor([1e-6, 2.0, 1e3, 0.0]))
        norm.weight.copy_(torch.tensor([1.0, -2.0, 1e3, 0.3]))
        norm.bias.copy_(torch.tensor([5.0, 0.1, -7.0, 0.0]))
    x = norm.running_mean + torch.randn(64, 4) * 0.1
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
    inverse = (norm.running_var + norm.eps).rsqrt()
    scale = norm.weight * inverse
    orders = [
        model(x),
        (x - norm.running_mean) * inverse * norm.weight + norm.bias,
        (x - norm.running_mean) * scale + norm.bias,
        (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias,
        x * scale + (norm.bias - norm.running_mean * scale),
        torch.addcmul(norm.bias - norm.running_mean * scale, x, scale),
        model.double()(x.double()),
    ]
    assert len({tuple(out.double().flatten().tolist()) for out in orders}) > 3  # they do differ
    for out in orders:
        assert bool(((lower <= out.double()) & (out.double() <= upper)).all())


def test_formats():
    for dtype, unit in FORMATS.items():
        found = Precision.of(dtype)
        assert found.unit == unit
        assert found.gamma(10) >= 10 * unit / (1 - 10 * unit)
    half = Precision.of(torch.float16)
    assert half.floor == 2.0**-24
    assert half.gamma(2**11) == float("inf")


def test_honest_networks_lose_next_to_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 3))
    x = torch.randn(6, 20)
    y = model(x).argmax(1)
    radius = certified_radius(model, x, y, rounds=30)
    finer = certified_radius(model.double(), x.double(), y, rounds=30)
    assert bool((radius <= finer * (1 + 1e-9)).all())
    assert bool((radius >= finer * (1 - 2e-3)).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_input_next_to_its_bounds_is_inside_its_own_set(norm):
    # ((1 − m)/s computed for the bounds in float64 and for x in float32 are an ulp apart
    high = (1 - 0.1307) / 0.3081
    x = torch.full((1, 1), high)
    x = torch.nextafter(x, torch.full_like(x, 9.0))
    model = linear([[1.0], [0.0]], [-float(x), 0.0], torch.float64)
    lower, upper = output_bounds(model, x.double(), ThreatModel(norm, 0.0))
    stuck = ThreatModel(norm, 1e-3, (-0.5, high))
    lower, upper = output_bounds(model, x, stuck)
    assert lower[0, 0] < 0 <= upper[0, 0]
    assert model(x.double())[0, 0] == 0
