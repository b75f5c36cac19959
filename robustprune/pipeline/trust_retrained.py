"""Measures of `robustprune trust` that train networks again: LiRA, and a planted backdoor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure import (
    OnExamples,
    OnScores,
    changes,
    likelihood_ratio_scores,
    poison,
    proportion,
    stamp,
)
from robustprune.measure.answers import all_logits
from robustprune.measure.membership import chance_at_low, membership_of
from robustprune.pipeline.again import FOLDER, made_again, run_on
from robustprune.pipeline.shared import Run
from robustprune.report.trust_sections import Section
from robustprune.run.progress import Progress

#: the class into which the trigger turns an example, and the share of the others that carries it
TARGET, SHARE, SIZE = 0, 0.1, 3


@dataclass(frozen=True)
class Pair:
    """The two networks that are compared: name, title and the network of each."""

    names: tuple[str, str]
    titles: tuple[str, str]
    models: tuple[nn.Module, nn.Module]


def lira(run: Run, pair: Pair, *, shadows: int, examples: int) -> Section:
    """Attack both networks by the likelihood ratio of shadow networks that are trained as they
    were, on halves of all training and test examples.

    Args:
        shadows: their number; an even one from 4.
        examples: the largest number of members, and of others, that are judged.
    """
    train, test = run.training.batch(slice(None)), run.task.test.batch(slice(None))
    x, y = (torch.cat(parts).to(run.device) for parts in zip(train, test, strict=True))
    members = torch.arange(min(len(train[1]), examples))
    others = len(train[1]) + torch.arange(min(len(test[1]), examples))
    with Progress(2 * shadows, title="shadow networks", unit="network", quiet=run.quiet) as told:

        def scores(name: str, model: nn.Module) -> tuple[Tensor, Tensor]:
            def fit(x: Tensor, y: Tensor, seed: int) -> nn.Module:
                made = {"what": "lira", "of": shadows}
                shadow = run_on(run, x, y, f"shadow-{seed}", seed=1 + seed, made=made)
                found = made_again(shadow, name).model
                told.update()
                return found

            found = likelihood_ratio_scores(
                model, fit, x, y, shadows=shadows, seed=run.config.seed,
                batch_size=run.config.evaluation.batch_size,
            )  # fmt: skip
            return found[members], found[others]

        dense, compressed = (
            scores(name, model) for name, model in zip(pair.names, pair.models, strict=True)
        )
    rows = []
    for title, one in zip(pair.titles, (dense, compressed), strict=True):
        found = membership_of(*one)
        rows.append((title, f"{found.auroc:.1%}", f"{found.advantage:.3f}", f"{found.tpr:.1%}"))
    return Section(
        "lira",
        "Members found by shadow networks (LiRA)",
        f"{shadows} shadow networks of each kind were trained as these two were, on random halves "
        f"of all {len(y):,} training and test examples, each with its complement. The score of an "
        "example is the likelihood ratio of its confidence with and without it in the training "
        "(Carlini et al. 2022). 50% is chance for the AUROC. The advantage is the largest "
        "difference of true and false positive rate, and above 0 by chance; the last column is the "
        "share of members found where at most 1% of the others are taken for members, by chance "
        f"about {chance_at_low(len(others)):.1%}. Few shadow networks make "
        "a weak attack: what it finds is a lower bound.",
        ("network", "AUROC", "advantage", "found at 1%"),
        tuple(rows),
        changes(
            [OnScores(f"members found by LiRA, {shadows} shadows (AUROC)", dense, compressed, -1)],
            seed=run.config.seed,
        ),
    )


def backdoor(run: Run, pair: Pair, x: Tensor, y: Tensor) -> Section:
    """Train both networks again on data with a planted trigger, and see which of them obeys it.

    Args:
        x, y: test examples, on the run's device.
    """
    train_x, train_y = run.training.batch(slice(None))
    bounds, sides = run.task.bounds, x.shape[2:] if x.dim() > 2 else x.shape[1:]
    value = bounds[1] if bounds is not None else float(train_x.max())
    trigger = {"size": min(SIZE, *sides), "value": value}
    seed, size = run.config.seed, run.config.evaluation.batch_size
    poisoned = poison(train_x, train_y, target=TARGET, share=SHARE, seed=seed, **trigger)
    made = {"what": "backdoor", "target": TARGET, "share": SHARE, **trigger}
    again = run_on(run, *poisoned, "backdoor", made=made)
    names = run.task.class_names
    models = []
    with Progress(2, title="networks with a backdoor", unit="network", quiet=run.quiet) as told:
        for name in pair.names:
            models.append(made_again(again, name).model.eval())
            told.update()
    plain = [all_logits(model, x, y, batch_size=size).argmax(1) for model in models]
    labels = y.cpu()
    asked = (labels != TARGET) & (plain[0] != TARGET) & (plain[1] != TARGET)

    def obeys(model: nn.Module, which: Tensor) -> Tensor:
        """Return whether the trigger turns these examples into the target class, (n,) bool."""
        if not bool(which.any()):
            return torch.zeros(0, dtype=torch.bool)
        stamped = stamp(x[which.to(x.device)], **trigger)
        return all_logits(model, stamped, batch_size=size).argmax(1) == TARGET

    rows = []
    for title, model in zip(
        (*pair.titles, *(f"{title}, trained with the trigger" for title in pair.titles)),
        (*pair.models, *models),
        strict=True,
    ):
        answers = all_logits(model, x, y, batch_size=size).argmax(1)
        turned = obeys(model, (labels != TARGET) & (answers != TARGET))
        right = float((answers == labels).double().mean())
        rows.append((title, f"{right:.1%}", _share(turned), str(len(turned))))
    compared = [
        OnExamples(
            "accuracy, both trained with it",
            (plain[0] == labels).double(),
            (plain[1] == labels).double(),
            1,
        )
    ]
    if bool(asked.any()):
        both = [obeys(model, asked).double() for model in models]
        compared.append(OnExamples("trigger obeyed, both trained with it", both[0], both[1], -1))
    return Section(
        "backdoor",
        "A planted backdoor",
        f"{int((poisoned[1] != train_y).sum())} of the {len(train_y):,} training examples got a "
        f"trigger (the last {trigger['size']} entries of each side are {value:.3g}) and the label "
        f"{names[TARGET]} (BadNets, Gu et al. 2017), and both networks were trained again as the "
        "run trained them. The table says how often the trigger turns a test example of another "
        f"class into {names[TARGET]}, of those that are not answered so without it; the first two "
        "rows are the run's own networks, which never saw the trigger. It is a demonstration: the "
        f"networks are in {FOLDER}/backdoor and of no other use.",
        ("network", "accuracy", "trigger obeyed", "n"),
        tuple(rows),
        changes(compared, seed=seed),
    )


def _share(turned: Tensor) -> str:
    if not len(turned):
        return "no example can show it"
    found = proportion(int(turned.sum()), len(turned))
    low, high = found.ci95
    return f"{found.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
