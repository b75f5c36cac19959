"""Draw every network of `benchmarks.layerwise` at one density as a dot beside its dense network.

python -m benchmarks.methods_picture --out benchmarks/results/layerwise --density 0.02
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.kept import rows
from benchmarks.pictures import PICTURES
from robustprune.report.style import INK, Plot, canvas, finish

#: method -> its name in the picture, from above
NAMES = {
    "hydra, erk+100": "HYDRA from shares of ERK, then 100 epochs",
    "harp, erk+100": "HARP from shares of ERK, then 100 epochs",
    "magnitude, erk+100": "magnitude with shares of ERK, then 100 epochs",
    "ours+100 rslad": "without training, then 100 epochs with a teacher",
    "rigl": "RigL, sparse from the start",
    "twinrep": "Twin-Rep, from new weights",
    "rst+100": "RST, then 100 epochs",
    "ours+10 rslad": "without training, then 10 epochs with a teacher",
    "harp+100": "HARP from equal shares, then 100 epochs",
    "ours": "without training",
}


def picture(found: Sequence[Mapping], case: str, density: float) -> Plot:
    """Robust accuracy less that of the dense network of the same seed, in points."""
    mine = {
        (row["method"], row["seed"]): float(row["robust"])
        for row in found
        if row["case"] == case and row["density"] in (1.0, density)
    }
    chosen = [name for name in NAMES if any(method == name for method, _ in mine)]
    with canvas(width=7.6, height=0.5 + 0.38 * len(chosen)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        for place, method in enumerate(reversed(chosen)):
            values = [
                value - mine["dense", seed] for (m, seed), value in mine.items() if m == method
            ]
            # equal values stand above one another
            heights = [
                place + 0.09 * (values[:number].count(value) - (values.count(value) - 1) / 2)
                for number, value in enumerate(values)
            ]
            axes.plot(values, heights, "o", color=INK, markersize=3.2, alpha=0.55, linewidth=0)
            axes.plot([fmean(values)] * 2, [place - 0.34, place + 0.34], color=INK, linewidth=2)
        axes.set_yticks(range(len(chosen)), [NAMES[name] for name in reversed(chosen)])
        axes.set_ylim(-0.6, len(chosen) - 0.4)
        axes.set_xlabel("robust accuracy less that of the dense network,\nin points (upper bounds)")
        alt = (
            f"Robust accuracy of each network that keeps {100 * density:g}% of its weights, less "
            "that of its dense network, by method; a bar is the mean."
        )
        return finish(figure, key=f"methods-{case}", alt=alt)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/layerwise"))
    parser.add_argument("--case", default="ecg200")
    parser.add_argument("--density", type=float, default=0.02)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    options = parser.parse_args()
    plot = picture(rows(options.out), options.case, options.density)
    (options.pictures / f"{plot.key}.svg").write_text(plot.svg, encoding="utf-8")


if __name__ == "__main__":
    main()
