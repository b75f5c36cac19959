"""The solvers of a layer's problem, one entry each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from robustprune.layerwise.admm import admm
from robustprune.layerwise.alps import alps
from robustprune.layerwise.dsnot import dsnot
from robustprune.layerwise.greedy import cosamp, gomp, omp, stomp
from robustprune.layerwise.lasso import basis_pursuit, lasso
from robustprune.layerwise.obs import obs
from robustprune.layerwise.problem import Solution
from robustprune.layerwise.refit import refit
from robustprune.layerwise.scores import magnitude, ria, wanda
from robustprune.layerwise.sparsegpt import sparsegpt


@dataclass(frozen=True)
class Solver:
    """A solver and its properties.

    Attributes:
        solve: (problem, *, options) -> Solution; by default, options have the values of the paper.
        summary: what it does, in one line.
        citation: the paper, or nothing where there is none.
        changes_weights: whether kept weights get other values.
        needs_cross: whether it uses the target T (`cross` of the problem); if not, its mask is the
            same for every target.
        single: whether it can choose only single weights (and N:M), and not groups of them.
    """

    solve: Callable[..., Solution]
    summary: str
    citation: str
    changes_weights: bool = True
    needs_cross: bool = True
    single: bool = False


SOLVERS: Mapping[str, Solver] = {
    "magnitude": Solver(
        magnitude,
        "keeps the largest weights unchanged",
        "",
        changes_weights=False,
        needs_cross=False,
    ),
    "wanda": Solver(
        wanda,
        "keeps the largest |weight| · ‖input‖ unchanged",
        "Sun et al. 2023, arXiv 2306.11695",
        changes_weights=False,
        needs_cross=False,
    ),
    "ria": Solver(
        ria,
        "keeps the largest relative importance · √‖input‖ unchanged",
        "Zhang et al. 2024, ICLR, Plug-and-Play",
        changes_weights=False,
        needs_cross=False,
    ),
    "refit": Solver(refit, "a mask by scores (of Wanda), weights by least squares", ""),
    "admm": Solver(
        admm,
        "mask and weights alternate, by the alternating direction method of multipliers",
        "Boža 2024, arXiv 2401.02938",
    ),
    "obs": Solver(
        obs,
        "removes the cheapest weight, again and again; the others compensate (small layers)",
        "Hassibi & Stork 1993; Frantar & Alistarh 2022, arXiv 2208.11580",
    ),
    "sparsegpt": Solver(
        sparsegpt,
        "removes weights column by column; the columns to the right compensate",
        "Frantar & Alistarh 2023, arXiv 2301.00774",
    ),
    "omp": Solver(
        omp,
        "orthogonal matching pursuit: weights are added one by one (small layers)",
        "Tropp & Gilbert 2007",
    ),
    "gomp": Solver(gomp, "orthogonal matching pursuit, a few at a time", "Wang et al. 2012"),
    "stomp": Solver(stomp, "orthogonal matching pursuit by a threshold", "Donoho et al. 2012"),
    "cosamp": Solver(
        cosamp, "compressive sampling matching pursuit", "Needell & Tropp 2009, arXiv 0803.2392"
    ),
    "lasso": Solver(
        lasso,
        "least squares with an l1 penalty that leaves as many weights as wanted, then without it",
        "Tibshirani 1996; Beck & Teboulle 2009",
    ),
    "basis_pursuit": Solver(
        basis_pursuit, "the smallest l1 norm that meets the target exactly", "Chen et al. 1998"
    ),
    "dsnot": Solver(
        dsnot,
        "a mask (of Wanda), with weights swapped until each output keeps its mean",
        "Zhang et al. 2024, arXiv 2310.08915",
        changes_weights=False,
        needs_cross=False,
        single=True,
    ),
    "alps": Solver(
        alps,
        "ADMM with a penalty that grows until the mask is stable, then conjugate gradients",
        "Meng et al. 2024, arXiv 2406.07831",
    ),
}
