"""The first picture of a report: one test example before and after the attack, by network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robustprune.report.arrays import Answer, PicturedRecord
from robustprune.report.fields import Field
from robustprune.report.panels import wrap
from robustprune.report.records import MetricsRecord, RunRecord
from robustprune.report.style import FAINT, INK, SERIES_COLOURS, Plot, canvases, finish
from robustprune.report.wording import attack_label, listing, norm_name
from robustprune.run.checkpoint import load_tensors
from robustprune.run.rundir import PICTURED

_GREY, _HELD, _BROKEN = SERIES_COLOURS[0], SERIES_COLOURS[1], SERIES_COLOURS[2]
#: the largest file that is read; a run writes at most seven copies of a million numbers
MOST_BYTES = 64_000_000
_PARTS = ("x_adv", "logits", "logits_adv")


def read_pictured(run_dir: Path, metrics: MetricsRecord) -> PicturedRecord | None:
    """Read the example of a run; None for runs of older versions and runs on text.

    Raises:
        ValueError: the file is damaged, or does not fit metrics.json; the message names it.
    """
    path = run_dir / PICTURED
    if not path.exists():
        return None
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes; delete it")
    tensors, meta = load_tensors(path)
    arrays = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    names = [model.name for model in metrics.models if f"x_adv/{model.name}" in arrays]
    needed = {"x", *(f"{part}/{name}" for name in names for part in _PARTS)}
    if not names or set(arrays) != needed:
        raise ValueError(f"{path} has {sorted(arrays)}, expected {', '.join(sorted(needed))}")
    field, classes = Field(str(path), "", meta), metrics.task.num_classes
    x = arrays["x"]
    answers = {}
    for name in names:
        answer = Answer(*(arrays[f"{part}/{name}"] for part in _PARTS))
        fits = answer.logits.shape == answer.logits_adv.shape == (classes,)
        if answer.x_adv.shape != x.shape or not fits:
            raise ValueError(f"{path}: the shapes of {name} do not fit the example or the classes")
        answers[name] = answer
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path} holds NaN or infinity")
    label, attack = field["label"].count(), field["attack"].text()
    if label >= classes:
        raise field["label"].wrong(f"must be below {classes}, got {label}")
    if attack not in [known.name for known in metrics.attacks]:
        raise field["attack"].wrong(f"must be an attack of metrics.json, got {attack!r}")
    return PicturedRecord(field["index"].count(), label, attack, x, answers)


def pictured(run: RunRecord) -> list[Plot]:
    """Draw a series (C, L), a table row (F,) or an image (C, H, W) once for each network: clean and
    attacked, with δ, and what the network answers. Other inputs are not drawn."""
    found = run.pictured
    if found is None:
        return []
    x = found.x
    draw: Any = None
    if x.ndim == 3 and x.shape[0] in (1, 3):
        draw = _image
    elif x.ndim in (1, 2) and x.shape[-1] > 1:
        draw = _series
    return [] if draw is None else [draw(run.metrics, found, name) for name in found.answers]


def pictured_caption(run: RunRecord) -> str:
    """Say which example it is, how it was chosen, and which attack changed it."""
    found = run.pictured
    if found is None:
        return ""
    right = [found.right(name) for name in found.answers]
    if not all(clean for clean, _ in right):
        why = "No example was found that all of these networks classify correctly without attack."
    elif all(held for _, held in right):
        why = "It was chosen because all of these networks are right about it without attack."
    else:
        why = (
            "It was chosen because all of these networks are right about it without attack, and"
            " some are not under attack: the shares of all examples are in the table of results."
        )
    (attack,) = (one for one in run.metrics.attacks if one.name == found.attack)
    return (
        f"Test example {found.index}, of class {found.label}, as it is (grey) and as the attack"
        f" {attack_label(attack)} changed it for each network (colour). The change δ may be at most"
        f" {run.metrics.threat.eps:g} in {norm_name(run.metrics.threat.norm)}. {why}"
    )


def _verdict(found: PicturedRecord, name: str) -> tuple[str, str, str]:
    """Return the two lines on a network's answers, and the colour of the attacked example."""
    answer = found.answers[name]
    clean = _said(answer.logits, found.label)
    attacked = _said(answer.logits_adv, found.label)
    held = found.right(name)[1]
    return f"clean: {clean}", f"attacked: {attacked}", _HELD if held else _BROKEN


def _said(logits: NDArray[np.float64], label: int) -> str:
    """Write an answer as "class 1 (98%), right"."""
    shares = np.exp(logits - logits.max())
    answer = int(logits.argmax())
    share = shares[answer] / shares.sum()
    percent = "> 99%" if share > 0.99 else f"{100 * share:.0f}%"
    return f"class {answer} ({percent}), {'right ✓' if answer == label else 'wrong ✗'}"


def _series(metrics: MetricsRecord, found: PicturedRecord, name: str) -> Plot:
    x, x_adv = np.atleast_2d(found.x), np.atleast_2d(found.answers[name].x_adv)
    delta = x_adv - x
    channel = int(np.abs(delta).max(axis=1).argmax())
    clean, attacked, colour = _verdict(found, name)
    threat = metrics.threat
    with canvases(width=4.4, height=3.9, heights=(3, 1)) as (figure, (above, below)):
        _title(figure, metrics, name, clean, attacked)
        above.plot(x[channel], color=_GREY, linewidth=1.4, label="clean")
        above.plot(x_adv[channel], color=colour, linewidth=1.6, label="attacked")
        above.tick_params(labelbottom=False)
        above.legend(loc="best", ncols=2)
        steps = np.arange(len(delta[channel]))
        below.fill_between(steps, delta[channel], color=colour, alpha=0.5, step="mid", linewidth=0)
        if threat.norm == "linf":
            for end in (-threat.eps, threat.eps):
                below.axhline(end, color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)))
        most = 1.25 * max(np.abs(delta[channel]).max(), threat.eps * (threat.norm == "linf"), 1e-12)
        below.set_ylim(-most, most)
        below.set_ylabel("δ")
        what = "time step" if found.x.ndim == 2 else "number of the feature"
        below.set_xlabel(what + (f", channel {channel} of {len(x)}" if len(x) > 1 else ""))
        below.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        return finish(figure, key=f"example-{name}", alt=_alt(metrics, found, name))


def _image(metrics: MetricsRecord, found: PicturedRecord, name: str) -> Plot:
    x, x_adv = found.x, found.answers[name].x_adv
    clean, attacked, _ = _verdict(found, name)
    low, high = metrics.threat.bounds or (min(x.min(), x_adv.min()), max(x.max(), x_adv.max()))
    delta = x_adv - x
    most = max(float(np.abs(delta).max()), 1e-12)
    shown = [
        ((x - low) / max(high - low, 1e-12), "clean"),
        (0.5 + delta / (2 * most), f"δ, up to {most:.2g}"),
        ((x_adv - low) / max(high - low, 1e-12), "attacked"),
    ]
    with canvases(width=4.4, height=2.6, widths=(1, 1, 1)) as (figure, axes):
        _title(figure, metrics, name, clean, attacked)
        for one, (image, label) in zip(axes, shown, strict=True):
            _show(one, image.clip(0, 1), label)
        return finish(figure, key=f"example-{name}", alt=_alt(metrics, found, name))


def _show(axes: Axes, image: NDArray[np.float64], label: str) -> None:
    axes.imshow(
        image[0] if len(image) == 1 else image.transpose(1, 2, 0),
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
    )
    axes.set_xlabel(label)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_color(FAINT)


def _title(figure: Any, metrics: MetricsRecord, name: str, clean: str, attacked: str) -> None:
    model = metrics.find(name)
    assert model is not None, "read_pictured keeps the networks of metrics.json alone"
    title = wrap(model.title, width=44)
    figure.suptitle(f"{title}\n{clean}\n{attacked}", x=0.02, ha="left", fontsize=10)


def _alt(metrics: MetricsRecord, found: PicturedRecord, name: str) -> str:
    model = metrics.find(name)
    clean, attacked, _ = _verdict(found, name)
    most = np.abs(found.answers[name].x_adv - found.x).max()
    title = name if model is None else model.title
    said = listing([clean, attacked])
    return f"Test example {found.index} for {title}: {said}; changed by up to {most:.3g}."
