"""Building by name: shapes, parameter counts, options, refusals."""

from typing import Any

import pytest
import torch
from torch import nn

from robustprune.models import ModelInputs, Normalize, build_model, model_names
from robustprune.tasks import load_task

SERIES = ModelInputs((1, 96), 2)
DIGITS = ModelInputs((1, 28, 28), 10)
COLOURS = ModelInputs((3, 32, 32), 10)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "inputs", "options", "count"),
    [
        # Fawaz et al. 2019 count 264,962 with the 512 biases that batch norm makes redundant.
        ("fcn", SERIES, {}, 264_962 - 512),
        ("fcn", SERIES, {"affine_norm": False}, 264_962 - 512 - 2 * 512),
        # w = 16 is the MNIST network of Madry et al., 3,274,634 parameters.
        ("lenet", DIGITS, {}, 3_274_634),
        ("lenet", DIGITS, {"width": 8}, 416 + 12_832 + 803_328 + 5_130),
        ("lenet", DIGITS, {"width": 1}, 52 + 204 + 12_608 + 650),
        ("preact_resnet18", COLOURS, {}, 11_172_170),
        ("wide_resnet", COLOURS, {}, 46_160_474),
        ("wide_resnet", COLOURS, {"depth": 28}, 36_479_194),
        ("mlp", DIGITS, {"hidden": [300, 100]}, 266_610),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: str, inputs: ModelInputs, options: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        assert parameters(build_model(name, inputs, options=options)) == count


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        ("fcn", SERIES, {"widths": (4, 6, 4)}),
        ("fcn", ModelInputs((3, 7), 5), {"widths": [4], "kernels": [2]}),
        ("lenet", ModelInputs((3, 9, 14), 4), {"width": 1}),
        ("lenet", DIGITS, {"width": 1, "batch_norm": True}),
        ("preact_resnet18", ModelInputs((1, 17, 17), 3), {"width": 4}),
        ("wide_resnet", COLOURS, {"depth": 10, "widen": 1}),
        ("mlp", ModelInputs((5,), 3), {"hidden": []}),
        ("mlp", COLOURS, {"hidden": [4], "batch_norm": True}),
    ],
)
def test_logits_have_one_column_per_class(
    name: str, inputs: ModelInputs, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = build_model(name, inputs, options=options)
    x = torch.randn(4, *inputs.input_shape)
    logits = model(x)
    assert logits.shape == (4, inputs.num_classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["fcn", "lenet", "preact_resnet18", "wide_resnet", "mlp"])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_have_parameters_only_if_affine_and_no_bias_comes_before_them(
    name: str, affine: bool
) -> None:
    options: dict[str, Any] = {"affine_norm": affine}
    if name in ("lenet", "mlp"):
        options["batch_norm"] = True
    with torch.device("meta"):
        model = build_model(name, SERIES if name == "fcn" else COLOURS, options=options)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all((norm.weight is not None) is affine for norm in norms)
    biased = [
        module_name
        for module_name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None
    ]
    assert biased == ["classifier"]


def test_lenet_without_norm_has_biases_everywhere() -> None:
    model = build_model("lenet", DIGITS, options={"width": 1})
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 4
    assert all(layer.bias is not None for layer in layers)


def test_every_model_is_listed() -> None:
    assert model_names() == [
        "fcn",
        "inception",
        "language",
        "lenet",
        "mlp",
        "preact_resnet18",
        "resnet1d",
        "tiny_cnn",
        "wide_resnet",
    ]


def test_a_task_builds_its_model() -> None:
    task = load_task("ecg200")
    model = build_model("fcn", task, options={"widths": [4, 4, 4]})
    assert model(task.train.x[:3]).shape == (3, 2)
    assert not any(isinstance(m, Normalize) for m in model.modules())


def test_statistics_put_a_normalize_layer_first() -> None:
    torch.manual_seed(0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    inputs = ModelInputs((3, 8, 8), 4, mean, std)
    model = build_model("mlp", inputs)
    assert isinstance(model, nn.Sequential)
    assert [name for name, _ in model.named_children()] == ["normalize", "network"]
    x = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model(x), model.network(by_hand))
    assert not list(model.normalize.parameters())
    assert set(model.normalize.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 5, 6)])
def test_normalize_broadcasts_over_any_dimensions(shape: tuple[int, ...]) -> None:
    layer = Normalize((1.0, 2.0), (2.0, 4.0), dims=len(shape) - 1)
    out = layer(torch.full((3, *shape), 3.0))
    assert out.shape == (3, *shape)
    torch.testing.assert_close(out[:, 0], torch.full((3, *shape[1:]), 1.0))
    torch.testing.assert_close(out[:, 1], torch.full((3, *shape[1:]), 0.25))


def test_normalize_refuses_useless_statistics() -> None:
    with pytest.raises(ValueError, match="2 means, 1 standard deviations"):
        Normalize((0.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match=r"std \(0\.0,\) must be positive"):
        Normalize((0.0,), (0.0,))


@pytest.mark.parametrize(
    ("name", "inputs", "options", "match"),
    [
        ("lenett", DIGITS, {}, r"unknown model 'lenett' \(did you mean 'lenet'\?\); use one of"),
        ("zzz", DIGITS, {}, "unknown model 'zzz'; use one of fcn, inception"),
        ("lenet", DIGITS, {"widht": 8}, r"no option 'widht' \(did you mean 'width'\?\)"),
        ("lenet", DIGITS, {"width": "8"}, "is '8' of type str; give int"),
        ("lenet", DIGITS, {"width": 8.0}, r"is 8\.0 of type float; give int"),
        ("lenet", DIGITS, {"width": True}, "is True of type bool; give int"),
        ("lenet", DIGITS, {"batch_norm": 1}, "is 1 of type int; give bool"),
        ("lenet", DIGITS, {"width": 0}, "width 0 must be at least 1"),
        ("lenet", ModelInputs((1, 3, 9), 2), {}, "at least 4 x 4, got 3 x 9"),
        ("fcn", SERIES, {"widths": 3}, "is 3; give a list of int"),
        ("fcn", SERIES, {"widths": [1] * 10**5}, "has 100,000 entries; give at most 1,000"),
        ("fcn", SERIES, {"widths": [1, "a", 2]}, "an entry of option 'widths' .* is 'a'"),
        ("fcn", SERIES, {"widths": [1, 2]}, "must have the same length"),
        ("fcn", SERIES, {"widths": [1, 0, 2]}, "must be at least 1"),
        ("fcn", SERIES, {"in_channels": 2}, "no option 'in_channels'"),
        ("mlp", SERIES, {"hidden": [0]}, r"hidden widths \(0,\) must be at least 1"),
        ("fcn", DIGITS, {}, r"takes examples of shape \(channels, length\).*\(1, 28, 28\)"),
        ("wide_resnet", COLOURS, {"depth": 33}, r"depth 33 must be 6n \+ 4"),
        ("wide_resnet", COLOURS, {"widen": 0}, "widen 0 must be at least 1"),
        ("preact_resnet18", COLOURS, {"width": 0}, "width 0 must be at least 1"),
    ],
)
def test_bad_requests_are_refused(
    name: str, inputs: ModelInputs, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        build_model(name, inputs, options=options)
