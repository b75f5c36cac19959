"""The table of `benchmarks.pruned_quantised`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustprune.measure import OnExamples, changes

DATA = ("ecg200", "mnist", "sst2", "stories")
NETWORKS = ("dense", "pruned", "pruned, fine-tuned", "pruned, distilled")
FORMS = ("float32", "int8", "4-bit weights")


def values(row: Mapping, key: str) -> Tensor:
    """The values of each example: 1 where it is right, or a loss in nats."""
    return torch.tensor([float(one) for one in row[key]], dtype=torch.float64)


def mean_over_seeds(found: Sequence[Mapping], key: str) -> Tensor:
    return torch.stack([values(row, key) for row in found]).mean(0)


def table(found: Sequence[Mapping], name: str) -> str:
    """One data set: the differences are paired by example, to the dense network in float32."""
    by = {
        (network, form): [
            r for r in found if (r["data"], r["network"], r["form"]) == (name, network, form)
        ]
        for network in NETWORKS
        for form in FORMS
    }  # fmt: skip
    by = {cell: mine for cell, mine in by.items() if mine}
    first = by["dense", "float32"]
    text, others = name == "stories", [cell for cell in by if cell != ("dense", "float32")]
    unit, better = ("nats", -1) if text else ("share", 1)
    compared = changes(
        [
            OnExamples(
                "/".join(cell), mean_over_seeds(first, "robust"),
                mean_over_seeds(by[cell], "robust"), better, unit,
            )
            for cell in others
        ]
    )  # fmt: skip
    told = {tuple(one.name.split("/")): one for one in compared}
    lines = [
        f"**{name}** (n = {len(values(first[0], 'robust'))}, networks: {len(first)})",
        "",
        "| network | form | kB | clean | robust, at most | change of robust [95%] | p after Holm |",
        "| :-- | :-- " + "| --: " * 5 + "|",
    ]
    for cell, mine in by.items():
        clean, robust = (mean_over_seeds(mine, key).mean() for key in ("clean", "robust"))
        size = sum(row["bytes"] for row in mine) / len(mine) / 1000
        cells = [f"{size:,.1f}"]
        if text:
            cells += [f"{clean.exp():.2f}", f"{robust.exp():.2f}"]
        else:
            alike = all(row.get("constant") is not None for row in mine)
            mark = " (one class for all)" if alike else ""
            cells += [f"{100 * clean:.1f}", f"{100 * robust:.1f}{mark}"]
        one = told.get(cell)
        if one is not None and one.se == 0:
            cells += ["none: the same on every example", ""]
        elif one is not None:
            scale, form = (1.0, "+.3f") if text else (100.0, "+.1f")
            ends = ", ".join(format(scale * end, form) for end in one.ci95)
            p = "< 0.001" if one.adjusted < 0.001 else f"{one.adjusted:.3f}"
            cells += [f"{format(scale * one.difference, form)} [{ends}]", p]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cell)} | {' | '.join(cells)} |")
    least = sorted(one.smallest for one in compared if one.smallest is not None and one.se > 0)
    if least:
        lines += [
            "",
            "A difference would have been shown with a probability of 80% from "
            f"{least[0]:.3g} to {least[-1]:.3g} {unit} on.",
        ]
    return "\n".join(lines)
