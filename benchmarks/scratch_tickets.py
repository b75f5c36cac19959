"""Scratch tickets against dense adversarially trained networks, over several seeds.

    python -m benchmarks.scratch_tickets --config rst_ecg200 --seeds 5
    python -m benchmarks.scratch_tickets --config rst_mnist --dense width=4 units=null \\
        --data-dir DATA

Trains, for each seed, the dense baseline and the ticket of every density of the config, measures
both on the whole test set and prints mean ± sd in percent. With --dense the baseline is a
narrower network of the same family, chosen to have as many weights as the ticket keeps. Finished
parts are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from robustprune.measure import mean_sd
from robustprune.pipeline.fit import fit_dense
from robustprune.pipeline.measure import measure_model
from robustprune.pipeline.methods import ROWS
from robustprune.pipeline.prepare import prepare
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.config import Config, load_config
from robustprune.run.packaged import config_path
from robustprune.run.runtime import choose_device


def one_seed(config: Config, options: argparse.Namespace) -> list[dict]:
    """Entries of the baselines and tickets of one seed."""
    common = {
        "out": options.out,
        "data_dir": options.data_dir,
        "device": choose_device(options.device),
        "quiet": options.quiet,
    }
    run = prepare(config, **common)
    dense = run
    if options.dense:
        changed = {key: yaml.safe_load(value) for key, _, value in options.dense}
        model = {**config.model.options, **changed}
        section = config.model.model_copy(update={"options": model})
        dense = prepare(config.model_copy(update={"model": section}), **common)
    entries = []
    if "natural" in options.models:
        natural = fit_dense(dense, "natural", config.natural, robust=False)
        entries.append(measure_model(dense, natural))
    if "adversarial" in options.models:
        fitted = fit_dense(dense, "adversarial", config.adversarial, robust=True)
        entries.append(measure_model(dense, fitted))
    if "rst" in options.models:
        for density in config.search.density:
            found = ROWS["rst"].search(run, density, f"rst-{density:g}", None)
            entries.append(measure_model(run, found.ticket))
    return entries


def table(results: list[list[dict]]) -> str:
    """Markdown: one row a model, mean ± sd over seeds."""
    attacks = [name for name in results[0][0]["robust"] if name != "worst"]
    rows = ["| network | weights kept | clean | " + " | ".join(attacks) + " | n × seeds |"]
    rows.append("| --- " * (len(attacks) + 4) + "|")
    for entries in zip(*results, strict=True):
        figures = [[e["clean"]["value"] for e in entries]]
        figures += [[e["robust"][name]["value"] for e in entries] for name in attacks]
        cells = [_spread(values) for values in figures]
        first = entries[0]
        n = f"{first['clean']['n']} × {len(entries)}"
        rows.append(f"| {first['title']} | {first['kept']:,} | {' | '.join(cells)} | {n} |")
    return "\n".join(rows)


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.2f}"
    spread = mean_sd(values)
    return f"{100 * spread.mean:.1f} ± {100 * spread.sd:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="rst_ecg200")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--dense",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        type=lambda text: text.partition("="),
        help="options of the dense baseline's network that differ, e.g. width=4 units=null",
    )
    parser.add_argument("--models", nargs="+", default=["natural", "adversarial", "rst"])
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    results = []
    for seed in range(options.seeds):
        config = load_config(config_path(options.config), [*options.overrides, f"seed={seed}"])
        results.append(one_seed(config, options))
        print(json.dumps({e["name"]: [e["clean"]["value"], e["robust"]] for e in results[-1]}))
    print(table(results))


if __name__ == "__main__":
    main()
