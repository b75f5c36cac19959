"""Memory is bounded whatever the number of classes; long work tells how far it has come."""

import itertools

import pytest
import torch
from bounds_nets import NETS, random_net
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attacks import ThreatModel
from robustprune.bounds import (
    METHODS,
    certified,
    certified_radius,
    linear,
    margin_bounds,
    output_bounds,
)

THREAT = ThreatModel("linf", 0.02)


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, torch.Tensor):
                owned = part.untyped_storage().nbytes() // part.element_size()
                self.entries = max(self.entries, owned)
        return out


def many_classes(classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.Tanh())
    model.append(nn.Linear(10, classes))
    x = torch.rand(3, 6)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_exceeds_the_cap_and_nothing_changes(method, monkeypatch):
    classes = 12 if method == "alpha-crown" else 30  # it goes row by row
    model, x, y = many_classes(classes)
    cap = classes**2  # what one example's margins take
    found = []
    for chunk in (cap, 2**24):
        monkeypatch.setattr(linear, "CHUNK", chunk)
        with Largest() as largest:
            margins = margin_bounds(model, x, y, THREAT, method=method, steps=1)
            lower, upper = output_bounds(model, x, THREAT, method=method, steps=1)
        found.append((margins, lower, upper, largest.entries))
    for small, large in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(small, large, rtol=0, atol=1e-12)
    assert found[0][3] <= 2 * cap  # the coefficients of all logits, both signs
    assert found[1][3] > 2 * cap


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("function", [margin_bounds, certified, certified_radius])
def test_progress_rises_to_the_end(name, function):
    model, x, y = random_net(name, 0, examples=3)
    shares: list[float] = []
    options = {"rounds": 2} if function is certified_radius else {"threat": THREAT}
    function(model, x, y, method="crown", batch_size=2, on_progress=shares.append, **options)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert shares[0] > 0


def test_progress_is_spread_over_the_work(monkeypatch):
    monkeypatch.setattr(linear, "ROWS", 16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    model += nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(2, 1, 14, 14)
    y = model(x).argmax(1)
    for method in ("crown", "alpha-crown"):
        shares = [0.0]
        wide = ThreatModel("linf", 0.5)
        margin_bounds(model, x, y, wide, method=method, steps=3, on_progress=shares.append)
        steps = [b - a for a, b in itertools.pairwise(shares)]
        assert len(steps) > 20
        assert max(steps) < 0.3
