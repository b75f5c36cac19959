"""Forward passes that are not needed, and the layout of the others: no result may change."""

import pytest
import torch
from torch import nn

from attacks import FAB, AutoAttack, Square, ThreatModel
from attacks import square_windows as windows
from attacks.apgd import APGD, ascend
from attacks.layout import in_layout, layout_for
from attacks.losses import LOSSES
from attacks.network import logits_of


class Asked:
    """A network that counts the examples it is asked about, and remembers their points."""

    def __init__(self, model):
        self.model, self.count, self.points = model, 0, []

    def __call__(self, x):
        self.count += len(x)
        self.points.extend(x.detach().clone())
        return self.model(x)


def images(shape, examples=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(examples, *shape, generator=generator).double()


def curved(shape, classes=3, seed=0):
    """A small network with several local optima in the cube."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = torch.Size(shape).numel()
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, classes))
    return model.double().eval()


def always_asking(monkeypatch):
    monkeypatch.setattr(windows, "_TRIALS", 10**9)


@pytest.mark.parametrize("shape", [(1, 20), (3, 6, 6), (4, 5), (6, 9), (1, 4, 4, 4)])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_square_without_known_answers_makes_the_same_moves(monkeypatch, shape, bounds):
    model, x = curved(shape), images(shape)
    y = model(x).argmax(1)
    attack = Square(ThreatModel("linf", 0.02, bounds), queries=300, share=0.3, seed=3)
    few = Asked(model)
    quick = attack(few, x, y)
    always_asking(monkeypatch)
    everything = Asked(model)
    assert torch.equal(quick, attack(everything, x, y))
    assert (model(quick).argmax(1) == y).any()
    assert few.count < (0.995 if shape[0] > 4 else 0.95) * everything.count


def test_square_asks_no_point_twice_once_the_network_is_known_to_answer_alike():
    model, x = curved((1, 30)), images((1, 30), examples=1)
    asked = Asked(model)
    Square(ThreatModel("linf", 1e-3), queries=1200, share=0.3, seed=0)(asked, x, model(x).argmax(1))
    late = [tuple(point.flatten().tolist()) for point in asked.points[60:]]
    assert 60 < len(late) < 600
    assert len(set(late)) >= 0.9 * len(late)  # a point that was left may be proposed once more


@pytest.mark.parametrize("kind", ["random", "batch"])
def test_square_asks_everything_where_an_answer_depends_on_more_than_the_point(kind):
    model, x = curved((1, 20)), images((1, 20))
    generator = torch.Generator().manual_seed(0)

    def noisy(z):
        return model(z) + 0.01 * torch.randn(len(z), 3, generator=generator).double()

    def joint(z):
        return model(z) + 100 * z.mean() * model(z).roll(1, 1)

    y = joint(x).argmax(1) if kind == "batch" else model(x).argmax(1)
    asked = Asked(noisy if kind == "random" else joint)
    eps = 0.02 if kind == "batch" else 1e-4
    x_adv = Square(ThreatModel("linf", eps), queries=100, share=0.2, seed=0)(asked, x, y)
    standing = (joint(x_adv) if kind == "batch" else model(x_adv)).argmax(1) == y
    assert standing.sum() > 6
    assert asked.count >= 95 * standing.sum()


class Reads(nn.Module):
    """A convolution, and features that are read in one of several ways."""

    def __init__(self, how, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.how = nn.Conv2d(channels, 4, 3), nn.Linear(4 * 6 * 6, 5), how

    def forward(self, x):
        z = self.conv(x).relu()
        if self.how == "view":
            return self.head(z.view(len(z), -1))
        if self.how == "memory":  # the numbers as they lie in memory
            return self.head(z.as_strided((len(z), z[0].numel()), (z[0].numel(), 1)))
        return self.head(z.flatten(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["flatten", "view", "memory"])
def test_the_layout_is_one_in_which_the_network_answers_alike(how, channels):
    model, x = Reads(how, channels).eval(), images((channels, 8, 8)).float()
    y = model(x).argmax(1)
    layout = layout_for(model, x, y)
    assert layout == (torch.channels_last if how == "flatten" else torch.contiguous_format)
    fast = in_layout(model, layout)
    assert torch.allclose(logits_of(fast, x), model(x), atol=1e-5)
    seen = []
    model.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].stride(1)))
    protocol = AutoAttack(ThreatModel("linf", 0.02, (0.0, 1.0)), steps=3, queries=9)
    x_adv = protocol(model, x, y)
    if how == "flatten":
        assert seen.count(1) > 0.5 * len(seen)
    else:
        assert seen.count(1) <= 1  # the pass that shows it
    assert x_adv.is_contiguous()
    assert protocol.threat.distance(x, x_adv).max().item() <= 0.02
    callable_alone = protocol(lambda z: model(z), x, y)  # no module: as it is
    assert torch.equal(model(x_adv).argmax(1) == y, model(callable_alone).argmax(1) == y)


def test_other_inputs_keep_their_layout(trained):
    model, x, y = trained
    assert layout_for(model, x, y) == torch.contiguous_format
    dense, pixels = curved((3, 4, 4)), images((3, 4, 4))
    assert layout_for(dense, pixels, dense(pixels).argmax(1)) == torch.contiguous_format
    assert layout_for(Reads("flatten"), pixels[:0], y[:0]) == torch.contiguous_format


def test_an_example_is_attacked_in_a_batch_as_it_is_alone():
    """Others leave the batch as they are broken; the steps of those that stay do not change."""
    model, x = curved((2, 9), classes=4), images((2, 9), examples=16)
    y = model(x).argmax(1)
    threat = ThreatModel("linf", 0.12, (0.0, 1.0))
    fab = FAB("linf", steps=15, targets=3, eps=0.12, bounds=(0.0, 1.0))

    def climb(rows):
        some, labels = x[rows], y[rows]
        return ascend(
            model, some, labels, labels, some, threat=threat,
            loss=lambda target: LOSSES["ce"], steps=25, rho=0.75,
        )  # fmt: skip

    together, near = climb(torch.arange(16)), fab(model, x, y)
    assert 0 < together.broken.sum() < 16
    for k in range(16):
        alone = climb(torch.tensor([k]))
        assert alone.broken.item() == together.broken[k].item()
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[k], rtol=0, atol=1e-9)
        torch.testing.assert_close(fab(model, x[[k]], y[[k]])[0], near[k], rtol=0, atol=1e-9)


def test_what_is_certified_is_never_broken_and_costs_no_pass():
    """Linear: r* is known, and everything with r* > ε is certified, though an attack may round."""
    model, x = nn.Linear(8, 3).double(), images((8,), examples=20)
    y = model(x).argmax(1)
    top = model(x).topk(2, dim=1)
    weight = model.weight[top.indices[:, 0]] - model.weight[top.indices[:, 1]]
    r = (top.values[:, 0] - top.values[:, 1]) / weight.abs().sum(1)
    eps = r.median().item()
    asked = Asked(model)
    protocol = AutoAttack(ThreatModel("linf", eps), steps=8, queries=10, targets=1)
    assert isinstance(protocol.attacks()["apgd-ce"], APGD)
    result = protocol.evaluate(asked, x, y, certified=r > eps)
    assert result.robust[r > eps].all()
    assert result.skipped == (r > eps).sum()
    assert torch.equal(result.x_adv[r > eps], x[r > eps])
    certain = {tuple(row.tolist()) for row in x[r > eps]}
    assert sum(tuple(point.tolist()) in certain for point in asked.points) == len(certain)
