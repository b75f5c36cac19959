"""Seconds of the solvers of one layer, as ratios to the least that SparseGPT could take.

    OMP_NUM_THREADS=1 python -m benchmarks.layerwise_speed --shapes 1024x1024 4096x1024

The floor is SparseGPT's arithmetic without its loop: the Cholesky factor of H, its inverse, the
factor of that, and one product of the weights with it. A repetition runs the floor and every solver
once, one after the other, on one problem, so that a busy machine slows all; the medians of the
ratios are printed, with the relative error ‖Ŵ X̂ − T‖² / ‖T‖² that each solver leaves.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem
from robustprune.layerwise.solvers import SOLVERS
from robustprune.sparsity import Groups, count_kept

#: the others take minutes at these sizes
DEFAULT = ("magnitude", "wanda", "sparsegpt", "admm", "admm-double", "alps", "refit")


def make_problem(
    rows: int, columns: int, *, pattern: str, density: float, dtype: torch.dtype
) -> LayerProblem:
    """A layer with correlated inputs of unequal energy and T = W X̂."""
    torch.manual_seed(0)
    mixed = torch.randn(columns, columns, dtype=dtype) / columns**0.5 + torch.eye(columns)
    inputs = mixed.to(dtype) @ torch.randn(columns, 2 * columns, dtype=dtype)
    inputs *= torch.randn(columns, 1, dtype=dtype).exp()
    weight = torch.randn(1, rows, columns, dtype=dtype)
    gram = (inputs @ inputs.mT)[None]
    cross = weight @ gram
    groups = Groups((rows, columns), pattern)
    kept = groups.fixed or count_kept(density, groups.number)
    return LayerProblem(
        weight, gram, cross, (cross * weight).sum(), 2 * columns, groups, kept,
        mean=inputs.mean(1)[None], variance=inputs.var(1)[None],
    )  # fmt: skip


def floor(problem: LayerProblem) -> Tensor:
    """SparseGPT's arithmetic: factor, inverse, factor, and one pass over the weights."""
    inverse = torch.cholesky_inverse(problem.quadratic(0.01, by="mean").factor)
    return problem.weight @ torch.linalg.cholesky(inverse, upper=True)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def measure(problem: LayerProblem, solvers: list[str], repeats: int) -> None:
    """Print a row for the floor and one for each solver."""
    device = problem.weight.device
    times: dict[str, list[float]] = {name: [] for name in ["floor", *solvers]}
    errors: dict[str, float] = {}

    def solve(name: str) -> None:
        options = {"single": False} if name.endswith("-double") else {}
        weight = SOLVERS[name.removesuffix("-double")].solve(problem, **options).weight
        errors[name] = problem.error(weight)

    for _ in range(repeats):
        times["floor"].append(seconds(lambda: floor(problem), device))
        for name in solvers:
            times[name].append(seconds(partial(solve, name), device))
    print(f"{'solver':>14} {'seconds':>8} {'× floor':>8} {'× sparsegpt':>12} {'error':>9}")
    for name, own in times.items():
        ratios = [
            statistics.median(a / b for a, b in zip(own, times[base], strict=True))
            if base in times
            else float("nan")
            for base in ("floor", "sparsegpt")
        ]
        error = "" if name == "floor" else f"{errors[name]:.3g}"
        print(
            f"{name:>14} {statistics.median(own):>8.3f} {ratios[0]:>8.1f} {ratios[1]:>12.2f} "
            f"{error:>9}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shapes = ["1024x1024", "4096x1024"]
    parser.add_argument("--shapes", nargs="+", default=shapes, metavar="ROWSxCOLS")
    parser.add_argument("--solvers", nargs="+", default=list(DEFAULT), help="NAME or NAME-double")
    parser.add_argument("--pattern", default="element")
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--dtype", default="float64", choices=["float64", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for shape in args.shapes:
        rows, columns = map(int, shape.split("x"))
        made = make_problem(
            rows,
            columns,
            pattern=args.pattern,
            density=args.density,
            dtype=getattr(torch, args.dtype),
        )
        problem = on_device(made, torch.device(args.device))
        print(
            f"\n{shape}, {args.pattern}, {args.dtype}, {problem.kept} kept, {args.repeats} repeats"
        )
        measure(problem, args.solvers, args.repeats)


def on_device(problem: LayerProblem, device: torch.device) -> LayerProblem:
    moved = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in vars(problem).items()
        if name in LayerProblem.__dataclass_fields__
    }
    return LayerProblem(**moved)


if __name__ == "__main__":
    main()
