"""Layer normalisation: exact where that is known, sound in every way to compute it."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.bounds import METHODS, margin_bounds, output_bounds
from robustprune.bounds.algebra import Interval
from robustprune.bounds.formulas import inverse_root
from robustprune.bounds.products import ROWWISE, Product

POINT = ThreatModel("linf", 0.0)


def normed(shape, dtype=torch.float64, **options):
    """A layer norm with weights, and a head of three classes."""
    layer = nn.LayerNorm(shape, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-2, 2)
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)).to(dtype)


def test_two_entries_are_a_function_of_their_difference():
    """y = ± t / √(t² + ε) with t half the difference, which is monotone."""
    layer = nn.LayerNorm(2, elementwise_affine=False, eps=0.5)
    x = torch.tensor([[0.3, -0.9], [2.0, 1.9]]).double()
    t = (x[:, 0] - x[:, 1]) / 2
    lower, upper = output_bounds(layer.double(), x, ThreatModel("linf", 0.1), method="ibp")
    for end, reach in ((lower, -0.1), (upper, 0.1)):
        true = (t + reach) / ((t + reach).square() + 0.5).sqrt()
        assert bool(((end[:, 0] - true) * reach >= 0).all())
        torch.testing.assert_close(end[:, 0], true, rtol=0, atol=0.12)


def test_the_inverse_root_and_a_product_by_rows_by_hand():
    box = Interval(torch.tensor([[0.25]]).double(), torch.tensor([[4.0]]).double())
    lo, hi = inverse_root(1e-5, 0.0).interval(box, gamma=1e-13)
    assert (lo.item(), hi.item()) == pytest.approx((0.5, 2.0), abs=1e-9)
    lines = inverse_root(1e-5, 0.0).relax(box)
    z = torch.linspace(0.25, 4, 50).double()
    below = lines.lower_slope.item() * z + lines.lower_shift.item()
    above = lines.upper_slope.item() * z + lines.upper_shift.item()
    assert bool(((below <= z.rsqrt()) & (z.rsqrt() <= above)).all())
    assert above[0].item() == pytest.approx(2.0)  # the chord
    assert above[-1].item() == pytest.approx(0.5)
    row = Interval(torch.tensor([[-1.0, 2.0]]).double(), torch.tensor([[3.0, 2.5]]).double())
    lo, hi = Product(ROWWISE).interval(row, box, gamma=0.0)
    assert lo.tolist() == [[-4.0, 0.5]]
    assert hi.tolist() == [[12.0, 10.0]]
    plane = Product(ROWWISE).relax(row, box)
    left, right = ROWWISE.to_left(torch.ones(1, 1, 2), plane.right.unsqueeze(1)), plane.left.sum()
    assert left.tolist() == [[[2.125, 2.125]]]
    got = ROWWISE.to_right(torch.ones(1, 1, 2).double(), plane.left.unsqueeze(1))
    assert got.item() == pytest.approx(right.item())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_corners_and_samples_lie_within(method, shape):
    torch.manual_seed(0)
    model = normed(shape).eval()
    x = torch.randn(4, 3, 5).double() + 2
    model(x)
    for eps in (1e-3, 0.1, 0.5):
        lower, upper = output_bounds(model, x, ThreatModel("linf", eps), method=method)
        steps = torch.rand(600, 1, 3, 5).double() * 2 - 1
        steps[300:] = steps[300:].sign()
        out = model((x + eps * steps).flatten(0, 1)).view(600, 4, 3).detach()
        assert bool(((lower <= out) & (out <= upper)).all())
        if method == "crown" and eps == 1e-3:
            assert float(((upper - lower) / (out.amax(0) - out.amin(0))).max()) < 4


def orders(layer, x):
    """The same layer norm, computed in several ways."""
    w, b, n, eps = layer.weight, layer.bias, x.shape[-1], layer.eps
    mean = x.mean(-1, keepdim=True)
    two = ((x - mean) ** 2).mean(-1, keepdim=True)
    one = ((x * x).mean(-1, keepdim=True) - mean * mean).clamp(min=0)
    running, spread = torch.zeros_like(mean), torch.zeros_like(mean)
    for k in range(n):  # Welford's
        step = x[..., k : k + 1] - running
        running = running + step / (k + 1)
        spread = spread + step * (x[..., k : k + 1] - running)
    yield layer(x)
    for m, v in ((mean, two), (mean, one), (running, spread / n)):
        s = 1 / (v + eps).sqrt()
        yield (x - m) * s * w + b
        yield (x * s + -m * s) * w + b
        yield x * (s * w) + (b - m * s * w)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_way_to_compute_it_lies_within(dtype, offset):
    torch.manual_seed(1)
    layer = nn.LayerNorm(6).to(dtype)
    with torch.no_grad():
        layer.weight.uniform_(-2, 2)
        layer.bias.uniform_(-2, 2)
    x = (torch.randn(50, 6) * torch.rand(50, 1) + offset).to(dtype)
    x[:, 3] = 30 * offset  # one entry far from the others
    lower, upper = output_bounds(layer, x, POINT)
    found = [*orders(layer, x), nn.LayerNorm.forward(layer.double(), x.double())]
    assert len({tuple(out.double().flatten().tolist()) for out in found}) > 3  # they do differ
    for out in found:
        assert bool(((lower <= out.double()) & (out.double() <= upper)).all())
    if offset == 0:
        assert float((upper - lower).max()) < (1e-2 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_formats(dtype):
    torch.manual_seed(2)
    model = normed((16,), dtype=torch.float32)
    x = torch.randn(20, 16)
    model(x)
    model, x = model.to(dtype).eval(), x.to(dtype)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.01))
    for _ in range(20):
        out = model(x + (0.01 * torch.randn(20, 16).sign()).to(dtype) * 0.99).double()
        assert bool(((lower <= out) & (out <= upper)).all())
    assert bool(upper.isfinite().all())
    exact = model.double()(x.double())
    assert bool(((lower <= exact) & (exact <= upper)).all())


def test_a_constant_row_has_no_variance():
    """Only ε is left below the root, and an entry that moves by 1e-3 is the whole variance."""
    layer = nn.LayerNorm(4, eps=1e-5).double()
    x = torch.full((2, 4), 7.0).double()
    lower, upper = output_bounds(layer, x, ThreatModel("linf", 1e-3))
    for i in range(4):
        moved = x.clone()
        moved[:, i] += 1e-3
        assert bool(((lower <= layer(moved)) & (layer(moved) <= upper)).all())
    assert float(upper.max()) >= 0.3


def test_values_that_may_overflow_prove_nothing():
    layer = nn.LayerNorm(3)
    x = torch.tensor([[1e25, 1.0, -1e25], [1.0, 2.0, 4.0]])
    lower, upper = output_bounds(layer, x, POINT)
    assert lower[0].isneginf().all()
    assert upper[0].isposinf().all()
    assert upper[1].isfinite().all()


def test_the_block_of_a_vision_transformer():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16,
        num_classes=3,
    ).double().eval()  # fmt: skip
    nn.init.normal_(model.heads.head.weight)
    x = torch.rand(2, 3, 8, 8).double()
    lower, upper = output_bounds(model, x, POINT)
    torch.testing.assert_close(lower, model(x), rtol=0, atol=1e-8)
    threat = ThreatModel("linf", 1 / 255)
    lower, upper = output_bounds(model, x, threat)
    for _ in range(20):
        out = model(threat.random_start(x))
        assert bool(((lower <= out) & (out <= upper)).all())
    y = model(x).argmax(1)
    best = margin_bounds(model, x, y, ThreatModel("linf", 1e-4))
    assert bool((best.where(best.isfinite(), torch.inf) > 0).all()), "something is certified"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", nn.Tanh()])
def test_an_encoder_is_what_torch_computes(first, activation):
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(
        4, 2, dim_feedforward=6, activation=activation, batch_first=True, norm_first=first
    )
    encoder = nn.TransformerEncoder(
        layer, 2, norm=nn.LayerNorm(4, bias=False), enable_nested_tensor=False
    )
    model = Holder(encoder).double().eval()
    x = torch.randn(3, 2, 4).double()
    for threat in (POINT, ThreatModel("linf", 1e-3)):
        lower, upper = output_bounds(model, x, threat)
        if threat is POINT:
            torch.testing.assert_close(lower, model(x), rtol=0, atol=1e-8)
            torch.testing.assert_close(upper, model(x), rtol=0, atol=1e-8)
        for _ in range(20):
            out = model(threat.random_start(x))
            assert bool(((lower <= out) & (out <= upper)).all())


class Holder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x).flatten(1)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.LayerNorm(4, eps=0.0), "eps=0.0"),
        (nn.TransformerEncoderLayer(4, 1), "batch_first=False"),
        (
            nn.TransformerEncoderLayer(4, 1, batch_first=True, activation=torch.sin),
            "module 'layer'.*'sin' inside it",
        ),
        (
            nn.TransformerEncoderLayer(
                4, 1, batch_first=True, activation=partial(F.gelu, approximate="tanh")
            ),
            "module 'layer'.*'functools.partial' inside it",
        ),
    ],
)
def test_what_is_not_supported_is_named_with_its_place(layer, named):
    with pytest.raises(ValueError, match=named):
        output_bounds(Holder(layer.eval()), torch.zeros(2, 3, 4), POINT)
    with pytest.raises(ValueError, match=r"a layer norm over \(3,\) of examples of shape \(4,\)"):
        output_bounds(Function3(), torch.zeros(2, 4), POINT)


class Function3(nn.Module):
    def forward(self, x):
        return F.layer_norm(x, (3,))
