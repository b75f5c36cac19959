"""Networks as people have them: in place, NaN gradients, ruled-out classes, wrappers, modes."""

import warnings

import pytest
import torch
from every_attack import every_attack, gradient_free, nearest, transfer_from
from torch import nn

import attacks.modes
from attacks import (
    CW,
    FMN,
    PGD,
    AutoAttack,
    NotFinite,
    Square,
    ThreatModel,
    attacking,
    check_attacks,
    from_torchattacks,
    minimal_perturbation,
    robust_accuracy,
)
from attacks.inputs import check_finite
from attacks.losses import LOSSES, spread, targeted_dlr
from attacks.sanity import failed

NORMS = ("linf", "l2", "l1")
SHAPE = (2, 6)


def network(classes=4, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes)
        ).eval()


def batch(model, n=8):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def r_star(model, x, y, norm):
    return minimal_perturbation(model, x, y, norm=norm, attacks=[FMN(norm, steps=15)]).r


class InPlace(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        x -= 0.5
        return self.model(x.mul_(3.0))


class OutOfPlace(InPlace):
    def forward(self, x):
        return self.model((x - 0.5) * 3.0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_forward_in_place_is_attacked_as_its_twin(norm):
    """Bit for bit, and x is left alone: the caller's, and the attack's own."""
    model, twin = InPlace(network()), OutOfPlace(network())
    x, _ = batch(network())
    y = twin(x).argmax(1)
    found = {**every_attack(norm), "transfer": transfer_from(model, norm)}
    right = {**every_attack(norm), "transfer": transfer_from(twin, norm)}
    for name, attack in found.items():
        given = x.clone()
        x_adv = attack(model, given, y)
        assert torch.equal(given, x), name
        assert torch.equal(x_adv, right[name](twin, x, y)), name
        assert robust_accuracy(model, x_adv, y) == robust_accuracy(twin, x_adv, y), name
    ours, theirs = (r_star(one, x, y, norm) for one in (model, twin))
    assert torch.equal(ours, theirs)
    named, twins = (
        [str(finding) for finding in check_attacks(
            one, x, y, ThreatModel(norm, 0.1), steps=3, queries=5
        )]
        for one in (model, twin)
    )  # fmt: skip
    assert named == twins


class LogProbabilities(nn.Module):
    """log(softmax(s z)): finite where the softmax does not underflow, with a NaN gradient."""

    def __init__(self, scale):
        super().__init__()
        self.model, self.scale = network(), scale

    def forward(self, x):
        # clamped, as people do against −∞: the logits are finite, the gradient is NaN
        probabilities = torch.softmax(self.model(x) * self.scale, 1)
        return torch.where(probabilities > 0, probabilities.log(), -200.0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_nan_gradient_is_refused_by_every_attack_that_follows_it(norm):
    model = LogProbabilities(2000.0)
    x, y = batch(model)
    assert bool(model(x).isfinite().all())
    (grad,) = torch.autograd.grad(model(leaf := x.clone().requires_grad_()).sum(), leaf)
    assert bool(grad.isnan().any())
    for name, attack in {**every_attack(norm), "transfer": transfer_from(model, norm)}.items():
        if gradient_free(attack):
            assert bool(attack(model, x, y).isfinite().all())
            continue
        with pytest.raises(
            NotFinite, match="gradient of the loss with respect to the input is"
        ) as caught:
            attack(model, x, y)
        assert "Square" in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_how_many_gradients_are_nan_is_counted():
    class Some(nn.Module):  # the root of 0 has an infinite slope, times 0 is NaN
        def forward(self, x):
            dead = (x[:, 0] - 0.5) * (x[:, 0] > 0.5)
            return torch.stack((dead.sqrt() * 0 + x[:, 1], x[:, 1] * 0), 1)

    x = torch.tensor([[0.2, 1.0], [0.9, 1.0], [0.1, 1.0]])
    attack = PGD(ThreatModel("linf", 0.01), steps=3, random_start=False)
    with pytest.raises(NotFinite, match="is NaN for 2 of 3 examples"):
        attack(Some(), x, torch.zeros(3).long())
    said = {
        f.name: f
        for f in check_attacks(
            Some(), x, torch.tensor([0, 0, 1]), ThreatModel("linf", 0.01), queries=3
        )
    }
    assert said["nan-gradients"].figure == pytest.approx(2 / 3)
    assert "(2)" in said["nan-gradients"].message
    assert "nan-gradients" in {finding.name for finding in failed(list(said.values()))}


def test_the_same_function_with_and_without_nan_gradients_is_never_called_more_robust():
    """The kind of fault: 17% robust as logits, 99% as log(softmax), for attacks stood still."""
    model = network()
    x, y = batch(model, 100)
    attack = PGD(ThreatModel("linf", 0.6), steps=20, restarts=2, seed=0)
    honest = robust_accuracy(model, attack(model, x, y), y)
    assert honest < 0.6

    def hidden(z):
        probabilities = torch.softmax(model(z) * 2000, 1)
        return torch.where(probabilities > 0, probabilities.log(), -200.0)

    with pytest.raises(NotFinite):
        attack(hidden, x, y)
    blind = Square(attack.threat, queries=100, seed=0)
    assert robust_accuracy(hidden, blind(hidden, x, y), y) < 0.9


class RuledOut(nn.Module):
    """Six classes, of which the first and the last are ruled out, in one of two ways."""

    def __init__(self, model, how):
        super().__init__()
        self.model, self.how = model, how

    def forward(self, x):
        z = nn.functional.pad(self.model(x), (1, 1), value=1.0)
        out = torch.zeros(z.shape[1], dtype=torch.bool)
        out[[0, -1]] = True
        if self.how == "filled":
            return z.masked_fill(out, -torch.inf)
        return z + torch.where(out, -torch.inf, 0.0)


@pytest.mark.parametrize("how", ["filled", "added"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 4])
def test_ruled_out_classes_change_nothing(norm, how, classes):
    """A network with classes at −∞ is the one without them: the same examples are found."""
    small = network(classes)
    large = RuledOut(small, how)
    x, y = batch(small)
    assert torch.equal(large(x).argmax(1), y + 1)
    for name, attack in every_attack(norm, eps=0.3).items():
        x_adv = attack(large, x, y + 1)
        assert bool(x_adv.isfinite().all()), name
        # others walk to fewer targets, where those that are ruled out are among the likeliest few
        if name not in {"apgd-t", "fab-t", "fab-restarts", "autoattack"}:
            assert torch.allclose(x_adv, attack(small, x, y), atol=2e-5), name
    right = r_star(small, x, y, norm)
    assert torch.allclose(r_star(large, x, y + 1, norm), right, rtol=1e-3)
    protocol = AutoAttack(ThreatModel(norm, right.median().item()), steps=5, queries=5)
    result = protocol.evaluate(large, x, y + 1)
    assert torch.equal(result.robust, protocol.evaluate(small, x, y).robust)
    assert 0 < result.robust_accuracy < 1


@pytest.mark.parametrize("norm", NORMS)
def test_where_only_the_label_is_possible_nothing_is_found(norm):
    def certain(z):
        return network(3)(z).masked_fill(torch.tensor([False, True, True]), -torch.inf)

    x, y = batch(network())[0], torch.zeros(8).long()
    for name, attack in every_attack(norm).items():
        with warnings.catch_warnings():  # AutoAttack says that a gradient is 0, where it is
            warnings.simplefilter("ignore")
            x_adv = attack(certain, x, y)
        assert bool(x_adv.isfinite().all()), name
        assert robust_accuracy(certain, x_adv, y) == 1, name
    for name, attack in nearest(norm).items():
        assert torch.equal(attack(certain, x, y), x), name


def test_losses_of_ruled_out_classes_by_hand():
    inf = torch.inf
    z = torch.tensor([[3.0, 1.0, -inf, -1.0, -inf], [2.0, -inf, 1.0, -inf, -inf]])
    y = torch.tensor([0, 0])
    assert torch.allclose(LOSSES["dlr"](z, y), torch.tensor([-2.0 / 4.0, -1.0]))
    assert torch.equal(LOSSES["margin"](z, y), torch.tensor([-2.0, -1.0]))
    odds = torch.tensor([1.0, -1.0]).logsumexp(0) - 3.0
    assert torch.allclose(LOSSES["ce"](z, y), torch.stack((odds, torch.tensor(-1.0))))
    assert torch.allclose(targeted_dlr(z, y, torch.tensor([1, 2])), torch.tensor([-2 / 4, -1.0]))
    assert torch.equal(spread(z), torch.tensor([4.0, 1.0]))
    # a target, the label, and all but the label ruled out: the gradient is a number
    hard = torch.tensor([[1.0, 0.5, 0.2, -inf], [-inf, 1.0, 0.5, 0.2], [1.0, -inf, -inf, -inf]])
    hard.requires_grad_()
    for name, loss in (*LOSSES.items(), ("targeted", lambda z, y: targeted_dlr(z, y, y * 0 + 3))):
        values = loss(hard, torch.tensor([0, 0, 0]))
        (grad,) = torch.autograd.grad(values.masked_fill(values.isnan(), 0.0).sum(), hard)
        assert not bool(values.isnan().any()), name
        assert bool(grad.isfinite().all()), name


@pytest.mark.parametrize("logits", [[[1.0, torch.nan]], [[1.0, torch.inf]], [[-torch.inf] * 2]])
def test_other_logits_that_are_not_finite_are_refused(logits):
    with pytest.raises(NotFinite, match="logits for 1 of 1 examples"):
        check_finite(torch.tensor(logits))


class Exported(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = network()

    def forward(self, x):
        return self.model(x)


def wrapped(kind, x):
    model = Exported().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and people have such files
        if kind == "compile":
            return torch.compile(model, backend="eager")
        if kind == "parallel":
            return nn.DataParallel(model)
        if kind == "script":
            return torch.jit.trace(model, x)
        free = torch.export.Dim("n", min=1, max=512)
        return torch.export.export(model, (x,), dynamic_shapes=({0: free},)).module()


@pytest.mark.parametrize("kind", ["compile", "parallel", "script", "export"])
def test_wrapped_networks_are_attacked_as_themselves(kind):
    x, y = batch(network())
    model = wrapped(kind, x)
    modes = [module.training for module in model.modules()]
    for name, attack in every_attack().items():
        if kind == "compile" and name not in {"pgd", "apgd", "square", "fab", "cw"}:
            continue  # each batch size is compiled anew
        with warnings.catch_warnings():  # dynamo's own, about what is no leaf
            warnings.simplefilter("ignore")
            x_adv = attack(model, x, y)
        assert torch.allclose(x_adv, attack(network(), x, y), atol=1e-5), name
    assert [module.training for module in model.modules()] == modes
    if kind == "export":
        with pytest.raises(ValueError, match="mode='train' cannot be set"):
            PGD(ThreatModel("linf", 0.1), mode="train")(model, x, y)


def test_tensors_of_inference_mode_are_taken():
    model = network()
    x, y = batch(model)
    with torch.inference_mode():
        frozen_x, frozen_y = x.clone(), y.clone()
        assert frozen_x.is_inference()
        for name, attack in {**every_attack(), "transfer": transfer_from(model)}.items():
            x_adv = attack(model, frozen_x, frozen_y)
            assert torch.equal(x_adv, attack(model, x, y)), name
            assert 0 <= robust_accuracy(model, x_adv, frozen_y) <= 1
        r_star(model, frozen_x, frozen_y, "linf")
    for attack in every_attack().values():
        assert torch.equal(attack(model, frozen_x, frozen_y), attack(model, x, y))
    with torch.inference_mode():
        made_inside = network()
    with pytest.raises(ValueError, match=r"weights were made under torch\.inference_mode"):
        PGD(ThreatModel("linf", 0.1))(made_inside, x, y)


def test_a_mistaken_dtype_is_named():
    x, y = batch(network())
    for model, said in (
        (network().double(), r"x.to\(torch.float64\)"),
        (network().bfloat16(), r"x.to\(torch.bfloat16\)"),
    ):
        with pytest.raises(ValueError, match=f"inputs are float32.*{said}"):
            PGD(ThreatModel("linf", 0.1))(model, x, y)
    with pytest.raises(RuntimeError, match="mat1"):  # not our business
        PGD(ThreatModel("linf", 0.1))(network(), x[:, :, :3].contiguous(), y)


def test_an_rnn_in_eval_mode_is_attacked_without_cudnn(monkeypatch):
    """cuDNN differentiates RNNs in train mode alone; there is none here, so it is asked for."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(6, 5, batch_first=True)

        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return self.rnn(x)[0][:, -1]

    seen, model = [], Last()
    x, y = torch.rand(3, *SHAPE), torch.zeros(3).long()
    PGD(ThreatModel("linf", 0.1), steps=1)(model, x, y)
    assert seen == [True]  # on a CPU nothing is switched
    monkeypatch.setattr(attacks.modes, "_on_gpu", lambda module: True)
    for mode, enabled in (("eval", False), ("train", True)):
        seen.clear()
        PGD(ThreatModel("linf", 0.1), steps=1, mode=mode)(model, x, y)
        assert seen == [enabled]
        assert torch.backends.cudnn.enabled
    with pytest.raises(KeyError), attacking(model):
        raise KeyError
    assert torch.backends.cudnn.enabled


def test_torchattacks_results_are_checked():
    pytest.importorskip("torchattacks")
    x, y = torch.rand(3, 1, 4, 3), torch.zeros(3).long()

    def model(z):
        probabilities = torch.softmax(network()(z) * 2000, 1)
        return torch.where(probabilities > 0, probabilities.log(), -200.0)

    y = model(x).argmax(1)
    with pytest.raises(NotFinite, match="PGDL2 returned NaN or infinity for"):
        from_torchattacks("PGDL2", eps=0.5, steps=2)(model, x, y)


def test_classes_ruled_out_by_confidence_are_no_success():
    model = network()
    x, y = batch(model)
    far = CW(steps=30, searches=3, initial_c=1.0, learning_rate=0.1, confidence=0.5)(model, x, y)
    moved = (far != x).flatten(1).any(1)
    assert bool(moved.any())
    assert bool((LOSSES["margin"](model(far), y)[moved] >= 0.5).all())
