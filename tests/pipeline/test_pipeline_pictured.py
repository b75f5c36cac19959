"""The example that a run keeps for the first picture of its report."""

from pathlib import Path

import pytest
import torch

from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.measure import test_examples as examples_of
from robustprune.pipeline.pictured import interest
from robustprune.run.checkpoint import load_tensors
from robustprune.run.config import Config
from robustprune.run.rundir import PICTURED


@pytest.mark.parametrize(
    ("dense", "headline", "rank"),
    [
        ((True, False), (True, True), 0),
        ((True, True), (True, False), 1),
        ((True, False), (True, False), 1),
        ((True, True), (True, True), 2),
        ((False, False), (True, True), 3),
    ],
)
def test_the_most_telling_example_comes_first(
    dense: tuple[bool, bool], headline: tuple[bool, bool], rank: int
) -> None:
    assert interest({"natural": dense, "rst": headline}, "rst") == rank


def test_the_file_has_what_the_networks_answer(small: Config, tmp_path: Path) -> None:
    run = prepare(small, out=tmp_path, quiet=True)
    metrics = find_sparse_networks(run)
    tensors, meta = load_tensors(run.folder.path / PICTURED)
    x, y = examples_of(run)
    assert torch.equal(tensors["x"], x[meta["index"]])
    assert meta["label"] == int(y[meta["index"]])
    assert meta["attack"] == "pgd3"
    names = {name.partition("/")[2] for name in tensors} - {""}
    assert names == {"natural", "adversarial", metrics["headline"]}
    for name in names:
        x_adv = tensors[f"x_adv/{name}"]
        assert 0 < float((x_adv - tensors["x"]).abs().max()) <= small.threat.eps + 1e-6
        model = run.fresh_model().eval()
        model.load_state_dict(run.folder.load_model(name)[0])
        with torch.no_grad():
            logits = model(torch.stack([tensors["x"], x_adv]))
        assert tensors[f"logits/{name}"] == pytest.approx(logits[0], abs=1e-5)
        assert tensors[f"logits_adv/{name}"] == pytest.approx(logits[1], abs=1e-5)
    assert 'id="first"' in (run.folder.path / "report.html").read_text(encoding="utf-8")
    (method,) = metrics["methods"]
    assert method["title"] == "RST"
