"""The cost stage: what the headline network costs dense, masked, slim and sparse."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustprune.deploy import export_int8, onnx_logits, save_slim, slim, sparsify
from robustprune.deploy.language import language_sizes, save_slim_language, slim_language
from robustprune.measure import compare_cost
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.measure import test_examples
from robustprune.pipeline.prepare import Run
from robustprune.report.wording import file_size, percent
from robustprune.sparsity import apply_masks

#: examples in a timed batch
BATCH = 64
#: likewise of sentences, a hundred times the work of a series
SENTENCES = 8


def measure_cost(run: Run, dense: Fitted, headline: Fitted) -> None:
    """Write cost.json, and the smallest equal network as slim.safetensors.

    Timings differ from run to run, so they stand apart from metrics.json, which does not.
    """
    if (run.folder.path / "cost.json").exists():
        return
    text = run.task.train.present is not None
    example = test_examples(run)[0][: SENTENCES if text else BATCH]
    masked = copy.deepcopy(headline.model)
    apply_masks(masked, headline.masks)
    forms: dict[str, nn.Module] = {
        "dense": dense.model,
        "masks applied on the fly": masked,
        "masks baked in": headline.model,
    }
    note = _slim_sentences(run, headline, forms) if text else _slim(run, headline, forms, example)
    if run.config.deploy.int8:
        note = " ".join(filter(None, (note, _int8(run, forms.get("slim", headline.model)))))
    rows = [asdict(cost) for cost in compare_cost(forms, example)]
    content: dict[str, Any] = {"headline": headline.title, "note": note, "rows": rows}
    run.folder.write_json("cost.json", content)
    run.folder.log("cost", forms=list(forms))


def _int8(run: Run, model: nn.Module) -> str:
    """Write headline.onnx and headline.int8.onnx; returns a sentence on size and accuracy."""
    try:
        files = export_int8(model, run.training.x, run.folder.path / "headline.onnx")
    except (ImportError, ValueError) as error:  # both say what to do
        return f"No int8 file: {error}."
    x, y = test_examples(run)
    attacked = run.evaluation_attacks()[f"pgd{run.config.evaluation.steps}"](model, x, y)

    def accuracy(path: Path, inputs: Tensor) -> str:
        return percent(float((onnx_logits(path, inputs).argmax(1) == y.cpu()).float().mean()))

    clean, robust = (
        [accuracy(path, inputs) for path in (files.int8_path, files.float_path)]
        for inputs in (x, attacked)
    )
    sizes = [file_size(size) for size in (files.int8_bytes, files.float_bytes)]
    return (
        f"int8: headline.int8.onnx has {sizes[0]}, headline.onnx in float {sizes[1]}. Under ONNX "
        f"Runtime the int8 file is right on {clean[0]}% of {len(y)} clean test examples (float "
        f"{clean[1]}%) and on {robust[0]}% (float {robust[1]}%) of the adversarial examples of the "
        "float network, an upper bound: none were made of the int8 file itself."
    )


def _slim(run: Run, headline: Fitted, forms: dict[str, nn.Module], example: Tensor) -> str:
    """Add the smallest equal networks to `forms`; returns why there are none."""
    try:
        small = slim(headline.model, None, example)
    except ValueError as error:  # an operation that cannot be taken apart, named in the message
        return f"No slim form: {error}."
    forms["slim"] = small
    sparse = sparsify(small, None, example)
    forms["slim, CSR where measured faster"] = sparse
    save_slim(run.folder.path / "slim.safetensors", sparse)
    return ""


def _slim_sentences(run: Run, headline: Fitted, forms: dict[str, nn.Module]) -> str:
    """The same for a transformer, whose heads and neurons are what can be taken out."""
    small = slim_language(headline.model)
    if language_sizes(small) == language_sizes(headline.model):
        return "No slim form: every head and every neuron has a weight left."
    forms["dead heads and neurons removed"] = small
    save_slim_language(run.folder.path / "slim.safetensors", small)
    return ""
