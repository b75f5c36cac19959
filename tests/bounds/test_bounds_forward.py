"""Bounds carried forward are those carried backward; the search finds where margins end."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.bounds import forward as fwd
from robustprune.bounds import margin_bounds
from robustprune.bounds.convolution import transposed
from robustprune.bounds.input_set import input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import tightened_all
from robustprune.bounds.margins import ready
from robustprune.bounds.root import Search


def network(activation):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 6, 3, padding=1),
        nn.BatchNorm1d(6),
        activation,
        nn.Conv1d(6, 9, 3, padding=1, stride=2),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 3),
    ).eval()
    for layer in (model[1], model[4]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return model


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid()])
def test_forward_is_backward(activation, norm, bounds):
    model = network(activation)
    x = torch.randn(4, 1, 12).clamp(-1, 1)
    eps = torch.tensor([0.0, 0.01, 0.2, 1.0]).double()
    with ready(model, x) as program:
        inputs = input_set(x, ThreatModel(norm, eps, bounds), program.dtype, program.precision)
        known = sweep(program, inputs, exact=tightened_all)
        position = 5
        ahead, back = fwd.forward(known, position), tightened_all(known, position)
        assert program.nodes[position].shape == (9, 6)
        # rounding errors of the network are added up by another route: tiny, and in both cases
        torch.testing.assert_close(ahead.lo, back.lo, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ahead.hi, back.hi, rtol=1e-5, atol=1e-5)
        noise = torch.randn(200, *x.shape).sign() * eps.reshape(-1, 1, 1) * torch.rand(200, 1, 1, 1)
        inside = noise if norm == "linf" else noise / 12
        points = (x.double() + inside).clamp(*(bounds or (None, None))) if bounds else x + inside
        values = program.values(points.double().flatten(0, 1))[position]
        values = values.reshape(200, 4, 9, 6)
        assert bool(((ahead.lo <= values) & (values <= ahead.hi)).all())
        assert bool((values.amax(0) > ahead.lo + 0.2 * (ahead.hi - ahead.lo)).any())


def test_forward_is_used_only_where_it_is_as_tight_and_the_input_small(monkeypatch):
    with ready(network(nn.ReLU()), torch.zeros(1, 1, 12)) as program:
        assert not fwd.pays(program, 5)  # 54 neurons for 12 inputs
        monkeypatch.setattr(fwd, "ENTRIES", 4)
        assert fwd.pays(program, 5)
        assert not fwd.pays(program, 2)  # before the first nonlinearity
        assert not fwd.pays(program, 8)  # behind two


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_transposed_convolution_of_small_maps(taps, stride, dilation):
    for dims, reference in ((1, F.conv_transpose1d), (2, F.conv_transpose2d)):
        weight = torch.randn(4, 3, *(taps,) * dims).double()
        A = torch.randn(5, 4, *(6, 3)[:dims]).double()
        got = transposed(A, weight, (stride,) * dims, (dilation,) * dims)
        exact = reference(A, weight, stride=stride, dilation=dilation)
        torch.testing.assert_close(got, exact)


def run(margin, first, limit=torch.inf, tolerance=1e-3, rounds=12, slope=0.0):
    start, slope = margin(torch.zeros_like(first)), torch.full_like(first, slope)
    search = Search.begin(start, slope, first, torch.full_like(first, limit), tolerance, 2.0)
    for number in range(rounds):
        rows = search.open()
        if len(rows) == 0:
            return search.radius, number
        search.tried(rows, margin(search.trial)[rows])
    return search.radius, rounds


@pytest.mark.parametrize("beta", [0.7, 1.0, 2.5, 5.0])
def test_the_search_finds_the_root_in_few_trials(beta):
    root = torch.tensor([1e-4, 0.03, 1.0, 70.0]).double()
    radius, trials = run(lambda eps: 3 - 3 * (eps / root) ** beta, torch.full_like(root, 0.1))
    assert bool((radius <= root).all())
    assert bool((radius >= root * (1 - 1e-3)).all())
    assert trials <= 10
    many = torch.rand(500).double() + 0.5
    radius, trials = run(lambda eps: 1 - (eps / many) ** beta, torch.ones_like(many))
    assert trials <= 5
    assert bool((radius >= many * (1 - 3e-3)).all())


@pytest.mark.parametrize("slope", [0.2, 1.0, 5.0])
def test_the_search_knows_the_linear_part(slope):
    """Also where the stated slope is not that of the margin, or is larger than all of the fall."""
    for true in (0.0, slope, 0.5 * slope):
        root = torch.tensor([0.01, 0.5, 3.0]).double()

        def margin(eps, true=true, root=root):
            return 1 + true * root - true * eps - (eps / root) ** 3

        radius, trials = run(margin, torch.full_like(root, 0.1), slope=slope)
        assert bool((radius <= root).all())
        assert bool((radius >= root * (1 - 1e-3)).all())
        assert trials <= 10


def test_the_search_ends_with_jumps_overflow_and_limits():
    one = torch.ones(3).double()
    jump, _ = run(lambda eps: torch.where(eps < 0.3, 1.0, -torch.inf).double(), one, rounds=40)
    torch.testing.assert_close(jump, 0.3 * one, rtol=2e-3, atol=0)
    assert bool((jump < 0.3).all())
    flat, trials = run(lambda eps: torch.ones_like(eps), one, limit=20.0)
    assert (flat.tolist(), trials) == ([20.0] * 3, 4)
    assert run(lambda eps: -torch.ones_like(eps), one)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 3, 1), (2, 3, 0), (2, 2, 1), (3, 1, 0), (5, 4, 1)]
)
def test_one_output_position_is_bounded_as_exactly_as_several(kernel, stride, padding, size):
    """The kernel may be as long as the input and still not lie on it."""
    torch.manual_seed(0)
    conv = nn.Conv1d(2, 4, kernel, stride=stride, padding=padding)
    x = torch.randn(3, 2, size)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(4 * conv(x).shape[2], 2)).eval()
    y = torch.zeros(3, dtype=torch.long)
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    slope = (jacobian[:, 0] - jacobian[:, 1]).flatten(1)
    z = model(x).detach()
    for norm, dual in (("linf", 1), ("l2", 2)):
        got = margin_bounds(model, x, y, ThreatModel(norm, 0.3))[:, 1]
        exact = z[:, 0] - z[:, 1] - 0.3 * slope.norm(dual, dim=1)
        torch.testing.assert_close(got, exact.double(), rtol=1e-4, atol=1e-4)
    # the input of a ReLU is bounded neuron by neuron
    turned = nn.Sequential(conv, nn.ReLU(), *model[1:])
    with ready(turned, x) as program:
        inputs = input_set(x, ThreatModel("l2", 0.3), program.dtype, program.precision)
        box = sweep(program, inputs, exact=tightened_all).intervals[1]
    rows = torch.autograd.functional.jacobian(lambda z: conv(z).sum(0), x).movedim(2, 0)
    reach = 0.3 * rows.flatten(3).norm(dim=3)
    torch.testing.assert_close(box.hi, (conv(x) + reach).detach().double(), rtol=1e-4, atol=1e-4)
