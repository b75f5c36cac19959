"""The first picture: a test example before and after the attack, and what networks answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from robustprune.report import pictured as module
from robustprune.report import write_report
from robustprune.report.collect import collect
from robustprune.report.style import Plot, finish
from robustprune.run.checkpoint import save_tensors
from robustprune.run.rundir import PICTURED

META = {"index": 7, "label": 1, "attack": "pgd20"}


def example(*shape: int) -> dict[str, torch.Tensor]:
    """An input, which the attack breaks for the dense network alone."""
    x = torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    right, wrong = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 0.0])
    return {
        "x": x,
        "x_adv/natural": x + 0.1,
        "logits/natural": right,
        "logits_adv/natural": wrong,
        "x_adv/rst": x - 0.05,
        "logits/rst": right,
        "logits_adv/rst": right / 3,
    }


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Axes]]:
    """The axes of every picture made, by its key."""
    seen: dict[str, list[Axes]] = {}

    def keep(figure: Any, *, key: str, alt: str) -> Plot:
        seen[key] = figure.axes
        return finish(figure, key=key, alt=alt)

    monkeypatch.setattr(module, "finish", keep)
    return seen


def test_it_is_the_first_thing_of_the_report(run_dir: Path) -> None:
    save_tensors(run_dir / PICTURED, example(1, 20), META)
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert html.index('id="first"') < html.index('id="summary"') < html.index('id="results"')
    assert "Test example 7, of class 1, as it is (grey)" in html
    assert "some are not under attack" in html
    assert html.count('aria-label="Test example 7 for ') == 2
    for said in ("class 1 (95%), right", "class 0 (88%), wrong", "class 1 (73%), right"):
        assert said in html
    assert markdown.index("plots/example-natural.svg") < markdown.index("## In short")
    assert (run_dir / "plots" / "example-rst.svg").exists()


def test_a_run_of_an_older_version_has_none(written: tuple[Path, Path]) -> None:
    for path in written:
        assert "What the attack does" not in path.read_text(encoding="utf-8")


def test_clean_attacked_and_delta_are_drawn(run_dir: Path, axes: dict[str, list[Axes]]) -> None:
    tensors = example(2, 20)
    tensors["x_adv/rst"][1] += 0.12  # the channel that changes most is drawn
    save_tensors(run_dir / PICTURED, tensors, META)
    module.pictured(collect(run_dir))
    above, below = axes["example-rst"]
    clean, attacked = (line.get_ydata() for line in above.get_lines())
    assert clean == pytest.approx(tensors["x"][1].numpy())
    assert attacked == pytest.approx(tensors["x_adv/rst"][1].numpy())
    assert below.get_xlabel() == "time step, channel 1 of 2"
    assert [line.get_ydata()[0] for line in below.get_lines()] == [-0.1, 0.1]  # ± ε
    heights = below.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(0.07, abs=1e-6)


def test_an_image_is_drawn_with_its_change(run_dir: Path, axes: dict[str, list[Axes]]) -> None:
    tensors = example(3, 4, 5)
    save_tensors(run_dir / PICTURED, tensors, META)
    html, _ = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    clean, delta, attacked = (
        np.asarray(one.images[0].get_array()) for one in axes["example-natural"]
    )
    assert clean.shape == (4, 5, 3)
    assert delta == pytest.approx(np.ones((4, 5, 3)))  # δ = 0.1 everywhere, the most
    assert attacked[0, 0] == pytest.approx(clean[0, 0] + 0.1 / 2.1, abs=1e-6)
    sources = re.findall(r'xlink:href="([^"#][^"]*)"|\bhref="([^"#][^"]*)"', html)
    assert sources
    assert all("".join(one).startswith("data:image/png;base64,") for one in sources)
    assert "img-src data:" in html


@pytest.mark.parametrize("shape", [(5,), (1, 1), (4, 4, 4), (2, 3, 4, 5)])
def test_other_inputs_are_drawn_or_left_out(run_dir: Path, shape: tuple[int, ...]) -> None:
    save_tensors(run_dir / PICTURED, example(*shape), META)
    assert len(module.pictured(collect(run_dir))) == (2 if shape == (5,) else 0)
    write_report(run_dir)


def _without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in example(1, 8).items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "meta", "said"),
    [
        (_without("logits_adv/rst"), META, "expected"),
        (_without("x"), META, "expected"),
        ({**example(1, 8), "more": torch.ones(1)}, META, "expected"),
        ({**example(1, 8), "x": torch.ones(1, 9)}, META, "do not fit"),
        ({**example(1, 8), "logits/rst": torch.ones(3)}, META, "do not fit"),
        ({**example(1, 8), "logits/rst": torch.tensor([0.0, torch.nan])}, META, "NaN"),
        (example(1, 8), {**META, "label": 2}, "must be below 2"),
        (example(1, 8), {**META, "attack": "fab"}, "must be an attack"),
        (example(1, 8), {**META, "index": "first"}, "index: must be a number"),
        (example(1, 8), {}, "has no field"),
        ({"x": torch.ones(3)}, META, "expected"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    run_dir: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any], said: str
) -> None:
    save_tensors(run_dir / PICTURED, tensors, meta)
    with pytest.raises(ValueError, match=rf"(?s)pictured\.safetensors.*{said}"):
        collect(run_dir)


def test_a_file_that_is_too_large_is_refused(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tensors(run_dir / PICTURED, example(1, 8), META)
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        collect(run_dir)
