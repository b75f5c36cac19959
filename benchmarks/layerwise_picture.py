"""Draw robust accuracy against density from the results of `benchmarks.layerwise`.

python -m benchmarks.layerwise_picture --out runs/layerwise --case ecg200
python -m benchmarks.layerwise_picture --name methods --methods ours rigl harp+100 rst+100
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.kept import rows
from benchmarks.pictures import PICTURES
from robustprune.report.style import INK, Plot, canvas, finish, looks

#: method -> its name in the picture
NAMES = {
    "ours": "without training (ADMM, ERK, dense target)",
    "ours+10": "the same, then 10 epochs",
    "ours+10 rslad": "the same, then 10 epochs with a teacher (RSLAD)",
    "sparsegpt": "SparseGPT",
    "wanda": "Wanda",
    "magnitude": "magnitude",
    "hydra+100": "HYDRA, then 100 epochs",
    "harp+100": "HARP, then 100 epochs",
    "admm of training+100": "ADMM in training, then 100 epochs",
    "rst+100": "RST, then 100 epochs",
    "magnitude+100": "magnitude, then 100 epochs",
    "rigl": "RigL, sparse from the start",
    "granet": "GraNet",
    "flyingbird": "Flying Bird",
    "twinrep": "Twin-Rep",
}


def picture(found: Sequence[Mapping], case: str, methods: Sequence[str], name: str) -> Plot:
    """Means over seeds, with a bar of one standard deviation to either side."""
    mine = {
        (row["method"], row["density"], row["seed"]): float(row["robust"])
        for row in found
        if row["case"] == case
    }
    dense = fmean(value for (method, _, _), value in mine.items() if method == "dense")
    chosen = [one for one in methods if any(method == one for method, _, _ in mine)]
    look = looks(chosen)
    with canvas(width=7.6, height=4.2) as (figure, axes):
        axes.axhline(dense, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.annotate(
            f"dense: {dense:.1f}", (0.5, dense), xytext=(2, 5),
            textcoords="offset points", fontsize=9,
        )  # fmt: skip
        for method in chosen:
            densities = sorted({d for m, d, _ in mine if m == method}, reverse=True)
            values = [
                [v for (m, at, _), v in mine.items() if (m, at) == (method, d)] for d in densities
            ]
            axes.errorbar(
                densities,
                [fmean(part) for part in values],
                yerr=[stdev(part) if len(part) > 1 else 0.0 for part in values],
                label=NAMES[method],
                capsize=2,
                elinewidth=0.8,
                **look[method].line(),
            )
        axes.set_xscale("log")
        ticks = sorted({d for m, d, _ in mine if m in chosen}, reverse=True)
        axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(max(ticks) * 1.1, min(ticks) / 1.1)
        axes.set_xlabel("weights that are kept")
        axes.set_ylabel("robust accuracy (%),\nupper bound (attack)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        alt = f"Robust accuracy on {case} against density, by method; dense {dense:.1f}."
        return finish(figure, key=f"{name}-{case}", alt=alt)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--case", default="ecg200")
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--name", default="layerwise", help="the beginning of the file's name")
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    options = parser.parse_args()
    plot = picture(rows(options.out), options.case, options.methods, options.name)
    (options.pictures / f"{plot.key}.svg").write_text(plot.svg, encoding="utf-8")


if __name__ == "__main__":
    main()
