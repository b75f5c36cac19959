"""Export networks to other runtimes: ONNX, checked with ONNX Runtime, and torch.export programs."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attacks.network import check_no_hooks, logits_of
from robustprune.deploy.copies import baked
from robustprune.deploy.csr import CSRLinear
from robustprune.run.checkpoint import replacing


def export_onnx(
    model: nn.Module, example: Tensor, path: Path | str, *, tolerance: float = 1e-4
) -> None:
    """Write `model` in eval mode as one ONNX file and check it with ONNX Runtime.

    The input "x" and the output "logits" have a batch dimension of any size. Masks are baked in,
    and CSR layers become dense ones, because ONNX has no sparse product. If a model returns more
    than its logits (see `attacks.logits_of`), only the logits are exported. The file appears under
    its name only after the check. The function needs `robustprune[export]`.

    Args:
        example: a batch (N, ...) with N at least 2, because exporters assume that a dimension of 1
            is fixed.
        path: the path of the file, usually with the suffix .onnx; an older file stays if anything
            fails.
        tolerance: the greatest difference |Δ| of logits that is allowed between the two runtimes,
            relative to max(1, max |logit|).

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: the example has one row; the exporter, ONNX Runtime or the network itself at
            another batch size fails; or outputs differ by more than `tolerance`. Then no file is
            written.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needed(name)
    example, path = _batch(example), Path(path)
    model = exportable(model, example)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "network.onnx"
        write_onnx(model, example, made, dynamic_shapes=({0: Dim("batch")},))
        session = _session(made, example.dtype)
        for x in (example, example[:1], torch.cat([example, example.flip(0)])):
            _compare(model, session, x, len(example), tolerance)
        with replacing(path) as temporary:
            shutil.copyfile(made, temporary)


def export_program(
    model: nn.Module, example: Tensor, path: Path | str | None = None
) -> ExportedProgram:
    """Export `model` in eval mode as a `torch.export` program with a batch dimension of any size.

    Masks are baked in and CSR layers become dense ones; if a model returns more than its logits,
    the program returns only the logits. This package has no function to load such a file:
    `torch.export.load` unpickles what is in the file, so load only your own. Use `save_slim` or
    `export_onnx` to give a network to others.

    Args:
        example: a batch (N, ...) with N at least 2, because exporters assume that a dimension of 1
            is fixed.
        path: where `torch.export.save` writes the program (suffix .pt2); None writes no file.

    Raises:
        ValueError: the example has one row, the exporter refuses the network, or the program
            computes another function. Then no file is written.
    """
    model = exportable(model, _batch(example))
    try:
        with _without_warnings():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
        with torch.no_grad():
            got = program.module()(example.clone())
    except Exception as error:  # torch has no common class for its export errors
        raise ValueError(f"the network can't be exported: {cause(error)}") from error
    with torch.no_grad():
        expected = logits_of(model, example)
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError("torch.export made another function of the network; no file was written")
    if path is not None:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "network.pt2"
            torch.export.save(program, made)
            with replacing(Path(path)) as temporary:
                shutil.copyfile(made, temporary)
    return program


def needed(name: str) -> Any:
    """Import a module of `robustprune[export]`; an ImportError tells how to install a missing
    one."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs {name}; install it with: pip install 'robustprune[export]'"
        ) from error


def cause(error: BaseException) -> str:
    """Return the root cause of an error in one line, because exporters wrap errors several
    times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the warnings of torch's exporters about their own code; the result is compared
    anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Logits(nn.Module):
    """Return only the logits of a network that returns more, or that changes its input in place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x)


@torch.no_grad()
def exportable(model: nn.Module, example: Tensor) -> nn.Module:
    """Copy the network in eval mode with plain dense weights, so that it returns only its
    logits."""
    model = dense(model)
    given = example.clone()
    plain = isinstance(model(given), Tensor) and torch.equal(given, example)
    return model if plain else _Logits(model).eval()


def write_onnx(model: nn.Module, example: Tensor, path: Path, **options: Any) -> None:
    """Write the result of `exportable` as an ONNX file, without a check.

    Raises:
        ValueError: the exporter failed; the message has one line.
    """
    try:
        with _without_warnings():
            torch.onnx.export(
                model,
                (example,),
                path,
                input_names=["x"],
                output_names=["logits"],
                dynamo=True,
                external_data=False,
                verbose=False,
                **options,
            )
    except Exception as error:  # its own errors wrap those of torch.export and of the network
        raise ValueError(
            f"the network can't be exported to ONNX: {cause(error)}; no file was written"
        ) from error


def _session(path: Path, dtype: torch.dtype) -> Any:
    try:
        return needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of ONNX Runtime that it doesn't export
        raise ValueError(_unrun(error, dtype)) from error


def _unrun(error: Exception, dtype: torch.dtype) -> str:
    hint = "" if dtype == torch.float32 else f"; it is {dtype}, export model.float() instead"
    return (
        f"ONNX Runtime can't run the exported network ({cause(error)}){hint}; no file was written"
    )


def _compare(model: nn.Module, session: Any, x: Tensor, size: int, tolerance: float) -> None:
    """Refuse a file whose logits differ from those of the network on a batch."""
    try:
        with torch.no_grad():
            expected = logits_of(model, x).cpu()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the network takes a batch of {size} but not one of {len(x)} ({cause(error)}); its "
            "forward fixes a size, write x.flatten(1) instead; no file was written"
        ) from error
    try:
        got = torch.from_numpy(session.run(None, {"x": x.detach().cpu().numpy()})[0])
    except Exception as error:  # classes of ONNX Runtime that it doesn't export
        raise ValueError(_unrun(error, x.dtype)) from error
    check_gap(got, expected, tolerance)


def check_gap(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Refuse logits of ONNX Runtime that differ from those of torch.

    Raises:
        ValueError: the shapes differ, or the difference is larger than `tolerance`, relative to the
            logits.
    """
    if got.shape != expected.shape:
        raise ValueError(
            f"ONNX Runtime's outputs have shape {tuple(got.shape)}, the network's "
            f"{tuple(expected.shape)}; no file was written"
        )
    gap = float((got - expected).abs().max())
    if not gap <= tolerance * max(1.0, float(expected.abs().max())):
        raise ValueError(
            f"ONNX Runtime's outputs differ from the network's by {gap:.3g}, more than "
            f"{tolerance:g}, on a batch of {len(expected)}; no file was written"
        )


def _batch(example: Tensor) -> Tensor:
    if len(example) < 2:
        raise ValueError(
            f"the example holds {len(example)} example; give at least 2, so that the exporter "
            "sees that the batch size is free"
        )
    return example


def dense(model: nn.Module) -> nn.Module:
    """Copy the network with plain dense weights.

    Raises:
        ValueError: `baked` refuses the network, or a CSR layer has a hook.
    """
    model = baked(model)
    made: dict[nn.Module, nn.Linear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, CSRLinear):
            check_no_hooks(module)
            owner, _, leaf = name.rpartition(".")
            layer = made.setdefault(module, module.dense())
            if not leaf:
                return layer
            setattr(model.get_submodule(owner), leaf, layer)
    return model
