"""Networks for integer arithmetic: a static float ONNX file, and its int8 form by calibration."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustprune.deploy.export import dense, needed

#: operators that integer toolchains expect to be gone
_FOLDED = ("BatchNormalization",)


@dataclass(frozen=True)
class Int8Files:
    """What `export_int8` wrote.

    Attributes:
        float_path, int8_path: the two ONNX files.
        float_bytes, int8_bytes: their sizes. They hold the graph too, which is most of a very
            small network's file.
    """

    float_path: Path
    int8_path: Path
    float_bytes: int
    int8_bytes: int


def export_int8(
    model: nn.Module,
    calibration: Tensor,
    path: Path | str,
    *,
    tolerance: float = 1e-4,
) -> Int8Files:
    """Write an int8-ready ONNX file of `model` at `path` and its int8 form beside it.

    The float file has static shapes, a batch of one, masks baked in, batch norm folded into the
    convolutions, and shapes inferred: what int8 toolchains ask for. The int8 file is ONNX
    Runtime's static quantisation of it: weights per channel, activations by the range that they
    have on the calibration examples, as pairs of QuantizeLinear and DequantizeLinear (QDQ), which
    other runtimes fuse. Needs `robustprune[export]`.

    Args:
        calibration: (N, ...) unattacked training examples; never the test set.
        path: of the float file; the int8 file's name ends in .int8.onnx.
        tolerance: greatest |Δ| allowed between torch and the float file, relative to
            max(1, max |logit|). What int8 costs in accuracy is for the caller to measure, with
            `onnx_logits`.

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: no calibration examples, batch norm that could not be folded, or outputs that
            differ by more than `tolerance`; no file is left then.
    """
    if len(calibration) == 0:
        raise ValueError("calibration holds no example; give some of the training examples")
    onnx, _ = (needed(name) for name in ("onnx", "onnxscript"))
    prepare = needed("onnxruntime.quantization.preprocess").quant_pre_process
    model, path = dense(model), Path(path)
    int8_path = path.with_suffix(f".int8{path.suffix}")
    with tempfile.TemporaryDirectory() as folder:
        raw, ready, small = (Path(folder) / f"{name}.onnx" for name in ("raw", "ready", "int8"))
        torch.onnx.export(
            model,
            (calibration[:1],),
            raw,
            input_names=["x"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        # its optimiser folds what the exporter left; all dimensions are numbers already
        prepare(str(raw), str(ready), skip_symbolic_shape=True)
        left = {node.op_type for node in onnx.load(str(ready)).graph.node} & set(_FOLDED)
        if left:
            raise ValueError(
                f"{', '.join(sorted(left))} is left in the exported network, which int8 toolchains "
                "do not take; put batch norm right behind a convolution or linear layer"
            )
        with torch.no_grad():
            expected = model(calibration).cpu()
        gap = float((onnx_logits(ready, calibration) - expected).abs().max())
        if not gap <= tolerance * max(1.0, float(expected.abs().max())):
            raise ValueError(
                f"ONNX Runtime's outputs differ from the network's by {gap:.3g}, more than "
                f"{tolerance:g}; no file was written"
            )
        _quantise(ready, small, calibration)
        path.write_bytes(ready.read_bytes())
        int8_path.write_bytes(small.read_bytes())
    return Int8Files(path, int8_path, path.stat().st_size, int8_path.stat().st_size)


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


def onnx_logits(path: Path | str, x: Tensor) -> Tensor:
    """(N, C) logits of a file of `export_int8` under ONNX Runtime on the CPU, one at a time.

    Without the runtime's optimisations, which on x86 processors without VNNI add up int8 products
    in 16 bits and saturate: what is measured is the file, as integer hardware computes it.

    Args:
        x: (N, ...).
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = x.detach().cpu().numpy()
    rows = [session.run(["logits"], {"x": row[None]})[0] for row in inputs]
    return torch.cat([torch.from_numpy(row) for row in rows])
