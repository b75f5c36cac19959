"""Against exact answers: rational arithmetic, activation patterns, the LP relaxation, by hand."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from attacks import ThreatModel
from robustprune.bounds import METHODS, margin_bounds, output_bounds, trace
from robustprune.bounds.activations import Rectifier, Sigmoidal
from robustprune.bounds.algebra import Interval
from robustprune.bounds.alpha import optimised
from robustprune.bounds.input_set import input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import least, tightened, tightened_all
from robustprune.bounds.pooling import MaxPool, Windows
from robustprune.bounds.precision import Precision


def tiny(seed, hidden=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 2)).double()
        return model, torch.randn(1, 2).double()


def layers(model):
    first, last = model[0], model[2]
    return [t.detach().numpy() for t in (first.weight, first.bias, last.weight, last.bias)]


def smallest_margin(model, x, y, eps):
    """min z_y − z_other over the L∞ ball: one LP for each activation pattern."""
    W, b, V, c = layers(model)
    row, const = V[y] - V[1 - y], c[y] - c[1 - y]
    box = [(v - eps, v + eps) for v in x[0].tolist()]
    values = []
    for pattern in itertools.product((0, 1), repeat=len(b)):
        on = np.array(pattern)
        sign = np.where(on, -1.0, 1.0)  # on: −(Wx + b) ≤ 0
        found = linprog((row * on) @ W, A_ub=sign[:, None] * W, b_ub=-sign * b, bounds=box)
        if found.status == 0:
            values.append(found.fun + (row * on) @ b + const)
    return min(values)


def smallest_margin_of_triangles(model, x, y, eps):
    """The same over the convex hull of each neuron: the best that any choice of lines can give."""
    W, b, V, c = layers(model)
    row, const, n = V[y] - V[1 - y], c[y] - c[1 - y], len(b)
    centre = W @ x[0].numpy() + b
    lo, hi = centre - eps * np.abs(W).sum(1), centre + eps * np.abs(W).sum(1)
    cost = np.concatenate((np.zeros(2), row))
    rows, limits = [], []
    box = [(v - eps, v + eps) for v in x[0].tolist()]
    for i in range(n):
        unit = np.eye(n)[i]
        rows.append(np.concatenate((W[i], -unit)))  # h ≥ Wx + b
        limits.append(-b[i])
        slope = 1.0 if lo[i] >= 0 else 0.0 if hi[i] <= 0 else hi[i] / (hi[i] - lo[i])
        shift = -slope * lo[i] if lo[i] < 0 < hi[i] else 0.0
        rows.append(np.concatenate((-slope * W[i], unit)))  # h under the chord
        limits.append(slope * b[i] + shift)
        box.append((0, None))
    return linprog(cost, A_ub=np.array(rows), b_ub=np.array(limits), bounds=box).fun + const


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("eps", [0.2, 1.0])
def test_tiny_networks_against_their_patterns(seed, eps):
    model, x = tiny(seed)
    y = model(x).argmax(1)
    exact = smallest_margin(model, x, y.item(), eps)
    for method in METHODS:
        bound = margin_bounds(model, x, y, ThreatModel("linf", eps), method=method).amin().item()
        assert bound <= exact + 1e-9, method


def test_optimised_slopes_reach_the_lp_relaxation():
    gaps = []
    for seed in range(8):
        model, x = tiny(seed, hidden=6)
        y = model(x).argmax(1)
        threat = ThreatModel("linf", 1.0)
        lp = smallest_margin_of_triangles(model, x, y.item(), 1.0)
        bound = margin_bounds(model, x, y, threat, method="alpha-crown", steps=150).amin().item()
        start = margin_bounds(model, x, y, threat).amin().item()
        assert start <= bound <= lp + 1e-9
        assert bound >= lp - 2e-2
        gaps.append(lp - start)
    assert max(gaps) > 0.05


def around(model, x, eps):
    precision = Precision.of(x.dtype)
    program = trace(model).program(x, precision=precision)
    inputs = input_set(x, ThreatModel("linf", eps), x.dtype, precision)
    return sweep(program, inputs, exact=tightened_all, tighten=tightened)


def test_crown_by_hand():
    # z₀ − z₁ = relu(x) − relu(−x) = x on [−1, 2].  CROWN: relu(x) ≥ x, as 2 > 1, and
    # relu(−x) ≤ (−x + 2)/3, so x + x/3 − 2/3, which is −2 at x = −1; α = 0 gives −1 there.
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Identity()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.zero_()
    x = torch.tensor([[0.5]]).double()
    with torch.no_grad():
        known = around(model, x, 1.5)
        A = torch.tensor([[[1.0, -1.0]]]).double()
        crown = least(known, A, known.program.output)
        best = optimised(known, A, crown, steps=30)
    assert crown.item() == pytest.approx(-2, abs=1e-12)
    assert best.item() == pytest.approx(-1, abs=1e-2)
    assert best.item() <= -1


def test_crown_is_exact_where_all_chords_end_at_one_corner():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[-1.0, -2, -3], [0, 0, 0]]))
        model[2].bias.copy_(torch.tensor([9.0, 0]))
    x = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64)
    bound = margin_bounds(model, x, torch.tensor([0]), ThreatModel("linf", 0.5))
    assert bound[0, 1].item() == pytest.approx(9 - 0.6 - 2 * 0.3 - 3 * 0.8, abs=1e-11)


def rational(model, point):
    """The network's logits without any rounding."""
    z = [Fraction(v) for v in point]
    for layer in model:
        if isinstance(layer, nn.ReLU):
            z = [max(v, Fraction(0)) for v in z]
        else:
            z = [
                sum((Fraction(w) * v for w, v in zip(row, z, strict=True)), Fraction(b))
                for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
    return z


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_logits_at_corners_are_inside(method, dtype):
    # huge weights that cancel: float64 has lost the difference, rounding errors decide the sign
    torch.manual_seed(0)
    hits = 0
    for _ in range(25):
        first = nn.Linear(8, 2, dtype=dtype)
        with torch.no_grad():
            first.weight[:, ::2] *= 1e9
            first.weight[:, 1::2] = -first.weight[:, ::2] * (1 + 1e-7)
        model = nn.Sequential(first, nn.ReLU(), nn.Linear(2, 2, dtype=dtype))
        x, eps = torch.full((1, 8), 0.1, dtype=dtype), 0.1
        lower, upper = output_bounds(model, x, ThreatModel("linf", eps), method=method)
        naive = model.double()(x.double())
        for signs in itertools.product((-1, 1), repeat=3):
            steps = [Fraction(signs[i % 3]) * Fraction(eps) for i in range(8)]
            point = [Fraction(v) + s for v, s in zip(x[0].tolist(), steps, strict=True)]
            logits = rational(model, point)
            for j in range(2):
                assert Fraction(lower[0, j].item()) <= logits[j] <= Fraction(upper[0, j].item())
        exact = rational(model, x[0].tolist())
        hits += any(Fraction(naive[0, j].item()) != exact[j] for j in range(2))
    assert hits > 5  # rounding was at work


def product(left, right):
    return [
        [
            sum(a * b for a, b in zip(row, column, strict=True))
            for column in zip(*right, strict=True)
        ]
        for row in left
    ]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_bound_is_below_the_exact_minimum_whatever_cancels(method, depth):
    torch.manual_seed(depth)
    eps, above = 0.3, 0
    for _ in range(30):
        model = nn.Sequential(*(nn.Linear(7, 7) for _ in range(depth - 1)), nn.Linear(7, 2))
        model = model.double()
        with torch.no_grad():
            for layer in model:
                layer.weight.mul_(1e5)
        x = torch.randn(1, 7).double()
        threat, y = ThreatModel("linf", eps), torch.tensor([0])
        bound = margin_bounds(model, x, y, threat, method=method)[0, 1].item()
        normal = [[Fraction(1), Fraction(-1)]]
        for layer in reversed(model):
            normal = product(normal, [[Fraction(w) for w in row] for row in layer.weight.tolist()])
        centre = rational(model, x[0].tolist())
        exact = centre[0] - centre[1] - Fraction(eps) * sum(abs(n) for n in normal[0])
        assert Fraction(bound) <= exact
        assert float(exact) - bound < 1e-9 * max(1, abs(float(exact)))
        with torch.no_grad():  # what float64 gives without paying for rounding
            rows = torch.tensor([[1.0, -1.0]]).double()
            for layer in reversed(model):
                rows = rows @ layer.weight
            logits = model(x)[0]
            naive = (logits[0] - logits[1] - eps * rows.abs().sum()).item()
        above += Fraction(naive) > exact
    assert above > 5


@pytest.mark.parametrize("op", [Sigmoidal(), Sigmoidal(sigmoid=True), Rectifier(), Rectifier(0.1)])
def test_lines_enclose_the_curve(op):
    ends = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)).double() * 3
    ends[:, :40] *= 1e-6
    ends[:, 40:80] *= 10
    ends[1, 80:90] = ends[0, 80:90]
    lo, hi = ends.sort(0).values
    box = Interval(lo[:, None], hi[:, None])
    default = op.relax(box)
    z = lo + (hi - lo) * torch.linspace(0, 1, 301).double()[:, None]
    for choice in (None, torch.rand_like(default.choice) * 8 - 4):
        lines = op.relax(box, choice)
        below = lines.lower_slope[:, 0, 0] * z
        if lines.lower_shift is not None:
            below = below + lines.lower_shift[:, 0, 0]
        above = lines.upper_slope[:, 0, 0] * z + lines.upper_shift[:, 0, 0]
        curve = op.clean(z)
        assert bool((below <= curve + 1e-14 * z.abs()).all())
        assert bool((curve <= above + 1e-14 * z.abs()).all())
        if choice is None:  # and touch it, or the lines would be needlessly far away
            assert ((curve - below).amin(0) < 1e-3 * (1 + hi - lo)).all()


def test_planes_enclose_the_maximum():
    pool = MaxPool(Windows((3,), (2,), (1,), (1,)), (2, 9), (2, 5), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, 30, 2, 9, generator=generator).double().sort(0).values
    box = Interval(*ends)
    planes = pool.relax(box)
    for _ in range(200):
        z = box.lo + (box.hi - box.lo) * torch.rand(box.lo.shape, generator=generator).double()
        best = nn.functional.max_pool1d(z, 3, stride=2, padding=1)
        assert bool((z.gather(2, planes.lower_index) <= best).all())
        above = planes.upper_slope * z.gather(2, planes.upper_index) + planes.upper_shift
        assert bool((best <= above).all())
