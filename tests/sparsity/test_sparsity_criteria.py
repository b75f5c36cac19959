"""Criteria, against derivatives computed in full."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.search import prune_one_shot
from robustprune.sparsity import criteria, maskable_layers
from robustprune.sparsity.criteria import CRITERIA, Scene


def problem() -> Scene:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(7, 3).double(), torch.arange(7) % 3
    return Scene(
        network,
        maskable_layers(network),
        torch.Generator().manual_seed(0),
        [(x[:4], y[:4]), (x[4:], y[4:])],
        loss=lambda x, y: F.cross_entropy(network(x), y),
        logits=lambda x, _: network(x),
    )


def flat(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat([score.flatten() for score in scores.values()])


def derivatives(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, gradient and Hessian of the loss over all batches at once."""
    weights = list(criteria.weights_of(scene.layers).values())
    x, y = (torch.cat(part) for part in zip(*scene.batches, strict=True))
    value = scene.loss(x, y)
    grads = torch.autograd.grad(value, weights, create_graph=True)
    gradient = torch.cat([grad.flatten() for grad in grads])
    rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in gradient]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return torch.cat([w.detach().flatten() for w in weights]), gradient.detach(), hessian


def test_snip_is_weight_times_gradient() -> None:
    scene = problem()
    w, g, _ = derivatives(scene)
    assert torch.allclose(flat(criteria.snip(scene)), (w * g).abs())


def test_grasp_is_weight_times_hessian_times_gradient() -> None:
    scene = problem()
    w, g, h = derivatives(scene)
    assert torch.allclose(flat(criteria.grasp(scene)), w * (h @ g))


def test_grasp_predicts_what_a_removal_does_to_the_gradient() -> None:
    """‖g‖² after w_i → (1 − t) w_i falls by 2t · score_i to first order."""
    scene = problem()
    scores = criteria.grasp(scene)
    _, g, _ = derivatives(scene)
    name, t = "0.weight", 1e-6
    with torch.no_grad():
        scene.layers[name].weight.view(-1)[5] *= 1 - t
    _, after, _ = derivatives(scene)
    fall = float((g**2).sum() - (after**2).sum()) / (2 * t)
    assert fall == pytest.approx(float(scores[name].view(-1)[5]), rel=1e-4)


def test_obd_approaches_the_exact_diagonal() -> None:
    scene = problem()
    w, _, h = derivatives(scene)
    scores = criteria.obd(scene, draws=4000)
    exact = 0.5 * h.diagonal() * w**2
    assert float((flat(scores) - exact).norm()) < 0.1 * float(exact.norm())


def test_gauss_newton_obd_approaches_the_exact_diagonal() -> None:
    scene = problem()
    x = torch.cat([x for x, _ in scene.batches])
    weights = list(criteria.weights_of(scene.layers).values())
    exact = torch.zeros(sum(w.numel() for w in weights)).double()
    for example in x:  # Σ_c p_c (∂ log p_c / ∂w)²
        log_p = scene.model(example[None]).log_softmax(1)[0]
        for entry in log_p:
            grads = torch.autograd.grad(entry, weights, retain_graph=True)
            square = torch.cat([g.flatten() for g in grads]) ** 2
            exact += float(entry.detach().exp()) * square / len(x)
    exact *= 0.5 * torch.cat([w.detach().flatten() for w in weights]) ** 2
    scores = criteria.obd_ggn(scene, draws=6000)
    assert float((flat(scores) - exact).abs().max()) < 0.05 * float(exact.max())
    assert float(flat(scores).min()) >= 0


def test_no_data_is_refused() -> None:
    scene = problem()
    with pytest.raises(ValueError, match="at least one batch of examples, got none"):
        criteria.snip(replace(scene, batches=()))
    with pytest.raises(ValueError, match="needs a loss and logits, and its scene has none"):
        criteria.snip(Scene(scene.model, scene.layers, batches=scene.batches))


@pytest.mark.parametrize("name", CRITERIA)
def test_rows_say_what_they_need(name: str) -> None:
    """One signature: a criterion that needs nothing is content without data, the others are not;
    each gives every layer scores of its weight's shape."""
    scene, row = problem(), CRITERIA[name]
    scores = row.score(scene)
    assert {n: s.shape for n, s in scores.items()} == {
        n: layer.weight.shape for n, layer in scene.layers.items()
    }
    alone = Scene(scene.model, scene.layers)
    if row.needs_data:
        with pytest.raises(ValueError, match="at least one batch"):
            row.score(alone)
    else:
        assert row.score(alone).keys() == scores.keys()


def test_a_criterion_is_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights times what comes in, by hooks on the layers: everything it needs is in the scene."""

    def inflow(scene: Scene) -> dict[str, Tensor]:
        sizes: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, name=name: sizes.update({name: args[0].detach().abs().mean(0)})
            )
            for name, layer in scene.layers.items()
        ]
        for x, y in scene.batches:
            scene.logits(x, y)
        for hook in hooks:
            hook.remove()
        return {
            n: w.detach().abs() * sizes[n] for n, w in criteria.weights_of(scene.layers).items()
        }

    row = criteria.Criterion(inflow, "activations", "|w| E|x|")
    monkeypatch.setitem(CRITERIA, "inflow", row)  # type: ignore[arg-type]
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 2.0]]))
    data = [(torch.tensor([[0.1, 1.0], [0.1, 1.0]]), torch.tensor([0, 0]))]
    ticket = prune_one_shot(model, data, density=0.5, criterion="inflow")
    assert ticket.masks["weight"].tolist() == [[False, True]]
    with pytest.raises(ValueError, match="criterion 'inflow' needs data; give a loader"):
        prune_one_shot(model, density=0.5, criterion="inflow")
