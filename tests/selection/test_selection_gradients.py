"""Features, TracIn and steps to the boundary, against explicit computations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks import BandLimited, ThreatModel
from robustprune.models import ModelInputs, build_model
from robustprune.selection import (
    boundary_weights,
    last_linear,
    penultimate_features,
    steps_to_break,
    tracin,
)
from robustprune.sparsity import MaskSet, apply_masks, full_masks


def data(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 10, generator=generator)
    return x, torch.randint(0, 3, (count,), generator=generator)


def network(masked=False):
    torch.manual_seed(0)
    options = {"widths": [4, 3], "kernels": [4, 3]}
    model = build_model("fcn", ModelInputs((2, 10), 3), options=options)
    model(data(16, 5)[0])  # statistics of batch norm other than 0 and 1
    if masked:
        masks = full_masks(model)
        first = next(iter(masks))
        apply_masks(model, MaskSet({**masks, first: torch.rand(masks[first].shape) > 0.5}))
    return model


class Backwards(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(3, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x)).softmax(1)


def test_the_last_linear_is_the_one_called_last():
    model, x = Backwards().train(), torch.randn(5, 4)
    assert last_linear(model, x) == "head"
    torch.testing.assert_close(penultimate_features(model, x, batch_size=2), model.body(x))
    assert model.training
    assert not model.head._forward_pre_hooks
    with pytest.raises(ValueError, match=r"Conv1d calls no nn\.Linear"):
        last_linear(nn.Conv1d(1, 1, 1), torch.randn(1, 1, 3))


def test_penultimate_features_of_a_network_for_series():
    model, (x, _) = network(masked=True), data(5, 0)
    features = penultimate_features(model, x, batch_size=2)
    model.eval()
    assert features.shape == (5, 3)
    torch.testing.assert_close(features, model.blocks(x).mean(2))


def explicit_gradient(model, x, y, names):
    loss = F.cross_entropy(model(x[None]), y[None])
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, [parameters[name] for name in names])
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_tracin_is_the_sum_of_explicit_gradient_products(layers, masked):
    model, pool, validation = network(masked), data(5, 1), data(3, 2)
    checkpoints = []
    for _ in range(2):
        checkpoints.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rates = [0.5, 0.25]
    scores = tracin(
        model,
        pool,
        validation,
        checkpoints=checkpoints,
        learning_rates=rates,
        layers=layers,
        batch_size=2,
    )
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    names = [n for n, _ in model.named_parameters() if layers == "all" or "classifier" in n]
    expected = torch.zeros(5)
    for state, rate in zip(checkpoints, rates, strict=True):
        model.load_state_dict(state)
        own, towards = (
            torch.stack(
                [explicit_gradient(model, x, y, names) for x, y in zip(*examples, strict=True)]
            )
            for examples in (pool, validation)
        )
        expected += rate * own @ towards.mean(0)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


def test_tracin_refusals():
    model, examples = network(), data(3, 0)
    state = model.state_dict()
    with pytest.raises(ValueError, match="1 checkpoints and 2 learning rates"):
        tracin(model, examples, examples, checkpoints=[state], learning_rates=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"not of this model: 1 names differ.*'other'"):
        tracin(
            model,
            examples,
            examples,
            checkpoints=[{**state, "other": torch.zeros(1)}],
            learning_rates=[1.0],
        )
    with pytest.raises(ValueError, match="layers='first' is not known"):
        tracin(model, examples, examples, checkpoints=[state], learning_rates=[1.0], layers="first")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter in layers='last' requires a gradient"):
        tracin(model, examples, examples, checkpoints=[state], learning_rates=[1.0])


def line(x):
    """f(x) = ±x₀, class 0 for x₀ > 0."""
    return torch.stack((x[:, 0], -x[:, 0]), 1)


def test_steps_to_break_count_the_way_to_the_boundary():
    """Steps of 0.1 against x₀ from −0.05, 0.05, 0.25, 0.45 and 5 with ε = 0.4."""
    x = torch.tensor([[-0.05], [0.05], [0.25], [0.45], [5.0]]).double()
    threat = ThreatModel("linf", 0.4)
    y = torch.zeros(5, dtype=torch.long)
    kappa = steps_to_break(line, x, y, threat, steps=4, step_size=0.1)
    assert kappa.tolist() == [0, 1, 3, 4, 4]
    assert steps_to_break(line, x, y, threat, steps=1).tolist() == [0, 1, 1, 1, 1]
    constant = BandLimited("linf", 0.4, low=0, high=0)
    same = steps_to_break(line, x, y, constant, steps=4, step_size=0.1)
    assert torch.equal(same, kappa)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        steps_to_break(line, x, y, threat, steps=0)


def test_boundary_weights_by_hand():
    kappa = torch.tensor([0, 5, 10])
    expected = [(1 + torch.tanh(torch.tensor(v)).item()) / 2 for v in (4.0, -1.0, -6.0)]
    assert boundary_weights(kappa, steps=10).tolist() == pytest.approx(expected)
    assert boundary_weights(torch.tensor([5]), steps=10, lam=0.0).item() == 0.5
