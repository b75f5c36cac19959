"""The pictures show what was measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from robustprune.report.collect import collect, parse_metrics
from robustprune.report.plots import (
    accuracy_vs_eps,
    density_tradeoff,
    layer_density,
)
from robustprune.report.records import RunRecord
from robustprune.report.style import SERIES_COLOURS, Plot, inline, looks
from robustprune.report.training import running_mean, training_curves


def _texts(plot: Plot) -> str:
    """All text of the picture."""
    root = ElementTree.fromstring(plot.svg)
    return " ".join("".join(element.itertext()) for element in root.iter() if _is_text(element))


def _is_text(element: ElementTree.Element) -> bool:
    return element.tag == "{http://www.w3.org/2000/svg}text"


def test_curves_name_every_network_the_bound_and_the_chosen_eps(metrics: dict[str, Any]) -> None:
    whole, near = accuracy_vs_eps(parse_metrics(metrics))
    for plot in (whole, near):
        text = _texts(plot)
        for model in metrics["models"]:
            assert model["title"] in text
        assert "upper bound (attack)" in text
        assert "chosen ε = 0.1" in text
        assert "L∞ (input units)" in text
    assert "invented natural dense falls to 0.0% at 0.8" in whole.alt


def test_no_close_up_when_the_curve_is_short(metrics: dict[str, Any]) -> None:
    metrics["threat"]["eps"] = 0.3
    assert [plot.key for plot in accuracy_vs_eps(parse_metrics(metrics))] == ["accuracy-vs-eps"]


def test_several_densities_get_a_picture_each(several: dict[str, Any]) -> None:
    plots = accuracy_vs_eps(parse_metrics(several))
    keys = [plot.key for plot in plots if not plot.key.endswith("-near")]
    assert keys == [f"accuracy-vs-eps-density-{density}" for density in ("0.05", "0.2", "0.5")]
    assert "invented rst-0.2-reinit" in _texts(plots[2])
    assert "invented rst-0.5" not in _texts(plots[2])
    assert "invented natural dense" in _texts(plots[2])


def test_layer_bars_name_layers_and_counts(metrics: dict[str, Any]) -> None:
    (plot,) = layer_density(parse_metrics(metrics))
    text = _texts(plot)
    assert "conv1.weight" in text
    assert "100 / 200" in text
    assert "400 / 800" in text
    assert "invented ticket 0.5 (same in 2 more)" in text


def test_layer_bars_of_different_masks_stay_apart(metrics: dict[str, Any]) -> None:
    metrics["models"][3]["layers"][0]["density"] = 0.25
    keys = [plot.key for plot in layer_density(parse_metrics(metrics))]
    assert keys == ["layer-density-rst", "layer-density-rst-inherit"]


def test_long_layer_names_keep_their_end(metrics: dict[str, Any]) -> None:
    metrics["models"][2]["layers"][0]["name"] = "backbone." * 6 + "conv7.weight"
    assert "conv7.weight" in _texts(layer_density(parse_metrics(metrics))[0])


def test_training_panels(run_dir: Path) -> None:
    plots = training_curves(collect(run_dir))
    assert [plot.key for plot in plots] == ["training-loss", "training-clean", "training-robust"]
    assert "attacked batch accuracy (%)" in _texts(plots[2])


def test_validation_gets_a_panel_when_it_was_measured(run_dir: Path) -> None:
    run = collect(run_dir)
    measured = tuple(dataclasses.replace(e, val_robust=0.5) for e in run.histories["rst"])
    with_validation: RunRecord = dataclasses.replace(
        run, histories={**run.histories, "rst": measured}
    )
    assert training_curves(with_validation)[-1].key == "training-val-robust"


def test_tradeoff_needs_two_densities(metrics: dict[str, Any]) -> None:
    assert density_tradeoff(parse_metrics(metrics)) == []


def test_tradeoff_shows_densities_families_and_dense_lines(several: dict[str, Any]) -> None:
    robust, clean = density_tradeoff(parse_metrics(several))
    text = _texts(robust)
    for word in ("5%", "20%", "50%", "rst-inherit", "rst-reinit", "invented adversarial dense"):
        assert word in text
    assert "worst-case attacked accuracy" in text
    assert "clean accuracy" in _texts(clean)
    assert "invented rst-0.05 76.0%" in robust.alt


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("rst", "rst"),
        ("rst-0.05", "rst"),
        ("rst-0.05-inherit", "rst-inherit"),
        ("rst-1-reinit", "rst-reinit"),
        ("natural", "natural"),
    ],
)
def test_family_is_the_name_without_density(
    metrics: dict[str, Any], name: str, family: str
) -> None:
    metrics["models"][2]["name"] = metrics["headline"] = name
    if name == "natural":
        del metrics["models"][0]
    assert parse_metrics(metrics).headline_model.family == family


def test_looks_differ_in_colour_dashes_and_marker() -> None:
    made = looks([f"family{index}" for index in range(len(SERIES_COLOURS))]).values()
    for field in ("colour", "dashes", "marker"):
        assert len({getattr(look, field) for look in made}) == len(SERIES_COLOURS)


def test_same_metrics_same_bytes(metrics: dict[str, Any]) -> None:
    first, second = (accuracy_vs_eps(parse_metrics(metrics))[0].svg for _ in range(2))
    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_global_settings_of_matplotlib_are_left_alone(metrics: dict[str, Any]) -> None:
    accuracy_vs_eps(parse_metrics(metrics))
    for name in ("svg.fonttype", "svg.hashsalt", "text.parse_math", "axes.grid", "text.color"):
        assert mpl.rcParams[name] == mpl.rcParamsDefault[name]


def test_awkward_titles_are_drawn_as_they_are(metrics: dict[str, Any]) -> None:
    metrics["models"][0]["title"] = "costs $x_1 & <5$ 网络"
    assert "costs $x_1 & <5$ 网络" in _texts(accuracy_vs_eps(parse_metrics(metrics))[0])


def test_inline_svgs_share_no_id_and_every_reference_resolves(metrics: dict[str, Any]) -> None:
    pictures = [inline(plot) for plot in accuracy_vs_eps(parse_metrics(metrics))]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in pictures]
    assert len(ids[0]) > 10
    assert not ids[0] & ids[1]
    for known, svg in zip(ids, pictures, strict=True):
        references = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert references
        assert set(references) <= known
        assert 'role="img"' in svg
        assert "var(--series-3, #d55e00)" in svg
        assert "http" not in svg


def test_forty_networks_look_different() -> None:
    names = [str(number) for number in range(40)]
    assert len(set(looks(names).values())) == 40


def test_a_running_mean_has_fewer_neighbours_at_the_ends() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0])
    assert running_mean(values, 1).tolist() == [1.0, 2.0, 6.0, 3.0]
    assert running_mean(values, 3).tolist() == [1.5, 3.0, 11 / 3, 4.5]
    assert running_mean(np.array([]), 3).tolist() == []
