"""Criteria, against derivatives computed in full."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.sparsity import criteria, maskable_layers


def problem() -> tuple[nn.Module, dict[str, nn.Module], list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(7, 3).double(), torch.arange(7) % 3
    return network, maskable_layers(network), [(x[:4], y[:4]), (x[4:], y[4:])]


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def whole(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The loss over all batches at once."""
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return loss(model, x, y)


def flat(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat([score.flatten() for score in scores.values()])


def derivatives(
    network: nn.Module, layers: dict[str, nn.Module], batches: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, gradient and Hessian of the whole loss, over all maskable weights."""
    weights = list(criteria.weights_of(layers).values())
    value = whole(network, batches)
    grads = torch.autograd.grad(value, weights, create_graph=True)
    gradient = torch.cat([grad.flatten() for grad in grads])
    rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in gradient]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return torch.cat([w.detach().flatten() for w in weights]), gradient.detach(), hessian


def test_snip_is_weight_times_gradient() -> None:
    network, layers, batches = problem()
    w, g, _ = derivatives(network, layers, batches)
    assert torch.allclose(flat(criteria.snip(network, layers, batches, loss)), (w * g).abs())


def test_grasp_is_weight_times_hessian_times_gradient() -> None:
    network, layers, batches = problem()
    w, g, h = derivatives(network, layers, batches)
    assert torch.allclose(flat(criteria.grasp(network, layers, batches, loss)), w * (h @ g))


def test_grasp_predicts_what_a_removal_does_to_the_gradient() -> None:
    """‖g‖² after w_i → (1 − t) w_i falls by 2t · score_i to first order."""
    network, layers, batches = problem()
    scores = criteria.grasp(network, layers, batches, loss)
    _, g, _ = derivatives(network, layers, batches)
    name, t = "0.weight", 1e-6
    with torch.no_grad():
        layers[name].weight.view(-1)[5] *= 1 - t
    _, after, _ = derivatives(network, layers, batches)
    fall = float((g**2).sum() - (after**2).sum()) / (2 * t)
    assert fall == pytest.approx(float(scores[name].view(-1)[5]), rel=1e-4)


def test_obd_approaches_the_exact_diagonal() -> None:
    network, layers, batches = problem()
    w, _, h = derivatives(network, layers, batches)
    generator = torch.Generator().manual_seed(0)
    scores = criteria.obd(network, layers, batches, loss, generator=generator, draws=4000)
    exact = 0.5 * h.diagonal() * w**2
    assert float((flat(scores) - exact).norm()) < 0.1 * float(exact.norm())


def test_gauss_newton_obd_approaches_the_exact_diagonal() -> None:
    network, layers, batches = problem()
    x = torch.cat([x for x, _ in batches])
    weights = list(criteria.weights_of(layers).values())
    exact = torch.zeros(sum(w.numel() for w in weights)).double()
    for example in x:  # Σ_c p_c (∂ log p_c / ∂w)²
        log_p = network(example[None]).log_softmax(1)[0]
        for entry in log_p:
            grads = torch.autograd.grad(entry, weights, retain_graph=True)
            square = torch.cat([g.flatten() for g in grads]) ** 2
            exact += float(entry.detach().exp()) * square / len(x)
    exact *= 0.5 * torch.cat([w.detach().flatten() for w in weights]) ** 2
    generator = torch.Generator().manual_seed(0)
    scores = criteria.obd_ggn(
        network, layers, batches, lambda model, x, _: model(x), generator=generator, draws=6000
    )
    assert float((flat(scores) - exact).abs().max()) < 0.05 * float(exact.max())
    assert float(flat(scores).min()) >= 0


def test_no_data_is_refused() -> None:
    network, layers, _ = problem()
    with pytest.raises(ValueError, match="at least one batch of examples, got none"):
        criteria.snip(network, layers, [], loss)
