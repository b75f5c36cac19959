"""Sparsely connected auto-encoders of MNIST beside pruned dense ones.

    python -m benchmarks.autoencoder --data-dir DATA --out runs/autoencoder

Images are averaged to 14 × 14 pixels and centred; there are 64 hidden units. The dense auto-encoder
is that of the principal components, the best there is. Magnitude and OBD prune it to the numbers of
connections that each formulation has found for encoder and decoder. Then every network is fitted
again on its connections ("refitted"). Errors are shares of the energy of the test images, and noise
has a standard deviation of 0.15 (44% of that energy); the probe is a logistic regression on the
codes. Each figure is a line of results.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kept import note, rows
from robustprune.layerwise import sparse_autoencoder
from robustprune.layerwise.autoencoder import error_of
from robustprune.measure import mean_sd
from robustprune.sparsity.largest import top_k
from robustprune.tasks import load_task

HIDDEN, NOISE = 64, 0.15
FORMULATIONS = {
    f"{split}{', dual' if dual else ''}": {"split": split, "dual": dual}
    for split in ("activations", "weights")
    for dual in (False, True)
}


def images(folder: Path, number: int, seed: int) -> tuple[Tensor, ...]:
    """Training and test images (N, 196), float64, centred by the training mean, with labels."""
    task, parts = load_task("mnist", data_dir=folder), []
    for split in (task.train, task.test):
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        x, y = split.batch(order[:number])
        parts += [F.avg_pool2d(x, 2).flatten(1).double(), y]
    x, y, x_test, y_test = parts
    return x - x.mean(0), y, x_test - x.mean(0), y_test


def principal(gram: Tensor) -> tuple[Tensor, Tensor]:
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -HIDDEN:]
    return vectors.mT.clone(), vectors.clone()


def pruned(gram: Tensor, by: str, kept: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The principal components with so many connections: the largest, or by OBD those that cost
    most, ½ H_jj w² with the diagonal of the second derivative."""
    encoder, decoder = principal(gram)
    worth = [encoder.square(), decoder.square()]
    if by == "OBD":
        worth[0] = worth[0] * (decoder.square().sum(0).unsqueeze(1) * gram.diagonal())
        worth[1] = worth[1] * ((encoder @ gram) * encoder).sum(1)
    masks = [top_k(w.flatten(), k).view(w.shape) for w, k in zip(worth, kept, strict=True)]
    return encoder * masks[0], decoder * masks[1]


def refitted(gram: Tensor, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
    """The same connections with weights that lower the error, by 500 steps of Adam."""
    masks = [encoder != 0, decoder != 0]
    weights = [encoder.clone().requires_grad_(), decoder.clone().requires_grad_()]
    descent = torch.optim.Adam(weights, lr=5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(descent, 500)
    for _ in range(500):
        descent.zero_grad()
        kept = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
        error_of(gram, *kept).backward()  # type: ignore[no-untyped-call]
        descent.step()
        rate.step()
    w, v = (weight.detach() * mask for weight, mask in zip(weights, masks, strict=True))
    return w, v


def figures(data: tuple[Tensor, ...], encoder: Tensor, decoder: Tensor) -> dict[str, float]:
    x, y, x_test, y_test = data
    noise = NOISE * torch.randn(x_test.shape, generator=torch.Generator().manual_seed(0)).double()

    def error(inputs: Tensor) -> float:
        found = inputs @ encoder.mT @ decoder.mT
        return 100 * float((found - x_test).square().sum() / x_test.square().sum())

    probe = LogisticRegression(max_iter=300, tol=1e-3).fit((x @ encoder.mT).numpy(), y.numpy())
    return {
        "error": error(x_test),
        "denoised": error(x_test + noise),
        "probe": 100 * float(probe.score((x_test @ encoder.mT).numpy(), y_test.numpy())),
    }


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(r["seed"], r["penalty"], r["method"]) for r in rows(options.out)}
    for seed in range(options.seeds):
        data = images(options.data_dir, options.images, seed)
        gram = data[0].mT @ data[0] / len(data[0])

        def keep(
            name: str, penalty: float, pair: tuple[Tensor, Tensor], seconds: float, again: bool,
            seed: int = seed, data: tuple[Tensor, ...] = data, gram: Tensor = gram,
        ) -> None:  # fmt: skip
            shares = [float((weight != 0).double().mean()) for weight in pair]
            row = {
                "seed": seed, "penalty": penalty, "method": name, "encoder": shares[0],
                "decoder": shares[1], "seconds": round(seconds, 2), **figures(data, *pair),
            }  # fmt: skip
            if again:
                new = figures(data, *refitted(gram, *pair))
                row |= {f"{key} again": value for key, value in new.items()}
            note(options.out, row)

        if (seed, 0.0, "dense") not in done:
            keep("dense", 0.0, principal(gram), 0.0, again=False)
        for penalty in options.penalties:
            for name, formulation in FORMULATIONS.items():
                if (seed, penalty, f"OBD beside {name}") in done:
                    continue
                started = time.process_time()
                found = sparse_autoencoder(
                    data[0], HIDDEN, penalty=penalty, seed=seed, iterations=options.iterations,
                    inner=20, **formulation,
                )  # fmt: skip
                seconds = time.process_time() - started
                pair = found.encoder, found.decoder
                keep(name, penalty, pair, seconds, again=True)
                kept = tuple(int((weight != 0).sum()) for weight in pair)
                for by in ("magnitude", "OBD"):
                    keep(
                        f"{by} beside {name}",
                        penalty,
                        pruned(gram, by, kept),
                        0.0,
                        again=True,  # type: ignore[arg-type]
                    )


def table(found: list[dict]) -> str:
    """Means over the seeds, ± one standard deviation of the first figure."""
    cells: dict[tuple[float, str], list[dict]] = defaultdict(list)
    for row in found:
        cells[row["penalty"], row["method"]].append(row)
    lines = [
        "| λ | method | connections | reconstruction | denoising | probe | refitted |  |  |",
        "| --- " * 9 + "|",
    ]
    for (penalty, method), group in cells.items():
        density = sum(row["encoder"] + row["decoder"] for row in group) / 2 / len(group)
        texts = []
        for key in ("error", "denoised", "probe", "error again", "denoised again", "probe again"):
            values = [row[key] for row in group if key in row]
            spread = f" ± {mean_sd(values).sd:.1f}" if len(values) > 1 and key[0] == "e" else ""
            texts.append(f"{sum(values) / len(values):.1f}{spread}" if values else "")
        lines.append(f"| {penalty:g} | {method} | {100 * density:.1f}% | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoder"))
    parser.add_argument("--penalties", nargs="+", type=float, default=[0.003, 0.02])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        run(options)
    print(table(rows(options.out)))


if __name__ == "__main__":
    main()
