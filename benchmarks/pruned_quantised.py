"""Pruning, quantisation and distillation together: accuracy, robustness and bytes in one table.

    python -m benchmarks.pruned_quantised --data-dir DATA --out runs/pruned_quantised
    python -m benchmarks.pruned_quantised --out runs/pruned_quantised --table

Four networks of each data set, dense, pruned without training, fine-tuned after that under attack,
and fine-tuned with the dense network as teacher (RSLAD), each in float32, int8 and with 4-bit
weights. ECG200 and MNIST are the networks of `benchmarks.layerwise_networks` under --dense, and
SST-2 is MiniLM of the run --sentences of plm_minilm_sst2. Robust is who stood against transferred
and straight-through PGD and Square, judged by the quantised network itself (of stories260K, the
perplexity at the worse of transferred and own embedding attacks on each window). A line of
results.jsonl is one network in one form, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

from benchmarks.kept import note, rows
from benchmarks.pruned_quantised_table import DATA, FORMS, table
from robustprune.run.allocator import keep_freed_memory


def run(options: argparse.Namespace) -> None:
    from benchmarks.pruned_quantised_cells import judged, of

    options.out.mkdir(parents=True, exist_ok=True)
    done = {(r["data"], r["seed"], r["network"], r["form"]) for r in rows(options.out)}
    for name in options.data:
        judge, made = of(name, options)
        for seed in range(options.seeds if name == "ecg200" else 1):
            for network, make in made(seed):
                forms = [form for form in FORMS if (name, seed, network, form) not in done]
                if not forms:
                    continue
                began = time.process_time()
                model = make()
                training = time.process_time() - began
                for form in forms:
                    began = time.process_time()
                    row = {"data": name, "seed": seed, "network": network, "form": form}
                    row |= judged(judge, model, form)
                    row |= {"making": round(training, 1)}
                    note(options.out, {**row, "seconds": round(time.process_time() - began, 1)})
                    print(f"{name}, {seed}, {network}, {form}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dense", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--sentences", type=Path, help="folder of a run of plm_minilm_sst2")
    parser.add_argument("--out", type=Path, default=Path("runs/pruned_quantised"))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--seeds", type=int, default=3, help="networks of ECG200")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    if "sst2" in options.data and options.sentences is None and not options.table:
        parser.error("--data sst2 needs --sentences, the folder of a run of plm_minilm_sst2")
    keep_freed_memory()
    warnings.simplefilter("ignore")
    if not options.table:
        run(options)
    found = rows(options.out)
    print("\n\n".join(table(found, name) for name in DATA if any(r["data"] == name for r in found)))


if __name__ == "__main__":
    main()
