"""The measure "set-difference" of `robustprune trust`: weights that matter on one set alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.measure import Brittleness, OnExamples, brittleness, changes
from robustprune.measure.answers import all_logits
from robustprune.minmax import Batches
from robustprune.pipeline.shared import Run
from robustprune.pipeline.trust_retrained import Pair
from robustprune.report.trust_sections import Section

_ABOUT = (
    "S₁ and S₂ are the {top:.0%} of the weights of each row with the largest Wanda scores on the "
    "first and on the second set. The weights of S₁ that are not in S₂ are removed (Wei et al. "
    "2024), and as a control as many random ones of each layer. First set: {first}. Second set: "
    "{second}. Losses are means in nats, on examples that took no part in the choice."
)
TOP = 0.05


def class_sets(run: Run, pair: Pair, x: Tensor, y: Tensor, *, examples: int) -> Section:
    """Compare the first class with all others: training examples choose, test examples measure.

    Args:
        x, y: test examples, on the run's device.
        examples: the largest number of training examples.
    """
    train_x, train_y = run.training.batch(slice(examples))
    size = run.config.evaluation.batch_size

    def batches(mine: Tensor) -> Batches:
        xs, ys = train_x[mine], train_y[mine]
        if not len(ys):
            raise ValueError(
                "set-difference needs training examples of the first class and of another one "
                f"among the first {examples:,}; give more --examples"
            )
        parts = zip(torch.split(xs, size), torch.split(ys, size), strict=True)
        return [(a.to(run.device), b.to(run.device)) for a, b in parts]

    def losses(network: nn.Module) -> tuple[Tensor, Tensor]:
        logits, labels = all_logits(network, x, y, batch_size=size), y.cpu()
        found = F.cross_entropy(logits, labels, reduction="none")
        return found[labels == 0], found[labels != 0]

    if min(int((y == 0).sum()), int((y != 0).sum())) < 2:
        raise ValueError(
            "set-difference needs two test examples of the first class and two of others among the "
            f"first {len(y):,}; give more --examples"
        )
    name = run.task.class_names[0]
    dense, compressed = (
        brittleness(
            model, batches(train_y == 0), batches(train_y != 0), losses, top=TOP, rest=TOP,
            dense=run.config.search.dense, seed=run.config.seed,
        )
        for model in pair.models
    )  # fmt: skip
    return difference_section(
        pair, dense, compressed, f"class {name}", "all other classes", run.config.seed
    )


def difference_section(
    pair: Pair, dense: Brittleness, compressed: Brittleness, first: str, second: str, seed: int
) -> Section:
    """Return the section of both networks; `first` and `second` name the two sets."""
    rows = [
        (
            title,
            f"{one.removed:,} of {one.total:,}",
            *(
                f"{float(part[place].mean()):.3f}"
                for place in (0, 1)
                for part in (one.whole, one.without, one.random)
            ),
        )
        for title, one in zip(pair.titles, (dense, compressed), strict=True)
    ]
    return Section(
        "set-difference",
        "Weights that matter on one set alone",
        _ABOUT.format(top=TOP, first=first, second=second),
        (
            "network", "weights removed",
            *(f"{name} set, {what}" for name in ("first", "second")
              for what in ("whole", "without", "random ones")),
        ),
        tuple(rows),
        changes(
            [
                OnExamples(
                    f"loss that the removal adds, {name} set", dense.added[place],
                    compressed.added[place], -1, "nats",
                )
                for place, name in enumerate(("first", "second"))
            ],
            seed=seed,
        ),
    )  # fmt: skip
