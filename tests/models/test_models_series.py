"""ResNet, InceptionTime and the tiny network: counts by hand, order of layers, masks."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from robustprune.models import InceptionModule, ModelInputs, ResidualBlock, build_model
from robustprune.sparsity import MaskSet, apply_masks, full_masks, maskable_layers

SMALL: dict[str, dict[str, Any]] = {
    "resnet1d": {"widths": [4, 6]},
    "inception": {"depth": 3, "width": 2, "bottleneck": 3, "kernels": [6, 5, 2]},
    "tiny_cnn": {"widths": [4, 6]},
}
RESNET = (
    # convolutions and shortcuts, scale and shift of four norms a block, the linear layer
    64 * (8 + 64 * (5 + 3) + 1)
    + 128 * (64 * 8 + 128 * (5 + 3) + 64)
    + 128 * 128 * (8 + 5 + 3)
    + 4 * 2 * (64 + 128 + 128)
    + 128 * 2
    + 2
)
INCEPTION = (
    # the first module has no bottleneck: one channel; then five alike, two shortcuts, the end
    32 * (40 + 20 + 10 + 1)
    + 2 * 128
    + 5 * (128 * 32 + 32 * 32 * (40 + 20 + 10) + 128 * 32 + 2 * 128)
    + (128 + 2 * 128)
    + (128 * 128 + 2 * 128)
    + 128 * 2
    + 2
)
TINY = 5 * (16 + 16 * 24 + 24 * 32) + 2 * (16 + 24 + 32) + 32 * 2 + 2


@pytest.mark.parametrize(
    ("name", "count"), [("resnet1d", RESNET), ("inception", INCEPTION), ("tiny_cnn", TINY)]
)
def test_parameter_counts_by_hand(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build_model(name, ModelInputs((1, 96), 2))
        bare = build_model(name, ModelInputs((1, 96), 2), options={"affine_norm": False})
    assert sum(p.numel() for p in model.parameters()) == count
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    affine = sum(2 * norm.num_features for norm in norms)
    assert sum(p.numel() for p in bare.parameters()) == count - affine
    biased = [n for n, m in model.named_modules() if getattr(m, "bias", None) is not None]
    assert [n for n in biased if not isinstance(model.get_submodule(n), nn.BatchNorm1d)] == [
        "classifier"
    ]


def test_the_counts_are_those_of_the_papers_code() -> None:
    # Fawaz et al. 2019: 506,818 with 1,152 redundant biases and 2,560 statistics of batch norm.
    assert RESNET == 506_818 - 1_152 - 2_560
    assert TINY == 6_050


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("shape", [(1, 9), (3, 1), (2, 16)])
def test_shapes_gradients_and_tracing(name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(name, ModelInputs(shape, 3), options=SMALL[name])
    x = torch.randn(4, *shape, requires_grad=True)
    logits = model(x)
    assert logits.shape == (4, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert x.grad is not None
    assert (x.grad != 0).any()
    model.eval()
    torch.testing.assert_close(fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", list(SMALL))
def test_every_convolution_can_be_masked(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, ModelInputs((2, 12), 3), options=SMALL[name]).eval()
    layers = maskable_layers(model)
    kinds = (nn.Conv1d, nn.Linear)
    assert len(layers) == sum(isinstance(m, kinds) for m in model.modules())
    x = torch.randn(3, 2, 12)
    masks = full_masks(model)
    last = list(masks)[-1]
    apply_masks(model, MaskSet({**masks, last: torch.zeros_like(masks[last])}))
    assert torch.equal(model(x), model(torch.zeros_like(x)))  # only the last bias is left


def by_hand(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A convolution that keeps the length, an even kernel with its extra zero on the right."""
    kernel = conv.weight.shape[2]
    return nn.functional.conv1d(nn.functional.pad(x, ((kernel - 1) // 2, kernel // 2)), conv.weight)


@pytest.mark.parametrize("out_channels", [3, 5])
def test_a_residual_block_by_hand(out_channels: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, out_channels, affine_norm=True).eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.normal_(norm.running_mean)
    x = torch.randn(2, 3, 11)
    out = x
    for number, kernel in enumerate((8, 5, 3)):
        layer = block.layers[number]
        assert layer.conv.weight.shape[2] == kernel
        out = layer.norm(by_hand(out, layer.conv))
        out = out.relu() if number < 2 else out
    shortcut = x if out_channels == 3 else by_hand(x, block.shortcut.conv)
    torch.testing.assert_close(block(x), (out + block.shortcut[-1](shortcut)).relu())


def test_an_inception_module_by_hand() -> None:
    torch.manual_seed(0)
    module = InceptionModule(3, width=2, bottleneck=4, kernels=(40, 20, 10), affine_norm=True)
    module.eval()
    x = torch.randn(2, 3, 15)
    narrow = by_hand(x, module.bottleneck)
    parts = [by_hand(narrow, branch.conv) for branch in module.branches]
    around = nn.functional.pad(x, (1, 1), value=-torch.inf)
    largest = torch.stack((around[..., :-2], around[..., 1:-1], around[..., 2:])).amax(0)
    parts.append(by_hand(largest, module.pooled.conv))
    torch.testing.assert_close(module(x), module.norm(torch.cat(parts, 1)).relu())


def test_a_tiny_block_halves_the_length() -> None:
    model = build_model("tiny_cnn", ModelInputs((1, 96), 2))
    assert model.blocks(torch.randn(2, 1, 96)).shape == (2, 32, 12)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("resnet1d", {"widths": []}, r"widths \(\) must be at least 1"),
        ("tiny_cnn", {"widths": [4, 0]}, r"widths \(4, 0\) must be at least 1"),
        ("tiny_cnn", {"kernel": 4}, "kernel 4 must be odd"),
        ("inception", {"depth": 4}, "depth 4 must be a multiple of 3"),
        ("inception", {"kernels": []}, r"kernels \(\) must be at least 1"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build_model(name, ModelInputs((1, 16), 2), options=options)
