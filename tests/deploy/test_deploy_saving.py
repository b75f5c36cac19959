"""Saved networks: the same after loading, without their code; tampered files are refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustprune.deploy import load_slim, save_slim, slim, sparsify
from robustprune.models import ModelInputs, PreActBlock, build_model
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.sparsity import MaskSet, full_masks


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pruned(model: nn.Module) -> MaskSet:
    masks = dict(full_masks(model))
    for mask in masks.values():
        mask[::2] = False
    return MaskSet(masks)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (
        lambda: build_model(
            "lenet", ModelInputs((1, 8, 8), 3, (0.5,), (0.2,)), options={"width": 2}
        ),
        (3, 1, 8, 8),
    ),
    "fcn": (lambda: build_model("fcn", ModelInputs((1, 16), 2)), (3, 1, 16)),
    "block": (lambda: PreActBlock(4, 6, stride=2, affine_norm=True), (3, 4, 8, 8)),
    "mixed": (
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1, bias=False),
            nn.Hardtanh(-float("inf"), 2.0),
            nn.AvgPool1d(2),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.BatchNorm1d(16, affine=False),
            nn.Linear(16, 2),
        ),
        (3, 2, 8),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_network_is_the_saved_one(name: str, tmp_path: Path) -> None:
    build, shape = CASES[name]
    model, x = build().eval(), torch.randn(shape)
    small = slim(model, pruned(model), x)
    for network in (small, sparsify(small, None, x, repeats=1, gain=0.0), model):
        save_slim(tmp_path / "network.safetensors", network)
        rng = torch.get_rng_state()
        loaded = load_slim(tmp_path / "network.safetensors")
        assert torch.equal(torch.get_rng_state(), rng)
        torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)
        assert not loaded.training
        assert dict(loaded.state_dict()).keys() == dict(network.state_dict()).keys()
        save_slim(tmp_path / "again.safetensors", loaded)
        assert (
            load_tensors(tmp_path / "again.safetensors")[1]
            == (load_tensors(tmp_path / "network.safetensors")[1])
        )


def test_loading_needs_no_code_of_the_model(tmp_path: Path) -> None:
    model, x = CASES["lenet"][0]().eval(), torch.randn(CASES["lenet"][1])
    save_slim(tmp_path / "network.safetensors", slim(model, pruned(model), x))
    save_tensors(tmp_path / "io", {"x": x})
    program = f"""
import sys
sys.modules["robustprune.models"] = None  # importing it would raise
from pathlib import Path
from robustprune.deploy import load_slim
from robustprune.run.checkpoint import load_tensors, save_tensors
x = load_tensors(Path({str(tmp_path / "io")!r}))[0]["x"]
network = load_slim({str(tmp_path / "network.safetensors")!r})
save_tensors(Path({str(tmp_path / "io")!r}), {{"logits": network(x)}})
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    logits = load_tensors(tmp_path / "io")[0]["logits"]
    torch.testing.assert_close(logits, load_slim(tmp_path / "network.safetensors")(x))


def step(text: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(s for s in text["steps"] if s["kind"] == kind)


def rename_layer(text: dict[str, Any], name: str) -> None:
    old = step(text, "module")["target"]
    text["layers"][name] = text["layers"].pop(old)
    step(text, "module")["target"] = name


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "type": (
        lambda t: t["layers"]["linear"].update(type="Embedding"),
        "layer 'linear' is of the unknown type 'Embedding'; known are",
    ),
    "dotted type": (
        lambda t: t["layers"]["linear"].update(type="os.system"),
        "unknown type 'os.system'",
    ),
    "function": (
        lambda t: step(t, "function").update(target="eval"),
        "unknown function 'eval'; known are add",
    ),
    "dotted function": (
        lambda t: step(t, "function").update(target="__import__('os').system"),
        "unknown function",
    ),
    "argument": (lambda t: t["layers"]["linear"]["arguments"].update(device="cuda"), "has the arg"),
    "size": (
        lambda t: t["layers"]["linear"]["arguments"].update(out_features=10**9),
        "size mismatch for linear",
    ),
    "string size": (
        lambda t: t["layers"]["linear"]["arguments"].update(out_features="9"),
        "is no valid network",
    ),
    "dunder": (lambda t: rename_layer(t, "__class__"), "is no name of a layer"),
    "method": (lambda t: rename_layer(t, "forward"), "name of a method"),
    "later step": (lambda t: t["steps"].reverse(), "must start with one input"),
    "reference": (
        lambda t: step(t, "module").update(args=[{"ref": "nowhere"}]),
        "takes 'nowhere', which no earlier step gives",
    ),
    "object": (lambda t: step(t, "module").update(args=[{"eval": "1"}]), "expected {'ref'"),
    "kind": (lambda t: step(t, "function").update(kind="code"), "steps.*Input should be 'input'"),
    "extra": (lambda t: t.update(code="print()"), "code: Extra inputs are not permitted"),
    "format": (lambda t: t.update(format="pickle"), "format: Input should be"),
    "version": (lambda t: t.update(version=2), "version: Input should be 1"),
    "missing": (lambda t: t.pop("steps"), "steps: Field required"),
    "unknown tensor": (lambda t: t["tensors"].update(mask="buffer"), "tensor 'mask' is missing"),
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_descriptions_are_refused(name: str, tmp_path: Path) -> None:
    tamper, message = TAMPERED[name]
    path = tmp_path / "network.safetensors"
    save_slim(path, Small())
    tensors, text = load_tensors(path)
    text = json.loads(json.dumps(text))
    tamper(text)
    save_tensors(path, tensors, text)
    with pytest.raises(ValueError, match=message):
        load_slim(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    full_masks(Small()).save(tmp_path / "masks.safetensors")
    with pytest.raises(ValueError, match="is no saved network: format: Field required"):
        load_slim(tmp_path / "masks.safetensors")
    (tmp_path / "garbage").write_bytes(b"\x80\x04garbage of some length")
    with pytest.raises(ValueError, match="is damaged"):
        load_slim(tmp_path / "garbage")


@pytest.mark.parametrize(
    ("name", "values"),
    [("col", [0, 9]), ("col", [-1, 1]), ("crow", [0, 5, 2]), ("crow", [1, 1, 2])],
)
def test_sparse_indices_that_would_leave_the_memory_are_refused(
    name: str, values: list[int], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 2.0]]))
    path = tmp_path / "network.safetensors"
    save_slim(path, sparsify(model, None, torch.ones(1, 3), repeats=1, gain=0.0))
    tensors, text = load_tensors(path)
    tensors[f"0.{name}"] = torch.tensor(values, dtype=torch.int32)
    save_tensors(path, tensors, text)
    with pytest.raises(ValueError, match="indices are no CSR matrix"):
        load_slim(path)


def test_a_missing_or_foreign_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_slim(path, Small())
    tensors, text = load_tensors(path)
    for wrong in ({"linear.bias": tensors["linear.bias"]}, {**tensors, "more": torch.ones(1)}):
        save_tensors(path, wrong, text)
        with pytest.raises(ValueError, match=r"Missing key|Unexpected key"):
            load_slim(path)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    model[2].weight = model[0].weight
    x, path = torch.randn(3, 4), tmp_path / "network.safetensors"
    with torch.no_grad():
        model[0].weight[1] = 0.0  # a row of one is a row of the other, and neither can go
    small = slim(model, None, x)
    for network in (model, small):
        save_slim(path, network)
        tensors, text = load_tensors(path)
        assert text["tied"] == {"2.weight": "0.weight"}
        assert "2.weight" not in tensors
        loaded = load_slim(path)
        assert loaded.get_parameter("2.weight") is loaded.get_parameter("0.weight")
        assert sum(p.numel() for p in loaded.parameters()) == 16 + 4 + 4 + 8 + 2
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    for tied, message in (
        ({"0.weight": "2.weight"}, "cannot be the same as '2.weight'"),
        ({"2.weight": "0.weights"}, "cannot be the same as '0.weights'"),
        ({"2.weight": "3.weight"}, "size mismatch for 2.weight"),
        ({"2.weight": "0.weight", "forward": "0.weight"}, "Unexpected key"),
    ):
        save_tensors(path, tensors, {**text, "tied": tied})
        with pytest.raises(ValueError, match=message):
            load_slim(path)
