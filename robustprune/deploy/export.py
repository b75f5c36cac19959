"""Networks for other runtimes: ONNX, checked against ONNX Runtime, and torch.export programs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attacks.network import logits_of
from robustprune.deploy.copies import baked
from robustprune.deploy.csr import CSRLinear


def export_onnx(
    model: nn.Module, example: Tensor, path: Path | str, *, tolerance: float = 1e-4
) -> None:
    """Write `model` in eval mode as one ONNX file, and check it with ONNX Runtime.

    Input "x" and output "logits" have a batch dimension of any size; masks are baked in, and CSR
    layers become dense ones, since ONNX has no sparse product. Needs `robustprune[export]`.

    Args:
        example: a batch (N, ...), N at least 2: exporters take a dimension of 1 as fixed.
        path: of the file, usually with the suffix .onnx.
        tolerance: greatest |Δ| allowed between both runtimes, relative to max(1, max |logit|).

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: an example of one, or outputs that differ by more than `tolerance`, in which
            case no file is left.
    """
    runtime = [needed(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    model, example, path = dense(model), _batch(example), Path(path)
    torch.onnx.export(
        model,
        (example,),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for x in (example, example[:1], torch.cat([example, example.flip(0)])):
        with torch.no_grad():
            expected = logits_of(model, x).cpu()
        got = torch.from_numpy(session.run(None, {"x": x.detach().cpu().numpy()})[0])
        gap = float((got - expected).abs().max())
        if not gap <= tolerance * max(1.0, float(expected.abs().max())):
            path.unlink()
            raise ValueError(
                f"ONNX Runtime's outputs differ from the network's by {gap:.3g}, more than "
                f"{tolerance:g}, on a batch of {len(x)}; no file was written"
            )


def export_program(
    model: nn.Module, example: Tensor, path: Path | str | None = None
) -> ExportedProgram:
    """`model` in eval mode as a `torch.export` program with a batch dimension of any size.

    Masks are baked in and CSR layers become dense ones. There is no function here to load such a
    file: `torch.export.load` unpickles what the file tells it to, so load only your own. To hand
    a network to others use `save_slim` or `export_onnx`.

    Args:
        example: a batch (N, ...), N at least 2: exporters take a dimension of 1 as fixed.
        path: where to write the program with `torch.export.save` (suffix .pt2), if anywhere.

    Raises:
        ValueError: an example of one.
    """
    program = torch.export.export(
        dense(model), (_batch(example),), dynamic_shapes=({0: Dim("batch")},), strict=False
    )
    if path is not None:
        torch.export.save(program, path)
    return program


def needed(name: str) -> Any:
    """A module of `robustprune[export]`; ImportError that says so where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs {name}; install it with: pip install 'robustprune[export]'"
        ) from error


def _batch(example: Tensor) -> Tensor:
    if len(example) < 2:
        raise ValueError(
            f"the example holds {len(example)} example; give at least 2, so that the exporter "
            "sees that the batch size is free"
        )
    return example


def dense(model: nn.Module) -> nn.Module:
    """A copy with plain dense weights."""
    model = baked(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, CSRLinear):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, module.dense())
    return model
