#!/usr/bin/env python
"""Your own classifier, from a dense network to a small robust file with certificates.

    python examples/prune_your_classifier.py            # half a minute
    python examples/prune_your_classifier.py --quick

The data are made up (noisy shapes in pictures); put your own arrays in their place. HYDRA keeps a
quarter of the filters, fine-tuning repairs what was lost, `slim` makes the network really
smaller, and smoothing certifies it with a stated probability.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attacks import PGD, ThreatModel, check_attacks
from robustprune.certify import ABSTAIN, certify
from robustprune.deploy import load_slim, save_slim, slim
from robustprune.measure import attack_set, compare_cost, evaluate
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.search import finetune_ticket, prune_scores


def pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bars, lying or standing, in noise: (N, 1, 12, 12) in [0, 1] and their direction."""
    x = 0.3 * torch.rand(count, 1, 12, 12, generator=generator)
    y = torch.randint(2, (count,), generator=generator)
    at = torch.randint(1, 10, (count,), generator=generator)
    for picture, lying, place in zip(x, y.tolist(), at.tolist(), strict=True):
        strip = picture[0] if lying else picture[0].T
        strip[place : place + 2] += 0.6
    return x.clamp(0, 1), y


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, few examples")
    quick = parser.parse_args().quick
    epochs, count, samples = (1, 64, 200) if quick else (15, 1000, 2000)

    generator = torch.Generator().manual_seed(0)
    (x, y), (x_test, y_test) = pictures(count, generator), pictures(200, generator)
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 2)),
    )
    threat = ThreatModel("linf", eps=0.1, bounds=(0.0, 1.0))
    robust, sgd = Adversarial(PGD(threat, steps=5)), OptimizerSpec(lr=0.05)

    train(model, loader, robust, optimizer=sgd, epochs=epochs)
    ticket = prune_scores(
        model, loader, density=0.25, objective=robust, pattern="filter", dense=["last"],
        epochs=epochs, quiet=True,
    )  # fmt: skip
    ticket = finetune_ticket(ticket, loader, robust, optimizer=sgd, epochs=epochs, quiet=True)
    small = slim(ticket.model, ticket.masks, x_test[:8])
    save_slim("small.safetensors", small)
    small = load_slim("small.safetensors")  # needs none of the code above

    for name, network in (("dense", model), ("pruned", small)):
        outcome = evaluate(network, x_test, y_test, attack_set(threat), batch_size=100)
        clean, worst = (float(r.float().mean()) for r in (outcome.clean, outcome.worst))
        print(f"{name:<7} clean {clean:.1%}, under attack at most {worst:.1%}")
    for cost in compare_cost({"dense": model, "pruned": small}, x_test[:64]):
        print(
            f"{cost.name:<7} {cost.parameters:,} parameters, {cost.macs:,} multiplications, "
            f"{1e3 * cost.latency:.2f} ms a batch"
        )
    print(f"{Path('small.safetensors').stat().st_size:,} bytes in small.safetensors")
    for finding in check_attacks(small, x_test[:50], y_test[:50], threat):
        print(f"  {finding}")

    smoothed = certify(small, x_test[:10], sigma=0.25, n=samples, alpha=0.01)
    answered = smoothed.prediction != ABSTAIN
    print(f"smoothed: {int(answered.sum())} of 10 answered, L2 radii", smoothed.radius[:5].tolist())


if __name__ == "__main__":
    main()
