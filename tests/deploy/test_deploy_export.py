"""Exported networks, run by ONNX Runtime and by torch.export, against the original."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robustprune.deploy import export_onnx, export_program, slim, sparsify
from robustprune.models import ModelInputs, build_model
from robustprune.sparsity import MaskSet, apply_masks, full_masks


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """One network: with masks on, slim, and slim with CSR layers."""
    torch.manual_seed(0)
    inputs = ModelInputs((1, 8, 8), 3, (0.5,), (0.2,))
    options = {"width": 1, "batch_norm": True}
    model = build_model("lenet", inputs, options=options).eval()
    masks = MaskSet({k: torch.rand(m.shape) < 0.5 for k, m in full_masks(model).items()})
    x = torch.rand(2, 1, 8, 8)
    small = slim(model, masks, x)
    sparse = sparsify(small, None, x, repeats=1, gain=0.0)
    apply_masks(model, masks)
    return {"masked": model, "slim": small, "sparse": sparse}


@pytest.mark.parametrize("name", ["masked", "sparse"])
def test_onnx_runtime_gives_equal_outputs_for_any_batch(
    name: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "network.onnx"
    export_onnx(networks[name], torch.rand(2, 1, 8, 8), path)
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.rand(batch, 1, 8, 8)
        got = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])
        torch.testing.assert_close(got, networks["masked"](x).detach(), atol=1e-4, rtol=1e-4)


def test_a_file_that_disagrees_is_not_left(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "network.onnx"
    with pytest.raises(ValueError, match=r"ONNX Runtime's outputs differ .* no file was written"):
        export_onnx(networks["slim"], torch.rand(2, 1, 8, 8), path, tolerance=-1.0)
    assert not path.exists()


def test_programs_take_any_batch(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    program = export_program(networks["sparse"], torch.rand(2, 1, 8, 8), tmp_path / "network.pt2")
    assert (tmp_path / "network.pt2").stat().st_size > 0
    for batch in (1, 5):
        x = torch.rand(batch, 1, 8, 8)
        torch.testing.assert_close(program.module()(x), networks["masked"](x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    with pytest.raises(ImportError, match=rf"needs {missing}; .*robustprune\[export\]"):
        export_onnx(nn.Linear(2, 2), torch.ones(2, 2), tmp_path / "network.onnx")


def test_an_example_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="give at least 2"):
        export_program(nn.Linear(2, 2), torch.ones(1, 2))
