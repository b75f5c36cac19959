"""Tracing: what is understood, and refusals that say what and where."""

import pytest
import torch
from bounds_nets import random_net
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from attacks import ThreatModel
from robustprune.bounds import (
    certified,
    certified_radius,
    interval_margins,
    margin_bounds,
    output_bounds,
    trace,
)
from robustprune.models import ModelInputs, build_model
from robustprune.sparsity import MaskSet, apply_masks, bake, maskable_layers

THREAT = ThreatModel("linf", 0.05)


class Calls(nn.Module):
    """A linear layer, then any function."""

    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x))


def bound(model, shape=(2, 4)):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return margin_bounds(model, x, torch.zeros(len(x), dtype=torch.long), THREAT)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.GLU()), r"GLU \(module '1'\); supported are Linear"),
        (nn.Sequential(nn.Sequential(nn.GroupNorm(1, 4))), "GroupNorm .module '0.0'"),
        (Calls(lambda z: z.logsumexp(1)), "'logsumexp' .in the model's forward"),
        (nn.Sequential(Calls(torch.sin)), "'sin' .in module '0'"),
        (Calls(lambda z: z * z[:, :1]), r"shapes \(6,\) and \(1,\); bring both to one shape"),
        (Calls(lambda z: z**3), "a power other than the square"),
        (Calls(lambda z: z.softmax(0)), "softmax along dim=0"),
        (Calls(lambda z: z[:1]), "takes some of the examples; begin it with ':'"),
        (Calls(lambda z: z[:, ::2]), "with a step"),
        (Calls(lambda z: z.clamp(z)), "limits that are tensors"),
        (Calls(lambda z: z.clamp(2, 1)), "limits 2.0 and 1.0"),
        (Calls(lambda z: F.elu(z, -1.0)), "an ELU with alpha=-1.0"),
        (Calls(lambda z: z.permute(1, 0)), "the batch dimension moves"),
        (Calls(lambda z: z @ z.unsqueeze(1)), r"shapes \(6,\) and \(1, 6\)"),
        (Calls(lambda z: z / z.sum(1, keepdim=True)), "depends on the input"),
        (Calls(lambda z: z.mean(0, keepdim=True)), "batch dimension"),
        (Calls(lambda z: z.reshape(-1, 3)), "mixes examples"),
        (Calls(lambda z: F.dropout(z, 0.5, training=True)), "stays on in eval mode"),
        (Calls(lambda z: F.leaky_relu(z, -0.5)), "slope -0.5"),
        (Calls(lambda z: torch.cat((z, z), dim=0)), "dim=0"),
        (Calls(lambda z: z + torch.ones(7, 1, 6)), "constant of shape"),
        (Calls(lambda z: z if z.sum() > 0 else -z), "cannot trace Calls"),
        (Calls(lambda z: {"scores": z}), "returned no logits that depend"),
        (Calls(lambda z: torch.zeros(2, 3)), "returned no logits that depend"),
        (Calls(lambda z: z.unsqueeze(1)), r"logits of shape \(N, C\)"),
        (Calls(lambda z: z.T), "attribute 'T'"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), "running"),
    ],
)
def test_refused_by_name(model, named):
    with pytest.raises(ValueError, match=named):
        bound(model)


def test_inputs_are_checked():
    model, x, y = random_net("mlp", 0)
    broken = x.clone()
    broken[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        margin_bounds(model, broken, y, THREAT)
    with pytest.raises(ValueError, match="outside bounds"):
        certified(model, x + 1, y, ThreatModel("linf", 0.1, (0.0, 1.0)))
    with pytest.raises(ValueError, match="method='kraken' is not known; choose one of ibp"):
        margin_bounds(model, x, y, THREAT, method="kraken")
    with pytest.raises(ValueError, match="labels range over"):
        margin_bounds(model, x, y + 3, THREAT)
    with pytest.raises(ValueError, match="eps holds 2 values for 3 examples"):
        margin_bounds(model, x, y, ThreatModel("l2", torch.ones(2)))
    with pytest.raises(ValueError, match="batch_size=0"):
        margin_bounds(model, x, y, THREAT, batch_size=0)
    with pytest.raises(ValueError, match="eps_max=-1"):
        certified_radius(model, x, y, eps_max=-1)
    with pytest.raises(ValueError, match=r"nn\.Module"):
        margin_bounds(lambda z: z, x, y, THREAT)


def test_infinite_weights_are_refused():
    model, x, y = random_net("mlp", 0)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"'1.weight' holds infinity or NaN"):
        margin_bounds(model, x, y, THREAT)


def shared_memory(z):
    kept = F.dropout(z, training=False)  # the same memory
    F.relu(z, inplace=True)
    return 2 * kept + z


def added_to(z):
    out = z - 1
    total = out
    total += F.tanh(z)
    return out * 3 + total.relu()


@pytest.mark.parametrize("function", [shared_memory, added_to])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
def test_an_overwritten_value_means_the_new_one(function, shift):
    torch.manual_seed(0)
    model = Calls(function)
    with torch.no_grad():
        model.fc.weight.mul_(0.1)
        model.fc.bias.fill_(shift)
    x = torch.randn(5, 4)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
    torch.testing.assert_close(lower, model(x).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(upper, model(x).double(), rtol=0, atol=1e-4)


class Counts(nn.Linear):
    def __init__(self, count):
        super().__init__(4, 3)
        self.register_buffer("seen", torch.zeros(3))
        self.count = count

    def forward(self, x):
        self.stash = x
        return super().forward(x) + self.count(self)


def added(layer):
    seen = layer.seen
    seen += 1.0
    return seen


def assigned(layer):
    layer.seen = layer.seen + 1.0
    return layer.seen


def test_a_change_in_place_that_cannot_be_followed_is_refused():
    def overlapping(z):
        view = z.unsqueeze(1)
        F.relu(z, inplace=True)
        return view.squeeze(1)

    with pytest.raises(ValueError, match="changes a value in place"):
        bound(Calls(overlapping))
    for count, message in ((added, "changes a constant in place"), (assigned, "buffer 'seen'")):
        model = Counts(count)
        with pytest.raises(ValueError, match=message):
            bound(model)
        assert model.seen.tolist() == [0, 0, 0]
        assert not hasattr(model, "stash")


def test_parametrized_layers_follow_their_masks_and_equal_baked_ones():
    torch.manual_seed(0)
    model = build_model("fcn", ModelInputs((1, 16), 3), options={"widths": (4, 6, 4)}).eval()
    x = torch.randn(4, 1, 16)
    y = model(x).argmax(1)
    graph = trace(model)
    dense = margin_bounds(graph, x, y, THREAT)
    layers = maskable_layers(model)
    apply_masks(model, MaskSet({n: torch.rand(m.weight.shape) < 0.5 for n, m in layers.items()}))
    masked = margin_bounds(graph, x, y, THREAT)
    assert not torch.equal(masked, dense)
    assert torch.equal(masked, margin_bounds(model, x, y, THREAT))
    assert torch.equal(masked, margin_bounds(bake(model), x, y, THREAT))


def test_a_parametrized_module_of_ones_own_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return F.linear(x, self.weight)

    model = nn.Sequential(Own())
    bound(model)
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"module '0' .* is parametrized and no standard layer"):
        bound(model)


def test_a_single_layer_and_a_subclass_are_understood():
    class Plain(nn.Linear):
        pass

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    for kind, factor in ((nn.Linear, 1), (Plain, 1), (Doubled, 2)):
        model = kind(4, 2).double()
        x = torch.randn(3, 4).double()
        lower, upper = output_bounds(model, x, THREAT)
        reach = 0.05 * factor * model.weight.abs().sum(1)
        torch.testing.assert_close(lower, model(x) - reach)
        torch.testing.assert_close(upper, model(x) + reach)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("mode", ["zeros", "circular", "replicate"])
def test_padding_to_the_same_size_with_an_even_kernel(mode):
    torch.manual_seed(0)
    conv = nn.Conv1d(1, 2, 4, padding="same", padding_mode=mode)
    model = nn.Sequential(conv, nn.Flatten()).double()
    x = torch.randn(3, 1, 5).double()
    lower, _ = output_bounds(model, x, THREAT)
    rows = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    torch.testing.assert_close(lower, model(x) - 0.05 * rows.abs().flatten(2).sum(2))


def test_modes_and_graph_are_left_alone():
    model, x, y = random_net("residual", 0)
    model.train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    margin_bounds(model, x, y, THREAT, method="alpha-crown", steps=2)
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with torch.inference_mode():
        assert not margin_bounds(model, x, y, THREAT, method="alpha-crown", steps=2).requires_grad


def test_empty_batch():
    model, x, y = random_net("conv2d", 0)
    for method in ("ibp", "alpha-crown"):
        assert margin_bounds(model, x[:0], y[:0], THREAT, method=method).shape == (0, 2)
    assert certified(model, x[:0], y[:0], THREAT).shape == (0,)
    assert certified_radius(model, x[:0], y[:0]).shape == (0,)
    assert interval_margins(model, x[:0], y[:0], THREAT).shape == (0, 2)
