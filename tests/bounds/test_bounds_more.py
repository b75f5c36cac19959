"""Attention, recurrent layers, products and transposed convolutions: sound and exact."""

import pytest
import torch
from bounds_more import NETS, Attention, random_more
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.bounds import METHODS, linear, margin_bounds, output_bounds
from robustprune.bounds.algebra import Interval
from robustprune.bounds.products import ENTRYWISE, Product, matrix

POINT = ThreatModel("linf", 0.0)


@settings(max_examples=2)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    eps=st.sampled_from([0.01, 0.1, 0.5]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@pytest.mark.parametrize("name", sorted(NETS))
def test_bounds_hold_and_are_ordered(name, seed, norm, eps, dtype):
    model, x, y = random_more(name, seed, dtype)
    threat = ThreatModel(norm, eps)
    found = [threat.random_start(x) for _ in range(40)]
    project = threat.projector(x)
    found += [project(x + s * 9 * eps) for s in (torch.ones_like(x), -torch.ones_like(x))]
    if dtype != torch.bfloat16:
        found.append(PGD(threat, steps=10, loss="margin")(model, x, y))
    logits = torch.stack([model(point) for point in found]).double()
    margins = (logits.gather(2, y.expand(len(found), -1)[..., None]) - logits).amin(0)
    worse = None
    for method in METHODS:
        bound = margin_bounds(model, x, y, threat, method=method, steps=1)
        assert bool((bound.where(bound.isfinite(), -torch.inf) <= margins + 1e-12).all()), method
        if worse is not None:
            assert bool((bound >= worse - 1e-12).all()), method
        worse = bound
    lower, upper = output_bounds(model, x, threat)
    assert bool(((lower <= logits) & (logits <= upper)).all())


@pytest.mark.parametrize("name", sorted(NETS))
def test_bounds_meet_the_logits_at_eps_zero(name):
    model, x, _ = random_more(name, 3, torch.float64)
    for method in ("ibp", "crown"):
        lower, upper = output_bounds(model, x, POINT, method=method)
        torch.testing.assert_close(lower, model(x), rtol=0, atol=1e-8)
        torch.testing.assert_close(upper, model(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["attention", "decoder", "gru"])
def test_places_bounded_alone_or_together_get_the_same(name, monkeypatch):
    model, x, y = random_more(name, 9, torch.float64)
    bounds = []
    for rows, chunk in ((1, 4000), (10**9, 10**9)):
        monkeypatch.setattr(linear, "ROWS", rows)
        monkeypatch.setattr(linear, "CHUNK", chunk)
        bounds.append(margin_bounds(model, x, y, ThreatModel("linf", 0.05)))
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-10)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_products_lie_between_their_planes(seed):
    generator = torch.Generator().manual_seed(seed)

    def box(*shape):
        middle = torch.randn(*shape, generator=generator).double() * 3
        radius = torch.rand(*shape, generator=generator).double()
        return Interval(middle - radius, middle + radius)

    for op, shapes in (
        (Product(ENTRYWISE), [(1, 4)] * 2),
        (Product(matrix(3)), [(1, 2, 3), (1, 3, 2)]),
    ):
        inputs = [box(*shape) for shape in shapes]
        plane, interval = op.relax(*inputs), op.interval(*inputs, gamma=1e-13)
        for corner in (0.0, 1.0, None):
            points = []
            for b in inputs:
                share = torch.rand(500, *b.lo.shape[1:], generator=generator).double()
                share = (share > 0.5).double() if corner is None else share * 0 + corner
                points.append(b.lo + share * (b.hi - b.lo))
            values = op.clean(*points)
            flat = op.by.times(plane.left, points[1]) + op.by.times(points[0], plane.right)
            assert bool(((values - flat - plane.shift).abs() <= plane.error + 1e-12).all())
            assert bool(((interval.lo <= values) & (values <= interval.hi)).all())
        if op.by is ENTRYWISE:
            corners = torch.stack([a * b for a in inputs[0] for b in inputs[1]])
            torch.testing.assert_close(interval.lo, corners.amin(0))
            torch.testing.assert_close(interval.hi, corners.amax(0))


def test_one_product_by_hand():
    # z0 z1 on [1, 3] x [2, 4] is at least 2
    model = nn.Sequential(Calls(lambda z: z[:, :1] * z[:, 1:]), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.zero_()
    x, y = torch.tensor([[2.0, 3.0]]).double(), torch.tensor([0])
    bound = margin_bounds(model, x, y, ThreatModel("linf", 1.0), method="ibp")
    assert bound[0, 1].item() == pytest.approx(2.0, abs=1e-9)


def test_softmax_is_within_0_and_1_and_exact_for_two_entries():
    # softmax of two entries is a sigmoid of their difference, which is monotone
    model = nn.Sequential(Calls(lambda z: z.softmax(1))).double()
    x = torch.tensor([[0.3, -0.4], [9.0, 1.0]]).double()
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.5), method="crown-ibp")
    difference = x[:, 0] - x[:, 1]
    assert bool((lower[:, 0] <= (difference - 1).sigmoid()).all())
    assert bool((upper[:, 0] >= (difference + 1).sigmoid()).all())
    torch.testing.assert_close(lower[:, 0], (difference - 1).sigmoid(), rtol=0, atol=1e-9)
    torch.testing.assert_close(upper[:, 0], (difference + 1).sigmoid(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2}]
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_are_exact(dims, options):
    torch.manual_seed(0)
    conv = getattr(nn, f"ConvTranspose{dims}d")(2, 4, 3, **options)
    x = torch.randn(2, 2, *(3, 2, 2)[:dims])
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(conv(x).flatten(1).shape[1], 2)).double()
    x, y = x.double(), torch.tensor([0, 1])
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    slope = (jacobian[:, 0] - jacobian[:, 1]).flatten(1)
    lead = (model(x)[:, 0] - model(x)[:, 1]).detach()
    for norm, dual in (("linf", 1), ("l2", 2)):
        bound = margin_bounds(model, x, y, ThreatModel(norm, 0.2), method="crown")
        got = torch.stack((bound[0, 1], bound[1, 0]))
        exact = torch.stack((lead[0], -lead[1])) - 0.2 * slope.norm(dual, dim=1)
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-9)


def test_masks_of_attention():
    class Masked(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.layer, self.mask = nn.MultiheadAttention(4, 2, batch_first=True), mask

        def forward(self, x):
            z, weights = self.layer(x, x, x, attn_mask=self.mask)
            return (z.sum(1) + weights[:, 1]).flatten(1)[:, :4]

    future = torch.ones(4, 4).triu(1).bool()
    x = torch.randn(3, 4, 4)
    for mask in (
        None,
        future,
        torch.zeros(4, 4).masked_fill(future, -torch.inf),
        torch.randn(4, 4),
    ):
        torch.manual_seed(0)
        model = Masked(mask).eval()
        lower, upper = output_bounds(model, x, POINT)
        torch.testing.assert_close(lower, model(x).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(upper, model(x).double(), rtol=0, atol=1e-4)
        lower, upper = output_bounds(model, x, ThreatModel("linf", 0.1))
        for _ in range(20):
            out = model(x + 0.1 * torch.randn_like(x).sign()).double()
            assert bool(((lower <= out) & (out <= upper)).all())


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("model", "shape", "named"),
    [
        (nn.MultiheadAttention(4, 1), (2, 3, 4), "batch_first=False"),
        (nn.LSTM(4, 2), (2, 3, 4), "LSTM .module 'layer'.: batch_first=False"),
        (nn.LSTM(4, 2, proj_size=1, batch_first=True), (2, 3, 4), "proj_size=1"),
        (nn.MultiheadAttention(4, 1, batch_first=True, add_bias_kv=True), (2, 3, 4), "bias_k"),
        (nn.ConvTranspose1d(1, 2, 3, padding_mode="zeros"), (2, 3, 4), "use of ConvTranspose1d"),
    ],
)
def test_what_is_not_supported_is_named_with_its_place(model, shape, named):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            z = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
            out = self.layer(*z)
            return (out[0] if isinstance(out, tuple) else out).flatten(1)

    with pytest.raises(ValueError, match=named):
        margin_bounds(Holder().eval(), torch.zeros(shape), torch.zeros(2).long(), POINT)


def test_a_view_in_another_order_is_not_mistaken_for_the_value():
    def swapped(z):
        square = z.unflatten(1, (2, 2))
        other = square.transpose(1, 2)
        F.relu(square, inplace=True)
        return other.flatten(1)

    model = nn.Sequential(nn.Linear(4, 4), Calls(swapped))
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="changes a value in place"):
        output_bounds(model, x, POINT)


def test_attention_of_many_heads_and_a_float32_network():
    torch.manual_seed(0)
    model = Attention(heads=4).eval()
    x = torch.randn(4, 12)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 1e-4))
    assert bool(((lower <= model(x).double()) & (model(x).double() <= upper)).all())
    assert float((upper - lower).max()) < 0.05
