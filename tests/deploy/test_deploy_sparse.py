"""CSR layers: equal outputs and gradients; the choice follows the measured ratio."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustprune.deploy import CSRLinear, fastest, sparsify, to_csr
from robustprune.models import MLP
from robustprune.sparsity import MaskSet, full_masks


def random_masks(model: nn.Module, density: float) -> MaskSet:
    return MaskSet({k: torch.rand(m.shape) < density for k, m in full_masks(model).items()})


def test_a_csr_layer_holds_what_a_reader_writes_down() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 5.0, 0.0], [1.0, 2.0, 3.0]]))
    sparse = to_csr(layer, torch.tensor([[1, 1, 1], [1, 0, 1]]).bool())
    assert sparse.crow.tolist() == [0, 1, 3]
    assert sparse.col.tolist() == [1, 0, 2]
    assert sparse.values.tolist() == [5.0, 1.0, 3.0]
    assert (sparse.crow.dtype, sparse.col.dtype) == (torch.int32, torch.int32)
    assert sparse.dense().weight.tolist() == [[0.0, 5.0, 0.0], [1.0, 0.0, 3.0]]
    assert torch.equal(sparse.dense().bias, layer.bias)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.booleans(), st.integers(0, 2**20))
def test_csr_equals_dense(ins: int, outs: int, density: float, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer, mask = nn.Linear(ins, outs, bias=bias), torch.rand(outs, ins) < density
    sparse = to_csr(layer, mask)
    with torch.no_grad():
        layer.weight *= mask
    for shape in ((4, ins), (2, 3, ins), (1, ins), (ins,), (1, 1, ins), (0, ins)):
        x = torch.randn(shape)
        torch.testing.assert_close(sparse(x), layer(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(sparse.dense().weight, layer.weight)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_gradients_reach_the_input(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, bias=bias), torch.randn(rows, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    (got,) = torch.autograd.grad(to_csr(layer)(x).square().sum(), x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_matrix_follows_its_weights() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(6, 4), nn.Linear(6, 4), torch.randn(3, 6)
    sparse = to_csr(first)
    with torch.inference_mode():
        sparse(x)
    again = copy.deepcopy(sparse)
    assert torch.autograd.grad(again(x.requires_grad_()).sum(), x)[0].abs().sum() > 0
    sparse.load_state_dict(to_csr(second).state_dict())
    torch.testing.assert_close(sparse(x), second(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again(x), first(x), atol=1e-5, rtol=1e-5)
    exact = sparse.double()(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), second(x), atol=1e-5, rtol=1e-5)


def test_weights_that_take_the_place_of_others_are_used() -> None:
    torch.manual_seed(0)
    first, x = nn.Linear(6, 4), torch.randn(3, 6)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.weight *= 2
    sparse, other = to_csr(first), to_csr(second)
    sparse(x)
    sparse.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(sparse(x), second(x), atol=1e-5, rtol=1e-5)
    sparse.values = nn.Parameter(other.values / 2, requires_grad=False)
    torch.testing.assert_close(sparse(x), first(x), atol=1e-5, rtol=1e-5)


def test_the_gain_decides() -> None:
    torch.manual_seed(0)
    layer, mask, x = nn.Linear(6, 4), torch.rand(4, 6) < 0.5, torch.randn(3, 6)
    sparse = fastest(layer, mask, x, repeats=1, gain=0.0)
    dense = fastest(layer, mask, x, repeats=1, gain=float("inf"))
    assert isinstance(sparse, CSRLinear)
    assert type(dense) is nn.Linear
    assert torch.equal(dense.weight, layer.weight * mask)
    assert dense.weight is not layer.weight
    torch.testing.assert_close(sparse(x), dense(x), atol=1e-5, rtol=1e-5)


def test_a_sparsified_network_gives_equal_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), MLP((24,), 3, hidden=(8, 8))).eval()
    masks, x = random_masks(model, 0.3), torch.randn(5, 1, 8)
    dense = sparsify(model, masks, x, repeats=1, gain=float("inf"))
    sparse = sparsify(model, masks, x, repeats=1, gain=0.0)
    assert sum(isinstance(layer, CSRLinear) for layer in sparse.modules()) == 3
    assert not any(isinstance(layer, CSRLinear) for layer in dense.modules())
    assert isinstance(sparse.get_submodule("0"), nn.Conv1d)
    torch.testing.assert_close(sparse(x), dense(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(layer, CSRLinear) for layer in model.modules())


@pytest.mark.parametrize("cold", [2.0, 0.7], ids=["slower when cold", "faster when cold"])
def test_layers_are_timed_with_weights_as_cold_as_in_use(
    cold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose cache holds one layer: CSR takes 0.5 from the cache and `cold` from the
    memory, dense 1.0 and 1.2."""
    clock, last = [0.0], [0]

    def machine(forward: Any, warm: float, cold: float) -> Any:
        def run(self: nn.Module, x: torch.Tensor) -> Any:
            clock[0] += warm if last[0] == id(self) else cold
            last[0] = id(self)
            return forward(self, x)

        return run

    monkeypatch.setattr("robustprune.deploy.timing.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(CSRLinear, "forward", machine(CSRLinear.forward, 0.5, cold))
    monkeypatch.setattr(nn.Linear, "forward", machine(nn.Linear.forward, 1.0, 1.2))
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), torch.randn(3, 6)
    assert isinstance(fastest(nn.Linear(6, 5), None, x, repeats=2), CSRLinear)
    found = sparsify(model, None, x, repeats=2)
    assert [isinstance(layer, CSRLinear) for layer in found] == [cold < 1.0] * 2


def test_a_network_that_is_not_faster_as_a_whole_stays_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CSR layers take half of the time, and what is between them takes three times as long."""
    clock = [0.0]

    class Between(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock[0] += 1.0 if x.is_contiguous() else 3.0
            return x

    def machine(forward: Any, seconds: float, layout: Any) -> Any:
        def run(self: nn.Module, x: torch.Tensor) -> Any:
            clock[0] += seconds
            return layout(forward(self, x))

        return run

    monkeypatch.setattr("robustprune.deploy.timing.time.perf_counter", lambda: clock[0])
    turned = machine(CSRLinear.forward, 0.5, lambda y: y.T.contiguous().T)
    monkeypatch.setattr(CSRLinear, "forward", turned)
    monkeypatch.setattr(
        nn.Linear, "forward", machine(nn.Linear.forward, 1.0, torch.Tensor.contiguous)
    )
    model, x = nn.Sequential(nn.Linear(6, 5), Between()), torch.randn(3, 6)
    assert not any(isinstance(layer, CSRLinear) for layer in sparsify(model, None, x, repeats=2))
    assert isinstance(sparsify(model[:1], None, x, repeats=2)[0], CSRLinear)


def test_what_does_not_fit_is_refused() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"the mask has shape \(3, 2\), the weight \(2, 3\)"):
        to_csr(layer, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="repeats 0 must be at least 1"):
        fastest(layer, None, torch.ones(1, 3), repeats=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_adds_up_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).to(dtype)
    masks, x = random_masks(model, 0.2), torch.randn(5, 64).to(dtype)
    sparse = sparsify(model, masks, x, repeats=1, gain=0.0)
    assert [type(layer) for layer in sparse] == [CSRLinear, nn.ReLU, CSRLinear]
    assert {t.dtype for t in sparse.parameters()} == {dtype}
    exact = sparsify(model, masks, x, repeats=1, gain=float("inf")).double()
    got = sparse(x.clone().requires_grad_())
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), exact(x.double()), atol=4 * eps, rtol=4 * eps)
    with torch.no_grad():  # the weights that it has now, not those of its first call
        sparse[0].values.zero_()  # type: ignore[operator, union-attr]
        expected = sparse[2](sparse[0].bias.relu())  # type: ignore[operator, union-attr]
        assert torch.equal(sparse(x), expected.expand(5, -1))
    with pytest.raises((RuntimeError, NotImplementedError)):
        sparse(x.float())


def test_only_layers_that_can_be_replaced_are_replaced() -> None:
    """A shared layer is replaced everywhere; a tied weight and a layer with a hook stay."""
    torch.manual_seed(0)
    shared, hooked, one, other = (nn.Linear(6, 6) for _ in range(4))
    other.weight = one.weight
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    model = nn.Sequential(shared, nn.ReLU(inplace=True), shared, hooked, one, other).eval()
    x = torch.randn(4, 6)
    expected, before = model(x), x.clone()
    sparse = sparsify(model, None, x, repeats=1, gain=0.0)
    assert [isinstance(layer, CSRLinear) for layer in sparse] == [True, False, True, *[False] * 3]
    assert sparse[0] is sparse[2]
    assert sparse[4].weight is sparse[5].weight
    torch.testing.assert_close(sparse(x), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_a_weight_that_forward_reads_is_noticed() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = self.layer.weight.sum() if isinstance(self.layer, nn.Linear) else 0.0
            return self.layer(input=x) * scale

    with pytest.raises(ValueError, match="reading a layer's weight"):
        sparsify(Reads(), None, torch.ones(2, 3), repeats=1, gain=0.0)

    class ReadsAlways(Reads):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + self.layer.weight.sum()

    model, x = ReadsAlways(), torch.ones(2, 3)
    kept = sparsify(model, None, x, repeats=1, gain=0.0)
    assert type(kept.layer) is nn.Linear
    assert torch.equal(kept(x), model(x))
