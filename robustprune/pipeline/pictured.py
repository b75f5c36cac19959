"""Keep one test example before and after an attack, which the report shows as its first picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attacks.inputs import predict
from attacks.modes import evaluating
from attacks.returned import attacked
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.measure import test_examples
from robustprune.pipeline.shared import Run
from robustprune.run.checkpoint import save_tensors
from robustprune.run.rundir import PICTURED
from robustprune.run.runtime import seed_stage
from robustprune.sparsity import computed_once

#: the number of examples that are attacked again, one of which is kept
CANDIDATES = 8
#: the most numbers of an example that is kept; a picture of more would show nothing
MOST_NUMBERS = 1_000_000


def keep_example(
    run: Run, networks: Sequence[Fitted], headline: Fitted, entries: Sequence[Mapping[str, Any]]
) -> None:
    """Attack one test example on each of some networks, and write what happened to a file.

    It is the first example that every network classifies correctly without attack, and that under
    the attack the headline network gets right and another one wrong. Where there is none, it is the
    first that they all get right and that the attack changes for one of them, or else the first
    that they all get right, or else the first. The file has x; for each network x_adv and the
    logits (C,) of both; and the index, the label and the attack as JSON.

    Args:
        networks: the headline network and those that it is compared with.
        entries: the entries of metrics.json, with the answers of each network on every example.
    """
    x, y = test_examples(run)
    if run.task.train.present is not None or x[0].numel() > MOST_NUMBERS:
        return  # sentences are shown as text
    if run.folder.has(PICTURED):
        return
    seed_stage(run.config.seed, PICTURED)
    name = f"pgd{run.config.evaluation.steps}"
    names = [fitted.name for fitted in networks]
    right = {e["name"]: e["per_example"] for e in entries if e["name"] in names}
    order = sorted(
        range(len(y)),
        key=lambda i: interest(
            {n: (bool(r["clean"][i]), bool(r[name][i])) for n, r in right.items()}, headline.name
        ),
    )[:CANDIDATES]
    xs, ys = x[order], y[order]
    attack = run.evaluation_attacks()[name]
    tensors, answers = {}, {}
    for fitted in networks:
        with evaluating(fitted.model), computed_once(fitted.model):
            x_adv = attacked(attack, fitted.model, xs, ys)
            logits = predict(fitted.model, xs, ys), predict(fitted.model, x_adv, ys)
        answers[fitted.name] = [(one.argmax(1) == ys).tolist() for one in logits]
        tensors[fitted.name] = x_adv, *logits
    place = min(
        range(len(order)),
        key=lambda i: interest({n: (c[i], a[i]) for n, (c, a) in answers.items()}, headline.name),
    )
    parts = ("x_adv", "logits", "logits_adv")
    kept = {
        f"{part}/{n}": tensor[place].float()
        for n, found in tensors.items()
        for part, tensor in zip(parts, found, strict=True)
    }
    meta = {"index": order[place], "label": int(ys[place]), "attack": name}
    save_tensors(run.folder.path / PICTURED, {"x": xs[place].float(), **kept}, meta)
    run.folder.log("pictured", index=order[place])


def interest(right: Mapping[str, tuple[bool, bool]], headline: str) -> int:
    """Return the rank of an example, 0 for the most telling one; see `keep_example`.

    right: network -> whether it is right without, and under attack.
    """
    if not all(clean for clean, _ in right.values()):
        return 3
    if all(held for _, held in right.values()):
        return 2
    return 0 if right[headline][1] else 1
