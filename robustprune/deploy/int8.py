"""Export networks for integer arithmetic: a static float ONNX file and its calibrated int8 form."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.network import logits_of
from robustprune.deploy.export import (
    cause,
    check_gap,
    dense,
    exportable,
    needed,
    write_onnx,
)
from robustprune.run.checkpoint import replacing

#: operators that integer toolchains do not accept
_FOLDED = ("BatchNormalization",)


@dataclass(frozen=True)
class Int8Files:
    """The files that `export_int8` wrote.

    Attributes:
        float_path, int8_path: the paths of the two ONNX files.
        float_bytes, int8_bytes: their sizes in bytes. They include the graph, which is most of the
            file of a very small network.
        float_weights: the bytes of the weights that are still floating point in the int8 file, by
            the operator that uses them: ONNX Runtime has no static int8 form of LSTM and GRU.
        cast_from: the network's dtype where it isn't float32, which is the dtype of both files;
            otherwise None.
    """

    float_path: Path
    int8_path: Path
    float_bytes: int
    int8_bytes: int
    float_weights: Mapping[str, int] = field(default_factory=dict)
    cast_from: str | None = None

    @property
    def note(self) -> str:
        """Say in whole sentences what is unusual about the files, or "" where nothing is."""
        said = []
        if self.cast_from is not None:
            said.append(f"The network is {self.cast_from}; both files hold it in float32.")
        if self.float_weights:
            parts = ", ".join(f"{size} bytes of {op}" for op, size in self.float_weights.items())
            said.append(f"These weights stayed float in the int8 file: {parts}.")
        if self.int8_bytes >= self.float_bytes:
            said.append(
                f"The int8 file has {self.int8_bytes} bytes, no fewer than the float file's "
                f"{self.float_bytes}: its graph is larger than what its weights save."
            )
        return " ".join(said)


def export_int8(
    model: nn.Module,
    calibration: Tensor,
    path: Path | str,
    *,
    tolerance: float = 1e-4,
) -> Int8Files:
    """Write an int8-ready ONNX file of `model` at `path`, and its int8 form beside it.

    The float file has what int8 toolchains need: static shapes, a batch of one, masks baked in,
    batch norm folded into the convolutions, and inferred shapes. The int8 file is its static
    quantisation by ONNX Runtime: weights are scaled per channel and activations by their range on
    the calibration examples, written as pairs of QuantizeLinear and DequantizeLinear (QDQ), which
    other runtimes fuse. A network of another dtype is cast to float32 first. If a network returns
    more than its logits, only the logits are exported. The function needs `robustprune[export]`.

    A warning, and `Int8Files.note` in the result, tell if weights stay float or if the int8 file is
    not smaller than the float file.

    Args:
        calibration: (N, ...) training examples that are not attacked; never use the test set.
        path: the path of the float file; the name of the int8 file ends in .int8.onnx. Both files
            appear under their names only after the check.
        tolerance: the greatest difference |Δ| of logits that is allowed between torch and the float
            file, relative to max(1, max |logit|). The caller can measure with `onnx_logits` what
            int8 costs in accuracy.

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: there are no calibration examples, the exporter or ONNX Runtime refuses the
            network, batch norm could not be folded, outputs differ by more than `tolerance`, or no
            weight could become int8. Then no file is written.
    """
    if len(calibration) == 0:
        raise ValueError("calibration holds no example; give some of the training examples")
    onnx, _ = (needed(name) for name in ("onnx", "onnxscript"))
    model, cast_from = _in_float32(dense(model))
    calibration, path = calibration.float(), Path(path)
    model = exportable(model, calibration[:1])
    int8_path = path.with_suffix(f".int8{path.suffix}")
    with tempfile.TemporaryDirectory() as folder:
        raw, ready, small = (Path(folder) / f"{name}.onnx" for name in ("raw", "ready", "int8"))
        write_onnx(model, calibration[:1], raw)
        _prepare(raw, ready)
        left = {node.op_type for node in onnx.load(str(ready)).graph.node} & set(_FOLDED)
        if left:
            raise ValueError(
                f"{', '.join(sorted(left))} is left in the exported network, which int8 toolchains "
                "do not take; put batch norm right behind a convolution or linear layer"
            )
        with torch.no_grad():
            expected = logits_of(model, calibration).cpu()
        try:
            got = onnx_logits(ready, calibration)
            _quantise(ready, small, calibration)
            onnx_logits(small, calibration[:1])
        except Exception as error:  # classes of ONNX Runtime that it doesn't export
            raise ValueError(
                f"ONNX Runtime can't run or quantise the network ({cause(error)}); no file was "
                "written"
            ) from error
        check_gap(got, expected, tolerance)
        float_weights = _float_weights(small)
        with replacing(path) as one, replacing(int8_path) as other:
            shutil.copyfile(ready, one)
            shutil.copyfile(small, other)
    sizes = path.stat().st_size, int8_path.stat().st_size
    files = Int8Files(path, int8_path, *sizes, float_weights, cast_from)
    if float_weights or files.int8_bytes >= files.float_bytes:
        warnings.warn(f"{int8_path.name}: {files.note}", stacklevel=2)
    return files


def _in_float32(model: nn.Module) -> tuple[nn.Module, str | None]:
    """Cast the network to float32 in place, and return it with its former dtype, None for
    float32."""
    held = (tensor.dtype for tensor in (*model.parameters(), *model.buffers()))
    others = {str(t) for t in held if t.is_floating_point and t != torch.float32}
    return model.float(), " and ".join(sorted(others)).replace("torch.", "") or None


def _prepare(source: Path, target: Path) -> None:
    """Fold the operators that the exporter left, and infer shapes; all dimensions are fixed
    already."""
    prepare = needed("onnxruntime.quantization.preprocess").quant_pre_process
    try:
        prepare(str(source), str(target), skip_symbolic_shape=True)
    except Exception as error:  # classes of ONNX Runtime that it doesn't export
        raise ValueError(
            f"ONNX Runtime can't prepare the exported network ({cause(error)}); no file was written"
        ) from error


def _float_weights(path: Path) -> dict[str, int]:
    """Return the bytes of floating point tensors of two and more dimensions, by the operator.

    Raises:
        ValueError: no such tensor is int8, so that the name of the file would be wrong.
    """
    onnx = needed("onnx")
    graph = onnx.load(str(path)).graph
    users = {name: node.op_type for node in graph.node for name in node.input}
    kinds = onnx.TensorProto
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    weights = {name: tensor for name, tensor in tensors.items() if len(tensor.dims) > 1}
    sizes = {kinds.FLOAT: 4, kinds.FLOAT16: 2, kinds.BFLOAT16: 2, kinds.DOUBLE: 8}
    found: dict[str, int] = {}
    for name, tensor in weights.items():
        if tensor.data_type in sizes:
            op = users.get(name, "an unused tensor")
            found[op] = found.get(op, 0) + sizes[tensor.data_type] * math.prod(tensor.dims)
    if not any(tensor.data_type == kinds.INT8 for tensor in weights.values()):
        held = ", ".join(found) or "no weights at all"
        raise ValueError(
            f"none of the network's weights could become int8 (it has {held}); use export_onnx, no "
            "file was written"
        )
    return found


def _quantise(source: Path, target: Path, calibration: Tensor) -> None:
    quantization = needed("onnxruntime.quantization")
    examples = iter([{"x": x.unsqueeze(0).cpu().numpy()} for x in calibration.detach()])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> object:
            return next(examples, None)

    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def onnx_network(path: Path | str) -> Callable[[Tensor], Tensor]:
    """Open a file of `export_int8`: a function from inputs (N, ...) to logits (N, C) on the CPU.

    It runs one example at a time with ONNX Runtime, on as many threads as torch uses. Optimisations
    of the runtime are switched off, because on x86 processors without VNNI they add int8 products
    in 16 bits and saturate. So the result is what integer hardware computes.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    classes = session.get_outputs()[0].shape[-1]

    def logits(x: Tensor) -> Tensor:
        inputs = x.detach().cpu().float().numpy()
        if not len(inputs):
            return torch.zeros(0, classes)
        rows = [session.run(["logits"], {"x": row[None]})[0] for row in inputs]
        return torch.cat([torch.from_numpy(row) for row in rows])

    return logits


def onnx_logits(path: Path | str, x: Tensor) -> Tensor:
    """Compute logits (N, C) of a file of `export_int8` on the CPU, as `onnx_network` does.

    Args:
        x: (N, ...), of any floating dtype.
    """
    return onnx_network(path)(x)
