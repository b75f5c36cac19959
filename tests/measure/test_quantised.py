"""Robust accuracy of quantised networks: closed form, masked gradients, and the int8 file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, EvaluationWarning, ThreatModel, Transfer, logits_of, worst_of
from robustprune.deploy import (
    export_int8,
    onnx_logits,
    onnx_network,
    round_weights,
    straight_through,
)
from robustprune.measure import evaluate, robust_accuracy_quantised
from robustprune.models import build_model
from robustprune.models.build import ModelInputs
from robustprune.sparsity import MaskSet, apply_masks, full_masks


def linear(weight: Tensor) -> nn.Linear:
    """Class 1 where w·x > 0."""
    model = nn.Linear(len(weight), 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
    return model.eval()


class Steps(nn.Module):
    """A network behind activations that are rounded, so that the gradient is zero."""

    def __init__(self, network: nn.Module, step: float) -> None:
        super().__init__()
        self.network, self.step = network, step

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x / self.step).round() * self.step)


def test_an_exact_case_by_hand() -> None:
    """At 3 bits (1, 0.4) becomes (1, 1/3): ε = 0.1 moves w·x by 0.14, then by 0.1333 only."""
    model = linear(torch.tensor([1.0, 0.4]))
    few = round_weights(model, 3)
    torch.testing.assert_close(few.weight[1], torch.tensor([1.0, 1 / 3]))
    # w·x of the float network: 0.136, 0.144, 0.1, -0.06; rounded: 0.136, 0.12, 0.1, -0.05
    x = torch.tensor([[0.136, 0.0], [0.0, 0.36], [0.1, 0.0], [0.0, -0.15]])
    y = torch.tensor([1, 1, 1, 1])
    threat = ThreatModel("linf", 0.1)
    found = robust_accuracy_quantised(model, few, x, y, threat, straight_through=few, queries=50)
    assert found.clean.tolist() == [True, True, True, False]
    assert found.worst.tolist() == [True, False, False, False]
    assert found.broken["straight-through"] == 2
    dense = robust_accuracy_quantised(
        model, model, x, y, threat, straight_through=model, queries=50
    )
    assert dense.worst.tolist() == [False, True, False, False]
    assert repr(found).startswith(
        "QuantisedOutcome(n=4, clean 75%, robust at most 25%; broken by transferred 2, "
        "straight-through 2, square "
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_linear_networks_have_their_closed_form(bits: int) -> None:
    """Robust within ε in L∞ if and only if the margin y (w·x) is above ε |w|₁."""
    torch.manual_seed(bits)
    model = linear(torch.randn(6))
    few = round_weights(model, bits)
    x, threat = torch.randn(200, 6), ThreatModel("linf", 0.2)
    y = (x @ model.weight[1] > 0).long()
    weight = few.weight[1].detach()
    margin = (2 * y - 1) * (x @ weight)
    found = robust_accuracy_quantised(model, few, x, y, threat, straight_through=few, queries=20)
    expected = margin > 0.2 * weight.abs().sum()
    assert 20 < int(expected.sum()) < 180
    assert torch.equal(found.worst, expected)
    assert torch.equal(found.clean, margin > 0)


def test_a_hidden_gradient_gets_no_credit() -> None:
    torch.manual_seed(0)
    weight = torch.randn(200)
    inner = linear(weight)
    masked = Steps(inner, 0.05)
    x = torch.randn(30, 200).mul(0.3)
    y = torch.arange(30) % 2
    signs = (2.0 * y - 1)[:, None]
    # the same margin for all: half of what the adversary can take away
    x = x - (x @ weight)[:, None] / weight.norm() ** 2 * weight
    x = x + signs * 0.5 * 0.1 * weight.sign()
    threat = ThreatModel("linf", 0.1)
    with pytest.warns(EvaluationWarning, match="gradient of exactly zero"):
        plain = evaluate(masked, x, y, {"pgd": PGD(threat, steps=20, seed=0)}, batch_size=30)
    assert bool(plain.worst.all())
    stranger = linear(torch.randn(200))  # of no use to the adversary

    def judged(model: nn.Module, through: nn.Module, queries: int = 1) -> dict[str, int]:
        found = robust_accuracy_quantised(
            model, masked, x, y, threat, straight_through=through, queries=queries, restarts=2
        )
        assert bool(found.clean.all())
        assert torch.equal(found.worst, torch.stack(list(found.robust.values())).all(0))
        assert sum(found.broken_alone.values()) == int((~found.worst).sum())
        return found.broken

    assert judged(inner, stranger) == {"transferred": 30, "straight-through": 0, "square": 0}
    assert judged(stranger, inner) == {"transferred": 0, "straight-through": 30, "square": 0}
    alone = judged(stranger, stranger, queries=2000)
    assert (alone["transferred"], alone["straight-through"], alone["square"]) == (0, 0, 30)


def fcn() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    options = {"widths": [8, 12], "kernels": [5, 3]}
    model = build_model("fcn", ModelInputs((1, 40), 2, None, None), options=options)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # batch norm whose statistics are not its initial ones
            model(torch.randn(16, 1, 40))
    x = torch.randn(40, 1, 40)
    with torch.no_grad():
        return model.eval(), x, model(x).argmax(1)


def test_a_float_network_in_the_place_of_the_quantised_gives_its_own_result() -> None:
    model, x, y = fcn()
    threat = ThreatModel("linf", 0.4)
    found = robust_accuracy_quantised(
        model, model, x, y, threat, straight_through=model, steps=5, restarts=2, queries=5, seed=3
    )
    pgd = worst_of([PGD(threat, steps=5, seed=seed) for seed in (3, 4)])
    own = evaluate(model, x, y, {"pgd": pgd}, batch_size=500)
    assert 0 < int(own.worst.sum()) < len(x)
    for name in ("transferred", "straight-through"):
        assert torch.equal(found.robust[name], own.robust["pgd"])
    # a function in the place of a module, here in batches, gives the same
    as_function = robust_accuracy_quantised(
        model, lambda x: model(x).detach(), x, y, threat, straight_through=model, steps=5,
        restarts=2, queries=5, seed=3,
    )  # fmt: skip
    assert torch.equal(as_function.worst, found.worst)


@pytest.mark.filterwarnings("ignore:.*no fewer than the float:UserWarning")
def test_the_int8_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x, y = fcn()
    calibration = torch.randn(30, 1, 40)
    files = export_int8(model, calibration, tmp_path / "net.onnx")
    through = straight_through(model, calibration)

    # the steps and zeros of the copy are those of the file
    graph = onnx.load(str(files.int8_path)).graph
    held = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    copies = [m for m in through.modules() if isinstance(m, nn.Conv1d | nn.Linear)]
    plain = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Linear)]
    assert len(layers) == len(copies) == 3
    for node, copy, layer in zip(layers, copies, plain, strict=True):
        _, step, zero = made[node.input[0]].input
        (rounding,) = copy._forward_pre_hooks.values()
        torch.testing.assert_close(rounding.step, held[step], rtol=1e-5, atol=0)
        assert int(rounding.zero) == int(held[zero])
        codes = made[node.input[1]].input[0]
        weight = layer.weight.detach().flatten(1)
        # batch norm is folded into the file's weights, which scales a row and leaves its codes
        wanted = weight / weight.abs().amax(1, keepdim=True) * 127
        difference = (held[codes].flatten(1).float().abs() - wanted.abs()).abs()
        assert float(difference.max()) < 0.51
        torch.testing.assert_close(
            copy.weight.detach().flatten(1),
            wanted.round() * weight.abs().amax(1, keepdim=True) / 127,
        )

    logits = onnx_network(files.int8_path)
    assert torch.equal(logits(x), onnx_logits(files.int8_path, x))
    with torch.no_grad():
        near = (through(x) - logits(x)).abs().max()
        assert near <= 0.05 * logits(x).abs().max()
    probe = x.clone().requires_grad_()
    through(probe).sum().backward()
    assert float(probe.grad.abs().flatten(1).amax(1).min()) > 0

    threat = ThreatModel("linf", 0.4)
    found = robust_accuracy_quantised(
        model, logits, x, y, threat, straight_through=through, steps=5, restarts=2, queries=30
    )
    assert torch.equal(found.clean, onnx_logits(files.int8_path, x).argmax(1) == y)
    assert torch.equal(found.worst, found.clean & torch.stack(list(found.robust.values())).all(0))
    assert 0 < int(found.worst.sum()) < int(found.clean.sum())
    # every example that the first run on the copy breaks is counted as broken
    ends = Transfer(PGD(threat, steps=5, seed=0), through)(through, x, y)
    fooled = onnx_logits(files.int8_path, ends).argmax(1) != y
    assert int((fooled & found.clean).sum()) > 0
    assert not bool((fooled & found.robust["straight-through"]).any())


def test_straight_through_rounds_and_saturates_as_defined() -> None:
    """Range [−1, 1.55] has s = 0.01 and z = −28; beyond it values saturate, gradients do not."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
    through = straight_through(model, torch.tensor([[-1.0], [1.55]]))
    x = torch.tensor([[0.0], [0.014], [0.016], [-1.0], [-3.0], [9.0]], requires_grad=True)
    out = through(x)[:, 1]
    expected = torch.tensor([0.0, 0.01, 0.02, -1.0, -1.0, 1.55])
    torch.testing.assert_close(out.detach(), expected, atol=1e-6, rtol=0)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_weights_are_rounded_by_output_channel() -> None:
    torch.manual_seed(0)
    for layer, channel in (
        (nn.Conv1d(3, 4, 5), 0), (nn.ConvTranspose2d(3, 4, 2), 1), (nn.Linear(7, 3), 0),
    ):  # fmt: skip
        before = layer.weight.detach().clone()
        layer.weight.data[0, 0] = 0.0
        few = round_weights(nn.Sequential(layer), 4)[0].requires_grad_(False)
        assert torch.equal(few.bias, layer.bias)
        for row, rounded in zip(
            layer.weight.detach().movedim(channel, 0), few.weight.movedim(channel, 0), strict=True
        ):
            step = row.abs().max() / 7
            codes = rounded / step
            torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
            assert float((rounded - row).abs().max()) <= 0.5001 * float(step)
        assert bool((few.weight[0, 0] == 0).all())
        assert bool((layer.weight[1:] == before[1:]).all())
    zeros = nn.Linear(4, 2)
    nn.init.zeros_(zeros.weight)
    assert torch.equal(round_weights(zeros).weight, zeros.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_rounded(value: float) -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data[1, 2] = value
    with pytest.raises(ValueError, match=r"Linear\(.* has weights that are NaN or infinite"):
        round_weights(layer)


def test_small_weights_of_half_precision_keep_their_size() -> None:
    layer = nn.Linear(3, 2, bias=False).half()
    layer.weight.data.copy_(torch.tensor([[1e-6, 5e-7, -2e-6], [1.0, 2.0, 3.0]]))
    found, kept = round_weights(layer, 8).weight, layer.weight.float()
    assert found.dtype == torch.float16
    step = kept.abs().amax(1, keepdim=True) / 127
    exact = (kept / step).round() * step
    assert torch.equal(found, exact.half())
    assert bool((found[0] != 0).all())


@pytest.mark.filterwarnings("ignore:zero-gradients")  # 2 of its examples turn every ReLU off
def test_masks_and_networks_of_others() -> None:
    """Masks applied on the fly, an input changed in place, more than logits returned."""

    class More(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x -= 0.5
            hidden = self.first(x).relu_()
            return {"hidden": hidden, "logits": self.last(hidden)}

    torch.manual_seed(1)
    model = More().train()
    masks = full_masks(model)
    masks = MaskSet({name: torch.rand(mask.shape) < 0.6 for name, mask in masks.items()})
    apply_masks(model, masks)
    x = 2.0 * torch.randn(20, 6)
    before, y = x.clone(), logits_of(model, x).argmax(1)
    through, threat = straight_through(model, x), ThreatModel("linf", 0.3)
    for name, mask in masks.items():
        weight = through.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
    few = round_weights(model, 4)
    for judged, followed in ((few, few), (through, through)):
        found = robust_accuracy_quantised(
            model, judged, x, y, threat, straight_through=followed, steps=5, queries=30
        )
        assert 0 < int(found.worst.sum()) < int(found.clean.sum())
    assert model.training
    assert torch.equal(x, before)
    assert torch.equal(logits_of(model, x).argmax(1), y)


def test_layers_that_are_called_by_keyword_are_rounded() -> None:
    class Named(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(input=x)
            return found

    layer, x = linear(torch.tensor([0.3, 0.7])), torch.randn(9, 2)
    by_place, by_name = straight_through(layer, x), straight_through(Named(layer), x)
    assert torch.equal(by_name(x), by_place(x))
    assert not torch.equal(by_name(x), round_weights(layer)(x))


def test_where_both_gradients_are_zero_it_is_said() -> None:
    """The float network is flat itself, so that neither PGD moves and Square has one query."""
    model = Steps(linear(torch.tensor([1.0, 1.0])), 10.0)
    x, y, threat = torch.tensor([[9.0, 9.0]] * 3), torch.ones(3).long(), ThreatModel("linf", 0.1)
    with pytest.warns(EvaluationWarning, match="3 of the 3 unbroken examples"):
        found = robust_accuracy_quantised(
            model, model, x, y, threat, straight_through=model, queries=1, batch_size=2
        )
    assert found.flat.tolist() == [True, True, True]
    assert "zero-gradients" in repr(found)
    alive = linear(torch.tensor([1.0, 1.0]))  # one network with a gradient is enough
    found = robust_accuracy_quantised(model, model, x, y, threat, straight_through=alive, queries=1)
    assert not found.flat.any()


def test_refusals() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="the network gets values from nan to nan"):
        straight_through(model, torch.full((2, 3), float("nan")))
    for bits in (1, 9, 4.0, True):
        with pytest.raises(ValueError, match="must be a whole number from 2 to 8"):
            round_weights(model, bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no example"):
        straight_through(model, torch.zeros(0, 3))
    with pytest.raises(ValueError, match="calls no linear or convolution layer"):
        straight_through(nn.Flatten(), torch.zeros(2, 3))
    x, y, threat = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match="restarts"):
        robust_accuracy_quantised(model, model, x, y, threat, straight_through=model, restarts=0)
