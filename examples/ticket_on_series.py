#!/usr/bin/env python
"""A robust scratch ticket on ECG200, step by step: the network is never trained, only its mask.

    python examples/ticket_on_series.py            # a minute
    python examples/ticket_on_series.py --quick    # a look at how it goes

Train a dense network under attack, search a mask over random weights, then look at both from above
(attacks), from below (certificates) and example by example (r*).
"""

import argparse

import torch

from attacks import PGD, ThreatModel
from robustprune.bounds import certified_radius
from robustprune.certify import check_sandwich
from robustprune.measure import attack_set, evaluate, nearest_adversarial, proportion
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.search import find_scratch_ticket
from robustprune.tasks import BatchLoader, load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, few examples")
    quick = parser.parse_args().quick
    epochs, shown, width = (2, 4, 8) if quick else (100, 20, 32)

    # The data carry their bounds: a z-normalised series has none, a pixel lives in [0, 1].
    task = load_task("ecg200")
    threat = ThreatModel("linf", eps=0.1, bounds=task.bounds)
    loader = BatchLoader(task.train, 25, shuffle=True, seed=0)
    attack = PGD(threat, steps=7)
    options = {"widths": [width, 2 * width, width]}

    print("A dense network, trained under attack:")
    torch.manual_seed(0)
    dense = build_model("fcn", task, options=options)
    optimizer = OptimizerSpec(lr=0.05, weight_decay=5e-3)
    train(dense, loader, Adversarial(attack), optimizer=optimizer, epochs=epochs)

    print("A ticket: half of a random network, whose weights are not trained.")
    torch.manual_seed(0)
    ticket = find_scratch_ticket(
        build_model("fcn", task, options=options),
        loader,
        density=0.5,
        attack=attack,
        epochs=2 * epochs,
        optimizer=OptimizerSpec(lr=0.5),
        quiet=True,
    )
    print(f"  {ticket.masks}")

    x, y = task.test.x, task.test.y
    for name, model in (("dense", dense), ("ticket", ticket.model)):
        outcome = evaluate(model, x, y, attack_set(threat, more=["apgd"]), batch_size=100)
        for what, right in (("clean", outcome.clean), ("attacked, worst case", outcome.worst)):
            measured = proportion(int(right.sum()), len(right))
            low, high = measured.ci95
            print(f"  {name:<7} {what:<21} {measured.value:.0%}  [{low:.0%}, {high:.0%}]")

    # Lower and upper bounds on the same distance r*: a proof must never exceed an attack.
    few = x[:shown], y[:shown]
    upper = nearest_adversarial(ticket.model, *few, threat, batch_size=shown).r
    lower = certified_radius(ticket.model, *few, norm="linf", method="crown-ibp")
    check_sandwich(lower, upper)
    print("r* of the first test series lies between a proof and an attack:")
    for low, high in list(zip(lower.tolist(), upper.tolist(), strict=True))[:8]:
        print(f"  {low:.4f} ≤ r* ≤ {high:.4f}")


if __name__ == "__main__":
    main()
