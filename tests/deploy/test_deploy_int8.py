"""int8 files: the float file is the network, the int8 file stays near it and is smaller."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustprune.deploy import export_int8, onnx_logits, slim
from robustprune.models import build_model
from robustprune.models.build import ModelInputs
from robustprune.sparsity import MaskSet, apply_masks, full_masks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def network(name: str = "fcn", **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(name, ModelInputs((1, 40), 2, None, None), options=options)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # batch norm whose statistics are not its initial ones
            model(1.0 + 2.0 * torch.randn(16, 1, 40))
    return model.eval()


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize("name", ["fcn", "tiny_cnn"])
def test_float_equals_torch_and_int8_is_near(name: str, tmp_path: Path) -> None:
    model = network(name)
    calibration = 1.0 + 2.0 * torch.randn(50, 1, 40)
    files = export_int8(model, calibration, tmp_path / "net.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["net.int8.onnx", "net.onnx"]
    assert (files.float_bytes, files.int8_bytes) == tuple(
        (tmp_path / name).stat().st_size for name in ("net.onnx", "net.int8.onnx")
    )
    x = 1.0 + 2.0 * torch.randn(30, 1, 40)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(onnx_logits(files.float_path, x), expected, atol=1e-4, rtol=1e-4)
    gap = (onnx_logits(files.int8_path, x) - expected).abs().max()
    assert (files.float_weights, files.cast_from) == ({}, None)
    assert 0 < gap <= 0.1 * expected.abs().max()
    assert "BatchNormalization" not in operators(files.float_path)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(files.int8_path)
    shape = onnx.load(str(files.float_path)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 1, 40]
    if name == "fcn":  # the weights, not the graph, are most of the file
        assert files.int8_bytes < 0.35 * files.float_bytes


def test_masks_and_slim_networks(tmp_path: Path) -> None:
    model = network(widths=[8, 12], kernels=[5, 3])
    x = torch.randn(20, 1, 40)
    masks = {name: mask.clone() for name, mask in full_masks(model).items()}
    masks["blocks.0.conv.weight"][::2] = False
    small = slim(model, MaskSet(masks), x[:4])
    apply_masks(model, MaskSet(masks))
    with torch.no_grad():
        expected = model(x)
    for name, form in (("masked", model), ("slim", small)):
        with pytest.warns(UserWarning, match=rf"{name}\.int8\.onnx: .* no fewer than the float"):
            files = export_int8(form, x, tmp_path / f"{name}.onnx")
        torch.testing.assert_close(onnx_logits(files.float_path, x), expected, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "slim.onnx").stat().st_size < (tmp_path / "masked.onnx").stat().st_size


def test_refusals(tmp_path: Path) -> None:
    model = network(widths=[4], kernels=[3])
    with pytest.raises(ValueError, match="holds no example"):
        export_int8(model, torch.zeros(0, 1, 40), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"differ from the network's by .* no file was written"):
        export_int8(model, torch.randn(4, 1, 40), tmp_path / "net.onnx", tolerance=-1.0)
    first = nn.Sequential(nn.BatchNorm1d(1), nn.ReLU(), nn.Flatten(), nn.Linear(40, 2)).eval()
    with pytest.raises(ValueError, match="BatchNormalization is left"):
        export_int8(first, torch.randn(4, 1, 40), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU], head: bool = True) -> None:
        super().__init__()
        self.layer = kind(3, 16, batch_first=True)
        self.head = nn.Linear(16, 2) if head else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.layer(x)[0][:, -1]
        return last if self.head is None else self.head(last)


@pytest.mark.parametrize(
    ("kind", "gates"), [(nn.LSTM, 4), pytest.param(nn.GRU, 3, marks=pytest.mark.slow)]
)
def test_weights_that_stay_float_are_counted(
    kind: type[nn.LSTM | nn.GRU], gates: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(kind).eval(), torch.randn(6, 5, 3)
    with pytest.warns(UserWarning, match=f"stayed float in the int8 file: .* of {kind.__name__}"):
        files = export_int8(model, x, tmp_path / "net.onnx")
    # input and hidden weights and both biases, which ONNX holds as matrices, and the first state
    held = gates * 16 * (3 + 16 + 2) + 16
    assert files.float_weights == {kind.__name__: 4 * held}
    assert f"{4 * held} bytes of {kind.__name__}" in files.note
    with torch.no_grad():
        torch.testing.assert_close(onnx_logits(files.float_path, x), model(x), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="none of the network's weights could become int8"):
        export_int8(Recurrent(kind, head=False).eval(), x, tmp_path / "other.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["net.int8.onnx", "net.onnx"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 3)).eval().to(dtype)
    x = torch.randn(20, 40).to(dtype)
    files = export_int8(model, x, tmp_path / "net.onnx")
    name = str(dtype).removeprefix("torch.")
    assert files.cast_from == name
    assert files.note == f"The network is {name}; both files hold it in float32."
    assert files.int8_bytes < files.float_bytes
    kinds = {tensor.data_type for tensor in onnx.load(str(files.int8_path)).graph.initializer}
    assert onnx.TensorProto.DOUBLE not in kinds
    assert next(model.parameters()).dtype == dtype
    with torch.no_grad():
        expected = model.float()(x.float())
    torch.testing.assert_close(onnx_logits(files.float_path, x), expected, atol=1e-4, rtol=1e-4)
    assert onnx_logits(files.int8_path, x[:0]).shape == (0, 3)


def test_logits_alone_are_exported_and_the_calibration_set_stays(tmp_path: Path) -> None:
    class More(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x -= 0.5
            return {"features": x, "logits": self.layers(x)}

    torch.manual_seed(0)
    model, x = More().eval(), torch.randn(20, 8)
    before = x.clone()
    files = export_int8(model, x, tmp_path / "net.onnx")
    assert torch.equal(x, before)
    with torch.no_grad():
        expected = model.layers(x - 0.5)
    torch.testing.assert_close(onnx_logits(files.float_path, x), expected, atol=1e-4, rtol=1e-4)
