"""Draw what the methods do, from small trainings on ECG200: one picture for each page of the docs.

    OMP_NUM_THREADS=1 python -m benchmarks.method_pictures --data-dir DATA

The network is FCN with 16, 32 and 16 channels, trained against PGD-3 with L∞ ε = 0.05, in one seed.
Accuracies are on the 100 test examples. These trainings are short, so the pictures show how the
methods work, and not which of them is best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from attacks import PGD, ThreatModel
from benchmarks.pictures import PICTURES
from robustprune.bounds import METHODS, certified_radius
from robustprune.measure import evaluate
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.report.style import INK, SERIES_COLOURS, Plot, canvas, canvases, finish, looks
from robustprune.search import (
    find_lottery_ticket,
    prune_admm,
    prune_gradual,
    prune_one_shot,
    prune_scores,
    train_control,
)
from robustprune.sparsity.criteria import CRITERIA
from robustprune.tasks import BatchLoader, load_task

THREAT = ThreatModel("linf", 0.05)
OPTIMIZER = OptimizerSpec(name="adamw", lr=5e-3)
EPOCHS = 60
DENSITIES = (0.5, 0.2, 0.1)


class Scene:
    """The data, an attack in training, and a network that was trained without pruning."""

    def __init__(self, data_dir: Path | None) -> None:
        self.task = load_task("ecg200", data_dir=data_dir)
        self.attack = PGD(THREAT, steps=3)
        self.dense = self.fresh()
        train(
            self.dense, self.loader(), Adversarial(self.attack), epochs=EPOCHS,
            optimizer=OPTIMIZER, quiet=True,
        )  # fmt: skip

    def fresh(self) -> nn.Module:
        torch.manual_seed(0)
        return build_model("fcn", self.task, options={"widths": [16, 32, 16]})

    def loader(self) -> BatchLoader:
        return BatchLoader(self.task.train, 25, shuffle=True, seed=0)

    def options(self) -> dict[str, object]:
        return {
            "attack": self.attack, "epochs": EPOCHS, "optimizer": OPTIMIZER, "quiet": True,
        }  # fmt: skip

    def robust(self, model: nn.Module) -> float:
        """Return the accuracy in % under PGD-20."""
        attacks = {"pgd20": PGD(THREAT, steps=20, restarts=2, seed=0)}
        outcome = evaluate(
            model.eval(), self.task.test.x, self.task.test.y, attacks, batch_size=100, quiet=True
        )
        return 100 * float(outcome.worst.float().mean())


def gradual(scene: Scene) -> Plot:
    """The path of the density, and what the training batches say of it."""
    ticket = prune_gradual(scene.dense, scene.loader(), density=0.4, **scene.options())
    epochs = range(1, EPOCHS + 1)
    with canvases(width=6.4, height=4.2, heights=(1, 1)) as (figure, (upper, lower)):
        path = [100 * record.figures["density"] for record in ticket.history]
        robust = [100 * record.robust for record in ticket.history]
        upper.step(epochs, path, where="post", color=SERIES_COLOURS[1])
        upper.set_ylabel("density in %")
        upper.set_title("The mask shrinks while the weights train")
        lower.plot(epochs, robust, color=SERIES_COLOURS[2])
        lower.set_ylabel("right under attack\nin training, %")
        lower.set_xlabel("epoch")
        for axes in (upper, lower):
            axes.set_ylim(0, 102)
        alt = "Density falls from 100% to 40% in the first three quarters of the training."
        return finish(figure, key="gradual-path", alt=alt)


def admm(scene: Scene) -> Plot:
    """How far the weights are from the sparse ones."""
    options = {**scene.options(), "optimizer": OptimizerSpec(lr=0.02)}
    ticket = prune_admm(
        scene.dense, scene.loader(), density=0.1, rho=0.01, rho_growth=1.5, every=3, **options
    )
    found = {k: r.figures for k, r in enumerate(ticket.history, start=1) if "rho" in r.figures}
    with canvases(width=6.4, height=4.2, heights=(1, 1)) as (figure, (upper, lower)):
        names = {"primal": "‖W − Z‖ / ‖W‖", "dual": "ρ ‖change of Z‖ / ‖W‖"}
        for name, look in looks(list(names)).items():
            values = [figures[name] for figures in found.values()]
            upper.plot(list(found), values, label=names[name], **look.line())
        upper.set_ylim(bottom=0)
        upper.set_ylabel("distance")
        upper.set_title("The penalty ρ draws the weights W to sparse ones, Z")
        upper.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        lower.plot(list(found), [figures["rho"] for figures in found.values()], color=INK)
        lower.set_ylim(0, 1.05)
        lower.set_ylabel("ρ")
        lower.set_xlabel("epoch")
        alt = "The distance of the weights from sparse ones falls as ρ grows."
        return finish(figure, key="admm-gap", alt=alt)


def lottery(scene: Scene) -> Plot:
    """The ticket and its controls, over densities."""
    names = {"ticket": "ticket", "reinit": "its mask, new weights", "random": "random mask"}
    values: dict[str, list[float]] = {name: [] for name in names}
    for density in DENSITIES:
        ticket = find_lottery_ticket(
            scene.fresh(), scene.loader(), density=density, rounds=2, **scene.options()
        )
        values["ticket"].append(scene.robust(ticket.model))
        for kind in ("reinit", "random"):
            control = train_control(ticket, scene.loader(), kind, seed=1, **scene.options())
            values[kind].append(scene.robust(control.model))
    title = "A ticket and its controls, trained alike"
    return _over_density(scene, values, names, title=title, key="lottery-controls")


def one_shot(scene: Scene) -> Plot:
    """Criteria without any training after them."""
    names = {name: name.replace("_", " ") for name in ("magnitude", "snip", "grasp", "random")}
    densities = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    values = {
        name: [
            scene.robust(
                prune_one_shot(
                    scene.dense, scene.loader(), density=density, criterion=name,
                    attack=scene.attack if CRITERIA[name].needs_data else None,
                ).model
            )
            for density in densities
        ]
        for name in names
    }  # fmt: skip
    title = "Pruned once, and not trained again"
    return _over_density(scene, values, names, title=title, key="one-shot", densities=densities)


def hydra(scene: Scene) -> Plot:
    """What a search over masks alone is worth, before any weight is trained."""
    names = {"hydra": "HYDRA's mask", "magnitude": "the largest weights"}
    values = {
        "hydra": [
            scene.robust(
                prune_scores(
                    scene.dense, scene.loader(), density=density, method="hydra", **scene.options()
                ).model
            )
            for density in DENSITIES
        ],
        "magnitude": [
            scene.robust(prune_one_shot(scene.dense, density=density).model)
            for density in DENSITIES
        ],
    }
    title = "Masks over the same weights"
    return _over_density(scene, values, names, title=title, key="hydra-masks")


def bounds(scene: Scene) -> Plot:
    """The share of 20 examples that each method certifies, over ε."""
    x, y = scene.task.test.batch(slice(20))
    model = scene.dense.eval()
    with canvas(width=6.4, height=3.4) as (figure, axes):
        for method, look in looks(METHODS).items():
            radii = certified_radius(model, x, y, method=method, eps_max=1.0, steps=10)
            places = [0.0, *sorted(float(r) for r in radii if r > 0)]
            shares = [100 * float((radii > r).float().mean()) for r in places]
            axes.step(places, shares, where="post", label=method, color=look.colour)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 102)
        axes.set_xlabel("ε, L∞")
        axes.set_ylabel("certified, % of 20 examples")
        axes.set_title("The same network, by four methods")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        alt = "Certified share over ε for IBP, CROWN-IBP, CROWN and α-CROWN, in rising order."
        return finish(figure, key="bounds-methods", alt=alt)


def _over_density(
    scene: Scene,
    values: dict[str, list[float]],
    names: dict[str, str],
    *,
    title: str,
    key: str,
    densities: Sequence[float] = DENSITIES,
) -> Plot:
    with canvas(width=6.4, height=3.4) as (figure, axes):
        dense = scene.robust(scene.dense)
        axes.axhline(dense, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        for name, look in looks(list(names)).items():
            axes.plot([100 * d for d in densities], values[name], label=names[name], **look.line())
        axes.set_xscale("log")
        axes.set_xticks([100 * d for d in densities], [f"{100 * d:g}" for d in densities])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.set_ylim(0, 102)
        axes.set_xlabel("kept weights in %")
        axes.set_ylabel("right under PGD-20, %")
        axes.set_title(f"{title} (dotted: dense, {dense:.0f}%)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        alt = f"{title}: accuracy under attack over the density, for {', '.join(names.values())}."
        return finish(figure, key=key, alt=alt)


PLOTS: dict[str, Callable[[Scene], Plot]] = {
    "gradual": gradual,
    "admm": admm,
    "one_shot": one_shot,
    "hydra": hydra,
    "bounds": bounds,
    "lottery": lottery,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--only", nargs="+", choices=list(PLOTS), default=list(PLOTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    scene = Scene(options.data_dir)
    print(f"dense: {scene.robust(scene.dense):.0f}% under attack", flush=True)
    for name in options.only:
        plot = PLOTS[name](scene)
        (options.out / f"{plot.key}.svg").write_text(plot.svg, encoding="utf-8")
        print(f"{plot.key}.svg: {plot.alt}", flush=True)


if __name__ == "__main__":
    main()
