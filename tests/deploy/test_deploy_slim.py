"""Slim networks: equal outputs, and the sizes that a reader can count."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.deploy import silence, slim
from robustprune.models import FCN, MLP, LeNet, ModelInputs, PreActBlock, build_model
from robustprune.models.residual import PreActNet
from robustprune.sparsity import MaskSet, apply_masks, bake, full_masks, maskable_layers


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def with_statistics(model: nn.Module) -> nn.Module:
    """Batch norms as after training: no number is at its default."""
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            if layer.affine:
                nn.init.normal_(layer.weight, 1.0, 0.3)
                nn.init.normal_(layer.bias, std=0.5)
    return model.eval()


def without(model: nn.Module, **filters: list[int]) -> MaskSet:
    """Masks that prune these filters; `conv__1=[0]` stands for layer "conv.1"."""
    masks = dict(full_masks(model))
    for name, pruned in filters.items():
        masks[f"{name.replace('__', '.').lstrip('_')}.weight"][pruned] = False
    return MaskSet(masks)


def masked(model: nn.Module, masks: MaskSet) -> Callable[[Tensor], Tensor]:
    """The reference: the model under its masks, baked by hand."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name, mask in masks.items():
        state[name] *= mask
    return lambda x: torch.func.functional_call(model, state, (x,))


def assert_same(model: nn.Module, masks: MaskSet, x: Tensor) -> nn.Module:
    """Slim it, compare the outputs on x and on larger inputs; return the slim network."""
    small = slim(model, masks, x[:2])
    reference = masked(model, masks)
    with torch.no_grad():
        for inputs in (x, 3.0 * torch.randn_like(x), torch.zeros_like(x)):
            torch.testing.assert_close(small(inputs), reference(inputs), atol=1e-5, rtol=1e-5)
    assert not small.training
    return small


def shape(model: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(model.get_parameter(name).shape)


@pytest.mark.parametrize("bias", [True, False])
def test_dead_hidden_units_go_and_their_bias_moves_on(bias: bool) -> None:
    model = nn.Sequential(
        nn.Linear(5, 6, bias=bias),
        nn.ReLU(),
        nn.Linear(6, 4, bias=bias),
        nn.Tanh(),
        nn.Linear(4, 3),
    )
    small = assert_same(model, without(model, _0=[1, 4], _2=[0]), torch.randn(8, 5))
    assert shape(small, "0.weight") == (4, 5)
    assert shape(small, "2.weight") == (3, 4)
    assert shape(small, "4.weight") == (3, 3)


def test_a_constant_needs_a_bias_where_there_was_none() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([2.0, 1.0]))
    small = assert_same(model, without(model, _0=[0]), torch.randn(4, 3))
    assert torch.equal(small.get_parameter("2.bias"), 2.0 * model[2].weight[:, 0])


def test_units_that_nothing_reads_go() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    masks = dict(full_masks(model))
    masks["2.weight"][:, [0, 3, 5]] = False
    small = assert_same(model, MaskSet(masks), torch.randn(8, 5))
    assert shape(small, "0.weight") == (3, 5)


def test_what_only_dead_units_read_goes_too() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    masks = dict(full_masks(model))
    masks["2.weight"][:2, 0] = False  # unit 0 is read by units 2 and 3 alone,
    masks["4.weight"][:, 2:] = False  # which nothing reads
    small = assert_same(model, MaskSet(masks), torch.randn(8, 5))
    assert shape(small, "0.weight") == (5, 5)
    assert shape(small, "2.weight") == (2, 5)


def test_logits_never_go() -> None:
    model = nn.Sequential(nn.Linear(5, 3))
    small = assert_same(model, without(model, _0=[0, 1]), torch.randn(8, 5))
    assert shape(small, "0.weight") == (3, 5)


def convolutions(*, padding: int, shift: float) -> nn.Sequential:
    """Filter 0, pruned, outputs relu(shift) at every position."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=padding, bias=False),
        nn.BatchNorm2d(3),
    )
    model.append(nn.Flatten()).append(nn.Linear(3 * (4 + 2 * padding) ** 2, 2))
    with_statistics(model)
    with torch.no_grad():
        norm = model[1]
        norm.bias[0] = shift + norm.weight[0] * norm.running_mean[0] / norm.running_var[0].sqrt()
    return model


@pytest.mark.parametrize(
    ("padding", "shift", "left"),
    [(1, 0.7, 4), (1, -0.7, 3), (0, 0.7, 3), (0, -0.7, 3)],
    ids=["constant into padding", "zero into padding", "constant, valid", "zero, valid"],
)
def test_a_constant_stays_exactly_where_zeros_are_padded(
    padding: int, shift: float, left: int
) -> None:
    model = convolutions(padding=padding, shift=shift)
    small = assert_same(model, without(model, _0=[0]), torch.randn(4, 2, 6, 6))
    assert shape(small, "0.weight") == (left, 2, 3, 3)
    assert shape(small, "3.weight") == (3, left, 3, 3)
    assert small.get_submodule("1").num_features == left


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_other_paddings_keep_constants(mode: str) -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 3, 3), nn.Conv1d(3, 2, 3, padding=1, padding_mode=mode), nn.Conv1d(2, 2, 3)
    )
    small = assert_same(model, without(model, _0=[1]), torch.randn(4, 1, 9))
    assert shape(small, "0.weight") == (2, 1, 3)


@pytest.mark.parametrize(
    ("pool", "left"),
    [
        (nn.MaxPool1d(2), 2),
        (nn.MaxPool1d(3, padding=1), 2),
        (nn.AvgPool1d(2), 2),
        (nn.AvgPool1d(2, padding=1), 3),
        (nn.AvgPool1d(3, ceil_mode=True), 2),
        (nn.AdaptiveAvgPool1d(3), 2),
        (nn.ZeroPad1d(1), 3),
        (nn.Dropout(0.5), 2),
    ],
    ids=lambda value: str(value),
)
def test_a_constant_passes_pools_that_pad_no_zeros(pool: nn.Module, left: int) -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), pool, nn.Conv1d(3, 2, 2)).eval()
    small = assert_same(model, without(model, _0=[1]), torch.randn(4, 1, 12))
    assert shape(small, "0.weight") == (left, 1, 3)


@pytest.mark.parametrize(
    ("first", "pool", "behind", "x"),
    [
        (nn.Linear(6, 8), nn.MaxPool1d(2), 4, torch.ones(5, 6)),
        (nn.Linear(6, 8), nn.MaxPool1d(3, 1, 1), 8, torch.ones(5, 6)),
        (nn.Linear(6, 8), nn.AdaptiveAvgPool1d(2), 2, torch.ones(5, 6)),
        (nn.Linear(6, 8), nn.ZeroPad1d(1), 10, torch.ones(5, 6)),
        (nn.Conv1d(2, 8, 3), nn.MaxPool2d(2), 12, torch.ones(5, 2, 8)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_pool_over_the_channels_leaves_them_alone(
    first: nn.Module, pool: nn.Module, behind: int, x: Tensor
) -> None:
    """To torch, (N, C) is one sequence without a batch, and (N, C, L) one image."""
    model = nn.Sequential(first, pool, nn.Flatten(), nn.Linear(behind, 3))
    small = assert_same(model, without(model, _0=[0, 1]), x)
    assert shape(small, "0.weight")[0] == 8


def test_transposed_convolutions_lose_output_channels() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3, bias=False),
        nn.ConvTranspose1d(4, 5, 3, stride=2, bias=False),
        nn.ConvTranspose1d(5, 2, 3),
    )
    masks = dict(full_masks(model))
    masks["0.weight"][[0, 2]] = False
    masks["1.weight"][:, [1, 3]] = False
    small = assert_same(model, MaskSet(masks), torch.randn(4, 1, 9))
    assert shape(small, "1.weight") == (2, 3, 3)
    assert shape(small, "2.weight") == (3, 2, 3)


@pytest.mark.parametrize("affine", [True, False])
def test_fcn(affine: bool) -> None:
    model = with_statistics(FCN(2, 3, widths=(8, 6, 4), affine_norm=affine))
    masks = without(model, blocks__0__conv=[0, 3], blocks__1__conv=[5], blocks__2__conv=[1, 2])
    x = torch.randn(4, 2, 30)
    small = assert_same(model, masks, x)
    assert shape(small, "classifier.weight") == (3, 2)  # the mean over time folds any constant
    if affine:
        silent = assert_same(model, silence(model, masks, x), x)
        assert shape(silent, "blocks.0.conv.weight") == (6, 2, 8)
        assert shape(silent, "blocks.1.conv.weight") == (5, 6, 5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_lenet(batch_norm: bool) -> None:
    inputs = ModelInputs((1, 12, 12), 3, (0.4,), (0.3,))
    model = build_model("lenet", inputs, options={"width": 2, "batch_norm": batch_norm})
    with_statistics(model)
    names = "network__conv1", "network__conv2", "network__hidden"
    masks = without(model, **dict(zip(names, ([0], [1, 7], list(range(100))), strict=True)))
    x = torch.rand(4, 1, 12, 12)
    small = assert_same(model, silence(model, masks, x), x)
    assert shape(small, "network.conv1.weight") == (3, 1, 5, 5)
    assert shape(small, "network.conv2.weight") == (6, 3, 5, 5)
    assert shape(small, "network.hidden.weight") == (28, 6 * 9)
    assert shape(small, "network.classifier.weight") == (3, 28)


def residual() -> nn.Module:
    model = PreActNet(3, 3, stem=4, widths=(4, 6), depth=2, affine_norm=True)
    return with_statistics(model)


def test_a_residual_channel_goes_only_if_all_summands_allow_it() -> None:
    model = residual()
    x = torch.randn(4, 3, 8, 8)
    first = "stages__0__0__conv2", "stages__0__1__conv2"
    some = silence(model, without(model, **{first[0]: [1]}, stem=[1]), x)
    assert shape(assert_same(model, some, x), "stem.weight") == (4, 3, 3, 3)
    every = silence(model, without(model, **{name: [1] for name in first}, stem=[1]), x)
    small = assert_same(model, every, x)
    assert shape(small, "stem.weight") == (3, 3, 3, 3)
    assert shape(small, "stages.0.1.conv2.weight") == (3, 4, 3, 3)
    assert shape(small, "stages.1.0.projection.weight") == (6, 3, 1, 1)


def test_inner_channels_of_a_block_go_alone() -> None:
    block = with_statistics(PreActBlock(4, 4, stride=1, affine_norm=True))
    x = torch.randn(2, 4, 6, 6)
    small = assert_same(block, silence(block, without(block, conv1=[0, 2]), x), x)
    assert shape(small, "conv1.weight") == (2, 4, 3, 3)
    assert shape(small, "conv2.weight") == (4, 2, 3, 3)


class Joined(nn.Module):
    """Two branches joined, one of them added to itself; written as people write."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 3, 3)
        self.right = nn.Conv2d(1, 2, 3)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Conv2d(5, 4, 1)
        self.out = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left = self.relu(self.left(x))
        right = F.relu(self.right(x), inplace=True)
        right = right * 2 + right
        x = F.avg_pool2d(self.mix(torch.cat([left, right], dim=1)), 2)
        return self.out(F.dropout(x.view(x.size(0), -1), training=self.training))


def test_concatenated_channels_are_found_in_the_layer_behind() -> None:
    model = Joined().eval()
    small = assert_same(
        model, without(model, left=[1], right=[0], mix=[3]), torch.randn(4, 1, 6, 6)
    )
    assert shape(small, "left.weight") == (2, 1, 3, 3)
    assert shape(small, "right.weight") == (1, 1, 3, 3)
    assert shape(small, "mix.weight") == (3, 3, 1, 1)
    assert shape(small, "out.weight") == (3, 12)


def test_a_product_with_zero_frees_both_factors() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Conv1d(1, 3, 3, bias=False)
            self.gate = nn.Conv1d(1, 3, 3)
            self.out = nn.Conv1d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.value(x) * torch.sigmoid(self.gate(x)))

    model = Gated()
    small = assert_same(model, without(model, value=[0], gate=[1]), torch.randn(4, 1, 9))
    assert shape(small, "value.weight") == shape(small, "gate.weight") == (2, 1, 3)
    assert shape(small, "out.weight") == (2, 2, 3)


def test_a_layer_called_twice_and_a_grouped_one_stay_whole() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.again(torch.relu(self.first(x)))))

    model = Twice()
    small = assert_same(model, without(model, first=[0], again=[1]), torch.randn(5, 4))
    assert shape(small, "first.weight") == shape(small, "again.weight") == (4, 4)
    grouped = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3, groups=2), nn.Conv1d(4, 2, 3))
    small = assert_same(grouped, without(grouped, _0=[0], _1=[1]), torch.randn(5, 1, 9))
    assert shape(small, "1.weight") == (4, 2, 3)


def test_a_linear_layer_over_time_leaves_the_channels_alone() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.Linear(7, 5), nn.Flatten(), nn.Linear(15, 2))
    small = assert_same(model, without(model, _0=[0], _1=[2]), torch.randn(4, 1, 9))
    assert shape(small, "0.weight") == (3, 1, 3)


def test_a_layer_keeps_its_last_channel() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = MaskSet({"2.weight": torch.zeros(4, 4, dtype=torch.bool)})
    small = assert_same(model, masks, torch.randn(5, 3))
    assert shape(small, "0.weight") == (1, 3)
    assert shape(small, "2.weight") == (1, 1)
    assert small(torch.randn(5, 3)).std(0).max() == 0


def test_pruned_padding_network_keeps_one_channel_everywhere() -> None:
    model = residual()
    masks = MaskSet({name: torch.zeros_like(mask) for name, mask in full_masks(model).items()})
    x = torch.randn(4, 3, 8, 8)
    small = assert_same(model, silence(model, masks, x), x)
    assert shape(small, "stages.1.1.conv1.weight") == (1, 1, 3, 3)


def test_masks_may_be_on_the_model_already_and_the_model_is_left_alone() -> None:
    model = MLP((5,), 2, hidden=(6,)).eval()
    masks = without(model, linear1=[0, 1])
    expected = slim(model, masks, torch.randn(2, 5)).state_dict()
    apply_masks(model, masks)
    for got in (slim(model, None, torch.randn(2, 5)), slim(model, masks, torch.randn(2, 5))):
        torch.testing.assert_close(got.state_dict(), expected, rtol=0, atol=0)
    assert shape(bake(model), "linear1.weight") == (6, 5)


def test_the_published_batch_norm_without_scale_is_removable_when_its_mean_is_zero() -> None:
    """A pruned filter's running mean is exactly zero after training; then relu(0) = 0."""
    model = with_statistics(FCN(1, 2, widths=(4, 4), kernels=(3, 3), affine_norm=False))
    model.get_buffer("blocks.0.norm.running_mean")[1] = 0.0
    small = assert_same(model, without(model, blocks__0__conv=[1]), torch.randn(4, 1, 12))
    assert shape(small, "blocks.0.conv.weight") == (3, 1, 3)


@settings(max_examples=40)
@given(
    st.sampled_from(["lenet", "fcn", "residual", "joined"]), st.integers(0, 2**20), st.booleans()
)
def test_any_masks_give_equal_outputs(name: str, seed: int, silent: bool) -> None:
    torch.manual_seed(seed)
    build = {
        "lenet": lambda: LeNet((1, 8, 8), 3, width=1, batch_norm=True),
        "fcn": lambda: FCN(1, 3, widths=(4, 5, 3)),
        "residual": residual,
        "joined": Joined,
    }
    x = torch.randn(
        {"lenet": (3, 1, 8, 8), "fcn": (3, 1, 16), "residual": (3, 3, 8, 8)}.get(name, (3, 1, 6, 6))
    )
    model = with_statistics(build[name]())
    masks = dict(full_masks(model))
    for mask in masks.values():
        mask &= torch.rand(len(mask), *(1,) * (mask.dim() - 1)) > torch.rand(())
        mask &= torch.rand(1, mask.shape[1], *(1,) * (mask.dim() - 2)) > 0.5 * torch.rand(())
    found = MaskSet(masks)
    small = assert_same(model, silence(model, found, x) if silent else found, x)
    before = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters()) <= before + len(maskable_layers(model)) * 8
    again = slim(small, None, x)
    torch.testing.assert_close(again(x), small(x), atol=1e-5, rtol=1e-5)


def test_silence_masks_bias_and_the_batch_norm_behind() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 2, 3))
    masks = without(model, _0=[2])
    found = silence(model, masks, torch.randn(2, 1, 8))
    assert set(found) == {"0.weight", "3.weight", "0.bias", "1.weight", "1.bias"}
    for name in ("0.bias", "1.weight", "1.bias"):
        assert found[name].tolist() == [True, True, False]
    assert found["0.weight"].equal(masks["0.weight"])


def test_silence_waits_for_all_summands() -> None:
    model = residual()
    x = torch.randn(2, 3, 8, 8)
    assert "stages.0.1.norm1.weight" not in silence(
        model, without(model, stages__0__0__conv2=[1]), x
    )
    found = silence(model, without(model, stages__0__0__conv2=[1], stem=[1]), x)
    assert found["stages.0.1.norm1.weight"].tolist() == [True, False, True, True]
    assert "stages.0.1.norm2.weight" not in found


def test_silence_is_not_fooled_by_weights_that_happen_to_be_zero() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.BatchNorm1d(2))
    nn.init.zeros_(model[0].weight)
    masks = without(model, _0=[0])
    assert silence(model, masks, torch.randn(2, 1, 8))["1.weight"].tolist() == [False, True]
    assert float(model[1].weight.detach().sum()) == 2.0


def test_silence_tells_a_difference_of_constants_from_nothing() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv1d(1, 2, 3), nn.Conv1d(1, 2, 3)
            self.unused = nn.Conv1d(1, 2, 3)
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.tanh(self.left(x) + 1.0) - torch.tanh(self.right(x) + 1.0))

    model = Difference()
    masks = without(model, left=[0], right=[0, 1], unused=[0])
    found = silence(model, masks, torch.randn(2, 1, 8))
    assert found["norm.weight"].tolist() == [False, True]  # tanh(1) - tanh(1)
    assert found["left.bias"].tolist() == [False, True]
    assert found["right.bias"].tolist() == [False, False]
    assert "unused.bias" not in found


def test_a_silenced_filter_stays_silent_through_training() -> None:
    model = with_statistics(FCN(1, 2, widths=(4, 4), kernels=(3, 3)))
    x, y = torch.randn(8, 1, 12), torch.tensor([0, 1] * 4)
    masks = silence(model, without(model, blocks__0__conv=[0], blocks__1__conv=[3]), x)
    apply_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    small = slim(model.eval(), None, x)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)
    assert shape(small, "blocks.0.conv.weight") == (3, 1, 3)
    assert shape(small, "blocks.1.conv.weight") == (3, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_checked_as_strictly(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    masks = without(model, _0=[1, 4])
    small = slim(model.to(dtype), masks, torch.randn(4, 5).to(dtype))
    assert shape(small, "0.weight") == (4, 5)
    assert small.get_parameter("0.weight").dtype == dtype
    x = torch.randn(4, 5).to(dtype)
    eps = 4 * torch.finfo(dtype).eps  # two constants, moved into biases that are rounded
    torch.testing.assert_close(
        small.double()(x.double()), masked(model.double(), masks)(x.double()), atol=eps, rtol=eps
    )
