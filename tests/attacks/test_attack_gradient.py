import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from attacks import FGSM, PGD, ThreatModel, robust_accuracy, worst_of
from attacks.losses import margin

NORMS = ("linf", "l2", "l1")


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_worst_case_of_a_linear_model(linear, norm, shape):
    """Two classes: max over the ball of the margin is z_j − z_y + ε ‖w_j − w_y‖_dual."""
    model, x, y = linear(shape, classes=2)
    eps = 0.3
    attack = PGD(ThreatModel(norm, eps), steps=100, step_size=0.1, random_start=False)
    order = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    gain = torch.linalg.vector_norm(model.weight[0] - model.weight[1], ord=order)
    best = margin(model(x), y) + eps * gain
    assert torch.allclose(margin(model(attack(model, x, y)), y), best, rtol=1e-6, atol=1e-6)


def test_pgd_with_bounds_reaches_the_corner_of_the_box(linear):
    model, x, y = linear((6,), classes=2)
    x = x.clamp(-1, 1)
    y = model(x).argmax(1)
    out = PGD(ThreatModel("linf", 0.4, (-1.0, 1.0)), steps=20)(model, x, y)
    normal = (model.weight[1 - y] - model.weight[y]).sign()
    assert torch.allclose(out, (x + 0.4 * normal).clamp(-1, 1))


@pytest.mark.parametrize("random_start", [False, True])
def test_fgsm_is_one_signed_step(linear, random_start):
    model, x, y = linear((4,), classes=2)
    attack = FGSM(ThreatModel("linf", 0.1), random_start=random_start)
    if not random_start:
        normal = (model.weight[1 - y] - model.weight[y]).sign()
        assert torch.allclose(attack(model, x, y), x + 0.1 * normal)
    else:  # 1.25 ε from a point of the ball, then back into the ball
        delta = attack(model, x, y) - x
        assert delta.abs().max().item() <= 0.1
        assert (delta.abs() < 0.099).any()


@pytest.mark.parametrize("name", ["PGD", "FGSM", "PGDL2"])
def test_same_examples_as_torchattacks(name):
    torchattacks = pytest.importorskip("torchattacks")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = 0.25 + 0.5 * torch.rand(6, 2, 6, 6)  # our L2 step leaves out entries at a bound
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    threat = ThreatModel("l2" if name == "PGDL2" else "linf", 0.2, (0.0, 1.0))
    if name == "FGSM":
        ours, peer = FGSM(threat), torchattacks.FGSM(model, eps=0.2)
    else:
        ours = PGD(threat, steps=7, step_size=0.05, random_start=False)
        make = getattr(torchattacks, name)
        peer = make(model, eps=0.2, alpha=0.05, steps=7, random_start=False)
    assert torch.allclose(ours(model, x, y), peer(x, y), atol=2e-6)


def test_momentum_by_hand():
    """ℓ = margin of logits (−x², 0): g = ∓1 after normalisation, velocity 1, 1.5, …"""

    def model(x):
        return torch.stack((x[:, 0] * 0, (x[:, 0] - 1.0).abs()), 1)

    x = torch.tensor([[1.2]])
    attack = PGD(
        ThreatModel("l2", 5.0),
        steps=3,
        step_size=0.5,
        momentum=0.5,
        loss="margin",
        random_start=False,
    )
    assert attack(model, x, torch.tensor([0])).item() == pytest.approx(2.7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("early_stop", [False, True])
def test_restarts_and_early_stop_are_never_weaker(trained, norm, early_stop):
    model, x, y = trained
    threat = ThreatModel(norm, 0.25 if norm != "l1" else 0.4)
    single = PGD(threat, steps=5, seed=3)
    many = PGD(threat, steps=5, restarts=5, seed=3, early_stop=early_stop)
    once, best = single(model, x, y), many(model, x, y)
    assert robust_accuracy(model, best, y) <= robust_accuracy(model, once, y)
    assert threat.distance(x, best).max().item() <= threat.eps
    assert 0.05 < robust_accuracy(model, best, y) < 0.95
    if not early_stop:  # the first restart is the single run: no loss may be lower
        assert (margin(model(best), y) > 0).sum() >= (margin(model(once), y) > 0).sum()


def test_broken_examples_cost_nothing(trained):
    model, x, y = trained
    seen = []

    def counting(batch):
        seen.append(len(batch))
        return model(batch)

    PGD(ThreatModel("linf", 0.25), steps=4, restarts=3, early_stop=True)(counting, x, y)
    assert seen[0] == len(x)
    assert seen[-1] < len(x)
    assert sum(seen) < 3 * 5 * len(x)


def test_training_path_makes_exactly_k_passes(trained):
    model, x, y = trained
    calls = []

    def counting(batch):
        calls.append(len(batch))
        return model(batch)

    PGD(ThreatModel("linf", 0.1), steps=6)(counting, x, y)
    assert calls == [len(x)] * 6


def test_worst_of_is_the_worst_per_example(trained):
    model, x, y = trained
    threat = ThreatModel("linf", 0.2)
    attacks = [FGSM(threat), PGD(threat, steps=3, seed=0), PGD(threat, loss="margin", seed=1)]
    broken = torch.zeros(len(x), dtype=torch.bool)
    for attack in attacks:
        broken |= model(attack(model, x, y)).argmax(1) != y
    joint = worst_of(attacks)(model, x, y)
    assert robust_accuracy(model, joint, y) == pytest.approx(1 - broken.float().mean().item())
    clean_wrong = model(x).argmax(1) != y
    assert torch.equal(joint[clean_wrong], x[clean_wrong])


def test_seeds(trained):
    model, x, y = trained
    fixed = PGD(ThreatModel("linf", 0.2), steps=2, seed=1)
    assert torch.equal(fixed(model, x, y), fixed(model, x, y))
    free = dataclasses.replace(fixed, seed=None)
    state = torch.get_rng_state()
    first, second = free(model, x, y), free(model, x, y)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(first, free(model, x, y))
    assert torch.equal(fixed(model, x, y), fixed(model, x, y))


class Mask(nn.Module):
    def forward(self, weight):
        return weight * (weight.abs() > 0.1)


def test_cached_masked_weights_keep_their_graph_and_get_no_gradient():
    """Only the input is differentiated: the cached weight's graph is neither run nor freed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    parametrize.register_parametrization(model[0], "weight", Mask())
    x, y = torch.randn(4, 2, 6), torch.tensor([0, 1, 0, 1])
    with parametrize.cached():
        cached = model[0].weight
        calls = []
        cached.register_hook(lambda grad: calls.append(1))
        x_adv = PGD(ThreatModel("linf", 0.5), steps=3)(model, x, y)
        assert calls == []
        assert model[0].weight is cached
        assert not x_adv.requires_grad
        nn.functional.cross_entropy(model(x_adv), y).backward()
        assert calls == [1]
    assert model[0].parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_inputs_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype"):
        PGD(ThreatModel("linf", 8.0))(nn.Flatten(), torch.ones(2, 3).to(dtype), torch.zeros(2))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 3]), r"labels range over \[0, 3\]"),
        (torch.tensor([-1, 0]), r"labels range over \[-1, 0\]"),
        (torch.tensor([0.0, 1.0]), "pass integer class labels"),
        (torch.tensor([0]), "do not fit"),
    ],
)
def test_bad_labels(y, message):
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=message):
        PGD(ThreatModel("linf", 0.1))(model, torch.randn(2, 3), y)


def test_bad_values_and_models():
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    attack = PGD(ThreatModel("linf", 0.1, (0.0, 1.0)), early_stop=True)
    with pytest.raises(ValueError, match="outside bounds"):
        attack(nn.Linear(3, 2), x + 1, y)
    with pytest.raises(ValueError, match="NaN or infinity"):
        attack(nn.Linear(3, 2), x * float("nan"), y)
    with pytest.raises(ValueError, match="NaN logits for 2 of 2"):
        attack(lambda batch: batch[:, :2] * float("nan"), x, y)
    with pytest.raises(ValueError, match="C ≥ 2"):
        attack(nn.Linear(3, 1), x, y)
    with pytest.raises(ValueError, match="no gradient"):
        attack(lambda batch: batch[:, :2].detach(), x, y)
    with pytest.raises(ValueError, match=r"returned a dict with the keys 'scores', in which"):
        attack(lambda batch: {"scores": batch}, x, y)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"restarts": 0}, {"loss": "hinge"}, {"mode": "test"},
                {"restarts": 2, "random_start": False}],
)  # fmt: skip
def test_bad_options(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        PGD(ThreatModel("linf", 0.1), **options)


@pytest.mark.parametrize("norm", NORMS)
def test_edge_batches(norm, linear):
    for shape in [(1,), (3,), (2, 5)]:
        for classes in (2, 4):
            model, x, y = linear(shape, classes, examples=1)
            for attack in (PGD(ThreatModel(norm, 0.5)), FGSM(ThreatModel(norm, 0.5))):
                assert attack(model, x, y).shape == x.shape
                assert attack(model, x[:0], y[:0]).shape == (0, *shape)
                assert worst_of([attack])(model, x[:0], y[:0]).shape == (0, *shape)
    zero = torch.zeros(2, 3, requires_grad=True)
    out = PGD(ThreatModel(norm, 0.5), random_start=False)(
        lambda b: b * 0, zero, torch.zeros(2).long()
    )
    assert torch.equal(out, zero)
    assert not out.requires_grad


def test_attack_works_where_the_caller_forbids_gradients(trained):
    model, x, y = trained
    attack = PGD(ThreatModel("linf", 0.2), seed=0)
    expected = attack(model, x, y)
    with torch.no_grad():
        assert torch.equal(attack(model, x, y), expected)
    with torch.inference_mode():
        assert torch.equal(attack(model, x, y), expected)
