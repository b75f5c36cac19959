"""Lines, bars and error bars stand where the figures put them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from robustprune.report import plots, training
from robustprune.report.collect import collect, parse_metrics
from robustprune.report.style import Plot, finish, looks


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The axes of every picture made, by its key."""
    seen: dict[str, Axes] = {}

    def keep(figure: Any, *, key: str, alt: str) -> Plot:
        seen[key] = figure.axes[0]
        return finish(figure, key=key, alt=alt)

    monkeypatch.setattr(plots, "finish", keep)
    monkeypatch.setattr(training, "finish", keep)
    return seen


def _line(axes: Axes, label: str) -> np.ndarray[Any, Any]:
    """(points, 2) of the line with this label, continuation lines joined."""
    (line,) = [one for one in axes.lines if str(one.get_label()).replace("\n", " ") == label]
    return np.asarray(line.get_xydata())


def test_curve_is_drawn_in_percent_with_the_chosen_eps(
    metrics: dict[str, Any], drawn: dict[str, Axes]
) -> None:
    plots.accuracy_vs_eps(parse_metrics(metrics))
    axes = drawn["accuracy-vs-eps"]
    expected = [(0.0, 84.0), (0.1, 76.0), (0.3, 11.0), (0.8, 0.0)]
    assert _line(axes, "invented ticket 0.5") == pytest.approx(np.array(expected))
    vertical = [line.get_xdata() for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert [list(xs) for xs in vertical] == [[0.1, 0.1]]
    assert drawn["accuracy-vs-eps-near"].get_xlim() == (0.0, 0.2)


def test_band_is_the_headlines_interval(metrics: dict[str, Any], drawn: dict[str, Axes]) -> None:
    plots.accuracy_vs_eps(parse_metrics(metrics))
    (band,) = drawn["accuracy-vs-eps"].collections
    vertices = band.get_paths()[0].vertices
    at_eps = sorted({round(float(y), 1) for x, y in vertices if x == 0.1})
    assert at_eps == [66.4, 84.0]


def test_bars_are_as_long_as_the_layers_density(
    metrics: dict[str, Any], drawn: dict[str, Axes]
) -> None:
    metrics["models"][2]["layers"][1]["density"] = 0.125
    plots.layer_density(parse_metrics(metrics))
    lengths = [bar.get_width() for bar in drawn["layer-density-rst"].patches]
    assert lengths == [1.0, 1.0, 0.5, 0.125]


def test_training_is_drawn_by_epoch(run_dir: Path, drawn: dict[str, Axes]) -> None:
    training.training_curves(collect(run_dir))
    loss = _line(drawn["training-loss"], "invented natural dense")
    assert loss[:2] == pytest.approx(np.array([(0.0, 0.7), (1.0, 0.35)]))
    assert len(loss) == 30
    attacked = _line(drawn["training-robust"], "invented natural dense")
    assert attacked[3] == pytest.approx((3.0, 43.0))


def test_a_long_training_is_drawn_as_a_running_mean_over_its_epochs(
    drawn: dict[str, Axes],
) -> None:
    epochs, values = np.arange(60.0), np.arange(60.0) % 2
    (look,) = looks(["dense"]).values()
    line = training.Line("dense", epochs, values, look)
    training.epoch_plot([line], key="loss", title="loss", alt="loss by epoch.")
    faint, mean = drawn["training-loss"].get_lines()
    assert faint.get_ydata() == pytest.approx(values)
    assert mean.get_ydata()[:3] == pytest.approx([1 / 2, 1 / 3, 2 / 3])


def test_tradeoff_has_points_bars_and_dense_lines(
    several: dict[str, Any], drawn: dict[str, Axes]
) -> None:
    plots.density_tradeoff(parse_metrics(several))
    axes = drawn["density-robust"]
    dense = _line(axes, "invented adversarial dense")
    assert list(dense[:, 1]) == [81.0, 81.0]
    line, _caps, (stems,) = axes.containers[1]  # the middle family is not shifted: rst-inherit
    assert np.asarray(line.get_xydata()) == pytest.approx(
        np.array([(0.05, 77.0), (0.2, 77.0), (0.5, 77.0)])
    )
    ends = stems.get_segments()[0][:, 1]
    assert [round(float(end), 1) for end in ends] == [67.5, 84.8]
    assert list(_line(drawn["density-clean"], "invented adversarial dense")[:, 1]) == [87.0, 87.0]
