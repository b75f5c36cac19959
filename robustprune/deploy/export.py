"""Networks for other runtimes: ONNX, checked against ONNX Runtime, and torch.export programs."""

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
    """Write `model` in eval mode as one ONNX file, and check it with ONNX Runtime.

    Input "x" and output "logits" have a batch dimension of any size; masks are baked in, and CSR
    layers become dense ones, since ONNX has no sparse product. Of a model that returns more than
    its logits (see `attacks.logits_of`), the logits are what is exported. The file gets its name
    once it is checked. Needs `robustprune[export]`.

    Args:
        example: a batch (N, ...), N at least 2: exporters take a dimension of 1 as fixed.
        path: of the file, usually with the suffix .onnx; an older one stays if anything fails.
        tolerance: greatest |Δ| allowed between both runtimes, relative to max(1, max |logit|).

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: an example of one; a network that the exporter, another batch size or ONNX
            Runtime refuses; outputs that differ by more than `tolerance`. No file is written then.
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
    """`model` in eval mode as a `torch.export` program with a batch dimension of any size.

    Masks are baked in and CSR layers become dense ones; of a model that returns more than its
    logits, the logits are what comes out. There is no function here to load such a file:
    `torch.export.load` unpickles what the file tells it to, so load only your own. To hand a
    network to others use `save_slim` or `export_onnx`.

    Args:
        example: a batch (N, ...), N at least 2: exporters take a dimension of 1 as fixed.
        path: where to write the program with `torch.export.save` (suffix .pt2), if anywhere.

    Raises:
        ValueError: an example of one; a network that the exporter refuses, or of which it made
            another function. No file is written then.
    """
    model = exportable(model, _batch(example))
    try:
        with _without_warnings():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
        with torch.no_grad():
            got = program.module()(example.clone())
    except Exception as error:  # torch has no class of its own for what it can't export
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
    """A module of `robustprune[export]`; ImportError that says so where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs {name}; install it with: pip install 'robustprune[export]'"
        ) from error


def cause(error: BaseException) -> str:
    """What is at the root of an error, in one line: exporters wrap theirs several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Of torch's exporters, which warn of their own insides; what they made is compared anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Logits(nn.Module):
    """The logits alone of a network that returns more, or that works in place on its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x)


@torch.no_grad()
def exportable(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy with plain dense weights in eval mode that returns its logits and nothing else."""
    model = dense(model)
    given = example.clone()
    plain = isinstance(model(given), Tensor) and torch.equal(given, example)
    return model if plain else _Logits(model).eval()


def write_onnx(model: nn.Module, example: Tensor, path: Path, **options: Any) -> None:
    """Write what `exportable` returned, unchecked.

    Raises:
        ValueError: the exporter failed, in one line.
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
    """Refuse a file that gives other logits than the network on a batch."""
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
    """Refuse logits of ONNX Runtime that aren't those of torch.

    Raises:
        ValueError: another shape, or a difference beyond `tolerance`, relative to the logits.
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
    """A copy with plain dense weights.

    Raises:
        ValueError: what `baked` refuses, or a CSR layer with a hook.
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
