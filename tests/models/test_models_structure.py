"""What the papers say about the order of layers, checked on the networks themselves."""

import pytest
import torch
from torch import Tensor, fx, nn

from robustprune.models import FCN, LeNet, ModelInputs, PreActBlock, build_model, preact_resnet18


def call_order(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the leaf modules in the order in which `model(x)` calls them."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: order.append(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return order


def test_a_block_starts_with_norm_and_relu_and_ends_with_a_convolution() -> None:
    block = PreActBlock(4, 4, stride=1, affine_norm=True)
    order = ["norm1", "relu1", "conv1", "norm2", "relu2", "conv2"]
    assert call_order(block, torch.randn(2, 4, 6, 6)) == order


def test_the_identity_path_is_clean() -> None:
    block = PreActBlock(4, 4, stride=1, affine_norm=True)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert x.min() < 0
    assert torch.equal(block(x), x)


def test_a_projection_acts_on_the_activated_input() -> None:
    block = PreActBlock(4, 8, stride=2, affine_norm=True).eval()
    nn.init.zeros_(block.conv2.weight)
    assert block.projection is not None
    x = torch.randn(2, 4, 5, 5)
    expected = block.projection(torch.relu(block.norm1(x)))
    assert expected.shape == (2, 8, 3, 3)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_projects_exactly_where_the_shape_changes(stride: int) -> None:
    assert PreActBlock(4, 8, stride=stride, affine_norm=True).projection is not None
    block = PreActBlock(4, 4, stride=stride, affine_norm=True)
    assert (block.projection is None) == (stride == 1)


def test_preact_resnet_ends_with_norm_relu_pool() -> None:
    model = preact_resnet18(3, 10, width=2)
    order = call_order(model, torch.randn(2, 3, 8, 8))
    assert order[:2] == ["stem", "stages.0.0.norm1"]
    assert order[-4:] == ["norm", "relu", "pool", "classifier"]


def test_preact_resnet_halves_three_times() -> None:
    model = preact_resnet18(3, 10, width=2)
    shapes = []
    x = model.stem(torch.randn(2, 3, 32, 32))
    for stage in model.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 8])
def test_fcn_blocks_keep_the_length_with_the_extra_zero_on_the_right(kernel: int) -> None:
    model = FCN(2, 3, widths=(4,), kernels=(kernel,)).eval()
    conv = model.blocks[0].conv
    x = torch.randn(2, 2, 11)
    padded = nn.functional.pad(x, ((kernel - 1) // 2, kernel // 2))
    expected = nn.functional.conv1d(padded, conv.weight)
    got = nn.Sequential(*list(model.blocks[0].children())[:-2])(x)
    assert got.shape == (2, 4, 11)
    torch.testing.assert_close(got, expected)


def test_fcn_logits_are_linear_in_the_mean_over_time() -> None:
    model = FCN(1, 3, widths=(4, 5), kernels=(8, 3)).eval()
    x = torch.randn(2, 1, 20)
    features = model.blocks(x)
    assert (features >= 0).all()
    torch.testing.assert_close(model(x), model.classifier(features.mean(dim=2)))


def test_lenet_pools_twice_by_two() -> None:
    model = LeNet((1, 28, 28), 10, width=2)
    assert model.conv1.weight.shape == (4, 1, 5, 5)
    assert model.conv2.weight.shape == (8, 4, 5, 5)
    assert model.hidden.weight.shape == (128, 8 * 7 * 7)
    assert call_order(model, torch.randn(2, 1, 28, 28)).count("pool") == 2


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fcn", (1, 16)),
        ("lenet", (3, 8, 8)),
        ("preact_resnet18", (3, 8, 8)),
        ("wide_resnet", (3, 8, 8)),
        ("mlp", (3, 8, 8)),
    ],
)
def test_models_can_be_traced(name: str, shape: tuple[int, ...]) -> None:
    small = {"fcn": {"widths": [4, 4, 4]}, "lenet": {"width": 1}, "mlp": {"hidden": [4]}}
    small |= {"preact_resnet18": {"width": 2}, "wide_resnet": {"depth": 10, "widen": 1}}
    inputs = ModelInputs(shape, 3, (0.5,) * shape[0], (0.2,) * shape[0])
    model = build_model(name, inputs, options=small[name]).eval()
    x = torch.rand(5, *shape)
    torch.testing.assert_close(fx.symbolic_trace(model)(x), model(x))
