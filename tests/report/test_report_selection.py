"""Pictures of what was selected, and files of it that are not as described."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustprune.measure import Ranking
from robustprune.report import write_report
from robustprune.report.collect import collect
from robustprune.report.critical_difference import critical_difference
from robustprune.run.checkpoint import save_tensors


def tensors(shape: tuple[int, ...] = (1, 20)) -> dict[str, Tensor]:
    scores = torch.stack((torch.zeros(10), torch.arange(10.0)))
    x = torch.zeros(4, *shape)
    return {
        "epochs": torch.tensor([5, 15]),
        "scores": scores,
        "weights": (scores > 4).float(),
        "labels": torch.arange(10) % 2,
        "shown": torch.tensor([9, 8, 0, 1]),
        "x": x,
        "x_adv": x + 0.1,
    }


def save(run_dir: Path, content: dict[str, Tensor], model: str = "adversarial") -> Path:
    path = run_dir / "models" / model / "selection.safetensors"
    save_tensors(path, content)
    return path


def test_values_and_waveforms_are_shown(run_dir: Path) -> None:
    save(run_dir, tensors())
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    for text in ("What adversarial examples were worth", "The best and the worst adversarial"):
        assert text in html
        assert text in markdown
    for key in ("values", "histogram", "best-1", "best-2", "worst-1", "worst-2"):
        assert f"plots/selection-{key}-adversarial.svg" in markdown
        assert (run_dir / "plots" / f"selection-{key}-adversarial.svg").exists()
        assert f"selection-{key}-adversarial-" in html
    assert "5 of 10 taken: 2 of 5 of class 0, 3 of 5 of class 1" in markdown
    assert "Adversarial example 9 of class 1 over its clean series, best 1 by value (9)" in markdown
    assert "worst 1 by value (0), changed by up to 0.1" in markdown
    assert "after 15 epochs" in html


def test_images_have_no_waveform(run_dir: Path) -> None:
    save(run_dir, tensors((1, 6, 6)))
    _, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert "selection-values-adversarial" in markdown
    assert "best-1" not in markdown


def test_a_run_without_selection_says_nothing(run_dir: Path) -> None:
    assert collect(run_dir).selections == {}
    assert "adversarial examples were worth" not in write_report(run_dir)[1].read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(3, 10)}, r"do not fit 2 selections of 10 candidates"),
        ({"weights": torch.zeros(2, 9)}, r"do not fit 2 selections of 10 candidates"),
        ({"shown": torch.tensor([9, 8, 0, 10])}, "what is shown does not fit its 10 candidates"),
        ({"x": torch.zeros(3, 1, 20)}, "what is shown does not fit"),
        ({"more": torch.zeros(1)}, "expected epochs, labels, scores"),
    ],
)
def test_a_file_that_is_not_as_described(
    run_dir: Path, change: dict[str, Tensor], message: str
) -> None:
    save(run_dir, tensors() | change)
    with pytest.raises(ValueError, match=rf"selection\.safetensors.*{message}"):
        collect(run_dir)


def test_a_damaged_file_is_named(run_dir: Path) -> None:
    path = save(run_dir, tensors())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"selection\.safetensors is damaged"):
        collect(run_dir)


def test_critical_difference_joins_what_is_not_told_apart() -> None:
    ranking = Ranking({"first": 1.2, "second": 1.9, "third": 2.9}, 0.04, 0.9, 12)
    plot = critical_difference(ranking, key="ranks", title="Clean accuracy")
    assert "Not told apart: first to second." in plot.alt
    for text in ("first (1.20)", "third (2.90)", "average rank over 12", "difference 0.90"):
        assert text in plot.svg
    alone = critical_difference(Ranking(ranking.ranks, 0.04, 0.1, 12), key="ranks", title="t")
    assert "Not told apart: none." in alone.alt
