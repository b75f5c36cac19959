"""Exported networks, run by ONNX Runtime and by torch.export, against the original."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from robustprune.deploy import export_onnx, export_program, record, slim, sparsify
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


class Returns(nn.Module):
    """Works in place on its input and returns more than its logits."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(6, 3), what

    def forward(self, x: Tensor) -> Any:
        x -= 0.5
        logits = self.layer(x)
        return {
            "tensor": logits,
            "tuple": (logits, x),
            "dict": {"features": x, "logits": logits},
            "object": SequenceClassifierOutput(logits=logits),
            "auxiliary head": (logits, logits) if self.training else logits,
        }[self.what]


@pytest.mark.parametrize("what", ["tensor", "tuple", "dict", "object", "auxiliary head"])
def test_logits_alone_are_exported(what: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model, x = Returns(what), torch.rand(4, 6)
    before = x.clone()
    expected = model.layer(x - 0.5).detach()
    export_onnx(model, x, tmp_path / "network.onnx")
    program = export_program(model, x)
    assert torch.equal(x, before)
    assert model.training
    session = onnxruntime.InferenceSession(
        str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [output.name for output in session.get_outputs()] == ["logits"]
    (got,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(program.module()(x.clone()), expected, atol=1e-6, rtol=1e-6)


def flat(fixed: int) -> nn.Module:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.reshape(fixed, -1))

    return Flat()


def branching() -> nn.Module:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    return Branching()


@pytest.mark.parametrize(
    ("make", "dtype", "message"),
    [
        (
            lambda: nn.Linear(6, 3),
            torch.bfloat16,
            r"torch.bfloat16, export model.float\(\) instead",
        ),
        (lambda: flat(4), torch.float32, "takes a batch of 4 but not one of 1 .*fixes a size"),
        (branching, torch.float32, "can't be exported to ONNX: "),
    ],
    ids=["bfloat16", "fixed batch", "branch"],
)
def test_a_failure_leaves_nothing_but_the_older_file(
    make: Callable[[], nn.Module], dtype: torch.dtype, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "network.onnx"
    path.write_text("older")
    with pytest.raises(ValueError, match=message) as raised:
        export_onnx(make().to(dtype), torch.rand(4, 6, dtype=dtype), path)
    assert "\n" not in str(raised.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("network.onnx", "older")
    ]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(OSError, match=r"cannot write .*nowhere"):
        export_onnx(nn.Linear(6, 3), torch.rand(4, 6), tmp_path / "nowhere" / "network.onnx")


def test_programs_that_cannot_be_made_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the network can't be exported: ") as raised:
        export_program(branching(), torch.rand(4, 6), tmp_path / "network.pt2")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind", ["attention", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("LSTM", "GRU"))]
)
def test_recurrent_and_attention_networks(kind: str, tmp_path: Path) -> None:
    """They are exported whole; what takes networks apart layer by layer says what it can't take."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: nn.Module
            if kind == "attention":
                self.inner = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            else:
                self.inner = getattr(nn, kind)(4, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.inner(x)
            return self.head((out[0] if isinstance(out, tuple) else out)[:, -1])

    torch.manual_seed(0)
    model, x = Sequence().eval(), torch.randn(3, 5, 4)
    export_onnx(model, x, tmp_path / "network.onnx")  # compares the outputs
    assert (tmp_path / "network.onnx").exists()
    if kind == "attention":
        torch.testing.assert_close(slim(model, None, x)(x), model(x), atol=1e-5, rtol=1e-5)
    else:
        for refused in (lambda: record(model), lambda: slim(model, None, x)):
            with pytest.raises(ValueError, match=f"layer 'inner' is a {kind}, which can't be dep"):
                refused()
    sparse = sparsify(model, None, x, repeats=1, gain=0.0)
    torch.testing.assert_close(sparse(x), model(x), atol=1e-5, rtol=1e-5)
