"""The table on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from robustprune.report import terminal_table


def _printed(metrics: dict[str, Any], *, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(terminal_table(metrics))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_every_figure_fits_on_the_terminal(metrics: dict[str, Any], width: int) -> None:
    text = _printed(metrics, width=width)
    for word in ("clean", "FGSM", "PGD-20 ×5", "worst case", "natural dense", "of 1,000"):
        assert word in text
    for figure in ("84.0", "75.3–90.6", "76.0", "66.4–84.0", "500"):
        assert figure in text
    assert text.count("n=100") == 5 * 4
    assert "…" not in text


def test_rows_follow_the_metrics(several: dict[str, Any]) -> None:
    assert terminal_table(several).row_count == 2 + 3 * 3


def test_markup_in_names_is_text(metrics: dict[str, Any]) -> None:
    metrics["run"] = "[red]run[/red]"
    metrics["models"][0]["title"] = "[bold]x[/bold] [/]"
    text = _printed(metrics, width=140)
    assert "[bold]x[/bold] [/]" in text
    assert "[red]run[/red]" in text


def test_impossible_metrics_are_refused(metrics: dict[str, Any]) -> None:
    del metrics["models"][0]["clean"]
    with pytest.raises(ValueError, match=r"models\[0\]: has no field 'clean'"):
        terminal_table(metrics)


def test_a_constant_answer_comes_last_and_says_so(metrics: dict[str, Any]) -> None:
    finding = {"name": "rst: a constant answer", "ok": False, "figure": "", "detail": ""}
    metrics["findings"] = [finding]
    shown = _printed(metrics, width=100)
    assert "figures say nothing of robustness" in " ".join(shown.split())
    lines = shown.splitlines()
    (place,) = (
        i for i, line in enumerate(lines) if "one class for every" in line and "500" in line
    )
    assert place > max(i for i, line in enumerate(lines) if "re-init" in line)


def test_names_move_no_terminal(metrics: dict[str, Any]) -> None:
    metrics["run"] = "a\x1b[2K"
    metrics["models"][0]["title"] = "b\u202ec\nd"
    shown = _printed(metrics, width=120)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_density_of_the_whole_network_stands_beside_that_of_the_masks(
    metrics: dict[str, Any],
) -> None:
    """90% of the 2% that masks can cover is no network of which 10% is gone."""
    assert "of all" not in _printed(metrics, width=80)  # an older run has no number
    for model in metrics["models"]:
        model["parameters"] = 50 * model["total"]
    sparse = metrics["models"][-1]
    text = _printed(metrics, width=80)
    assert f"{1 - (1000 - sparse['kept']) / 50_000:.3g} of all" in text
    assert "1 of all" in text
    sparse["parameters"] = 999
    with pytest.raises(
        ValueError, match="parameters: must be at least the 1000 weights that masks"
    ):
        terminal_table(metrics)
