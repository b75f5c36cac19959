"""The cost stage measures what the headline model costs: dense, masked, slim and sparse."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attacks import EvaluationWarning, Square
from robustprune.deploy import (
    export_int8,
    onnx_network,
    save_slim,
    slim,
    sparsify,
    straight_through,
)
from robustprune.deploy.language import language_sizes, save_slim_language, slim_language
from robustprune.measure import Cost, compare_cost, evaluate, robust_accuracy_quantised
from robustprune.minmax import EpochRecord
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.measure import test_examples
from robustprune.pipeline.shared import Run
from robustprune.report.wording import file_size, percent
from robustprune.search import training_work
from robustprune.sparsity import apply_masks
from robustprune.sparsity.plain import copy_of

#: the number of examples in a timed batch
BATCH = 64
#: the same for sentences, each of which is a hundred times the work of a series
SENTENCES = 8
#: how many test examples an int8 file is attacked on, and the queries of Square for each
INT8_EXAMPLES, INT8_QUERIES = 100, 300


def measure_cost(run: Run, dense: Fitted, headline: Fitted) -> None:
    """Write cost.json, and the smallest equivalent network as slim.safetensors.

    Timings differ from run to run, so they are not in metrics.json, whose content is reproducible.
    If something can't be measured, the note says so and the run goes on.
    """
    if (run.folder.path / "cost.json").exists():
        return
    forms: dict[str, nn.Module] = {}
    said: list[str] = []
    rows: list[Cost] = []
    try:
        example = _example(run)
        said += _add_forms(run, dense, headline, forms, example)
        rows, left_out = _compared(forms, example)
        said += [*left_out, _trained(run, headline)]
    except OSError:  # the disk is full, so that the next file could not be written either
        raise
    except Exception as error:
        said.append(_unmeasured("cost", error))
    content: dict[str, Any] = {
        "headline": headline.title,
        "note": " ".join(filter(None, said)),
        "rows": [asdict(cost) for cost in rows],
    }
    run.folder.write_json("cost.json", content)
    run.folder.log("cost", forms=[cost.name for cost in rows])


def _example(run: Run) -> Tensor:
    text = run.task.train.present is not None
    return test_examples(run)[0][: SENTENCES if text else BATCH]


def _add_forms(
    run: Run, dense: Fitted, headline: Fitted, forms: dict[str, nn.Module], example: Tensor
) -> list[str]:
    """Make the forms that are compared. Return sentences on those that could not be made."""
    masked = copy_of(headline.model)
    apply_masks(masked, headline.masks)
    forms["dense"] = dense.model
    forms["masks applied on the fly"] = masked
    forms["masks baked in"] = headline.model
    said = []
    try:
        if run.task.train.present is not None:
            said.append(_slim_sentences(run, headline, forms))
        else:
            said.append(_slim(run, headline, forms, example))
    except OSError:
        raise
    except Exception as error:
        said.append(_unmeasured("slim form", error))
    if run.config.deploy.int8:
        try:
            said.append(_int8(run, forms.get("slim", headline.model)))
        except OSError:
            raise
        except Exception as error:
            said.append(_unmeasured("int8 file", error))
    return said


def _compared(forms: dict[str, nn.Module], example: Tensor) -> tuple[list[Cost], list[str]]:
    """Return the costs of the forms that run, and sentences on what is not counted or does not
    run."""
    said = []
    for name, model in list(forms.items()):
        try:
            compare_cost({name: model}, example, repeats=1, warmup=0)
        except Exception as error:
            said.append(_unmeasured(name, error))
            del forms[name]
    # the others are compared with the dense one
    rows = compare_cost(forms, example) if "dense" in forms else []
    partial = {_first(cost.uncounted): None for cost in rows if cost.uncounted}
    said += [f"The MACs leave out the products of {names}." for names in partial]
    return rows, said


def _trained(run: Run, headline: Fitted) -> str:
    """Return a sentence on the cost of a sparse training, or nothing."""
    path = run.folder.path / "models" / headline.name / "history.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    records = [EpochRecord(**json.loads(line)) for line in lines]
    if training_work(records, 0) is None:
        return ""
    inner, natural = run.config.inner, run.config.objective.name == "natural"
    steps = 0 if natural else inner.steps if inner.attack == "pgd" else 1
    share = training_work(records, steps) or 0.0
    seconds = sum(record.seconds for record in records)
    return (
        f"Training {headline.title}: an engine that skips zeros would need {percent(share)}% of "
        "the multiply-accumulates that dense training needs in the masked layers. Here it took "
        f"{seconds:.0f} s, as long as dense training, because zeros are multiplied, too."
    )


def _first(names: tuple[str, ...], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _unmeasured(what: str, error: Exception) -> str:
    """Return a sentence for the note of the record."""
    lines = str(error).splitlines() or [""]
    return f"Not measured: {what} ({type(error).__name__}: {lines[0][:200]})."


def _int8(run: Run, model: nn.Module) -> str:
    """Write headline.onnx and headline.int8.onnx. Return a sentence on their size and accuracy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the record has its note
            files = export_int8(model, run.training.x, run.folder.path / "headline.onnx")
    except (ImportError, ValueError) as error:  # both errors say what to do
        return f"No int8 file: {error}."
    sizes = [file_size(size) for size in (files.int8_bytes, files.float_bytes)]
    return (
        f"int8: headline.int8.onnx has {sizes[0]}, headline.onnx in float {sizes[1]}. "
        + _int8_accuracy(run, model, files.int8_path)
        + (f" {files.note}" if files.note else "")
    )


def _int8_accuracy(run: Run, model: nn.Module, path: Path) -> str:
    """Return a sentence on the accuracy of an int8 file, clean and under three kinds of attacks."""
    x, y = (part[:INT8_EXAMPLES] for part in test_examples(run))
    section, seed = run.config.evaluation, run.config.seed
    size = section.batch_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvaluationWarning)  # the sentence says it
        found = robust_accuracy_quantised(
            model,
            onnx_network(path),
            x,
            y,
            run.threat,
            straight_through=straight_through(model, run.training.x.to(x.device)),
            steps=section.steps,
            step_size=section.step_size,
            restarts=section.restarts,
            queries=INT8_QUERIES,
            seed=seed,
            batch_size=size,
        )
    attacks = run.evaluation_attacks() | {
        "square": Square(run.threat, queries=INT8_QUERIES, seed=seed)
    }
    plain = evaluate(model, x, y, attacks, batch_size=size)
    flat = int(found.flat.sum())
    clean, robust, float_clean, float_robust = (
        percent(float(right.double().mean()))
        for right in (found.clean, found.worst, plain.clean, plain.worst)
    )
    return (
        f"Under ONNX Runtime the int8 file is right on {clean}% (float {float_clean}%) of the "
        f"first {len(y):,} test examples, and under attack on at most {robust}% (float "
        f"{float_robust}%): the worst of PGD on the float network, PGD through the rounding, and "
        f"Square with {INT8_QUERIES} queries, each judged by the int8 file itself; of the float "
        "network, the worst of the run's attacks and Square."
        + (f" At {flat} of the examples that stood, only Square could move, because both gradients "
           "are exactly zero there." if flat else "")
    )  # fmt: skip


def _slim(run: Run, headline: Fitted, forms: dict[str, nn.Module], example: Tensor) -> str:
    """Add the smallest equivalent networks to `forms`. Return a sentence if there are none."""
    try:
        small = slim(headline.model, None, example)
    except ValueError as error:  # the message names the operation that can't be slimmed
        return f"No slim form: {error}."
    forms["slim"] = small
    sparse = sparsify(small, None, example)
    forms["slim, CSR where measured faster"] = sparse
    save_slim(run.folder.path / "slim.safetensors", sparse)
    return ""


def _slim_sentences(run: Run, headline: Fitted, forms: dict[str, nn.Module]) -> str:
    """Add a transformer without its dead heads and neurons to `forms`, or return why not."""
    small = slim_language(headline.model)
    if language_sizes(small) == language_sizes(headline.model):
        return "No slim form: every head and every neuron has a weight left."
    forms["dead heads and neurons removed"] = small
    save_slim_language(run.folder.path / "slim.safetensors", small)
    return ""
