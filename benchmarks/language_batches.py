"""Sentences a second in fine-tuning: batches as they come, and of sentences of like length.

    OMP_NUM_THREADS=1 python -m benchmarks.language_batches --data-dir DATA

MiniLM on SST-2, batches of 32, each way of batching timed for some steps of the project's own loop,
in float32 and in bfloat16, in turns; the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from robustprune.minmax import Natural, OptimizerSpec, train
from robustprune.models import SentenceTokenizer, language_model
from robustprune.packing import token_counts
from robustprune.run.allocator import keep_freed_memory
from robustprune.tasks import BatchLoader, text_task


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="sst2", help="sst2 needs --data-dir")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--batches", type=int, default=50, help="a round; 50 are one pool of lengths"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    task = text_task(options.task, SentenceTokenizer(max_length=64), data_dir=options.data_dir)
    torch.manual_seed(0)
    model = language_model(task.input_shape, task.num_classes)
    spec = OptimizerSpec(name="adamw", lr=1e-5)
    counts = token_counts(task.train.x)
    seconds: dict[tuple[str, bool], list[float]] = {}
    for round_ in range(options.repeats):
        for kind, lengths in (("as they come", None), ("by length", counts)):
            loader = BatchLoader(task.train, 32, shuffle=True, seed=round_, lengths=lengths)
            batches = list(islice(loader, options.batches))
            for amp in (False, True):
                started = time.perf_counter()
                train(model, batches, Natural(), optimizer=spec, epochs=1, amp=amp, quiet=True)
                seconds.setdefault((kind, amp), []).append(time.perf_counter() - started)
    print("| batches | float32, sentences/s | bfloat16 |\n| --- | --- | --- |")
    for kind in ("as they come", "by length"):
        rates = [
            32 * options.batches / statistics.median(seconds[kind, amp]) for amp in (False, True)
        ]
        print(f"| {kind} | {rates[0]:.0f} | {rates[1]:.0f} |")


if __name__ == "__main__":
    main()
