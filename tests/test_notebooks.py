"""What notebooks and consoles show of results: short, escaped, and with the right numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attacks import FGSM, ThreatModel
from robustprune import plot_ticket
from robustprune.certify import SmoothingResult, certify
from robustprune.certify.certificate import Certificate
from robustprune.measure import evaluate
from robustprune.minmax import History, Natural
from robustprune.search import Ticket, find_lottery_ticket
from robustprune.sparsity import MaskSet
from robustprune.tabular import MOST_ROWS, html_table

MASKS = MaskSet({"0.weight": torch.tensor([[True, False], [False, False]])})


def test_masks_show_each_layer_and_the_sum() -> None:
    masks = MaskSet({**MASKS, "<b>": torch.ones(1000, 2, dtype=torch.bool)})
    page = masks._repr_html_()
    cells = ("0.weight", "1", "4", "25%", "&lt;b&gt;", "2,000", "100%", "all", "2,001", "2,004")
    for cell in cells:
        assert f">{cell}</td>" in page
    assert "<b>" not in page


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    page = html_table("many", ("name", "x"), [(f"n{i}", i) for i in range(MOST_ROWS + 3)])
    assert page.count("<tr>") == MOST_ROWS + 2
    assert "and 3 more" in page


def test_a_ticket_says_what_it_keeps_of_the_whole_network() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    ticket = Ticket(MASKS, model, History())
    said = "density 0.25 of the 4 weights with a mask, 0.5 of all 6 parameters"
    assert repr(ticket) == f"Ticket({said}; History(no records))"
    assert said in ticket._repr_html_()


def test_every_kind_of_ticket_is_short() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    ticket = find_lottery_ticket(
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
        [(x, y)],
        density=0.5,
        objective=Natural(),
        epochs=2,
        rounds=1,
        quiet=True,
    )
    assert repr(ticket).startswith("LotteryTicket(density 0.5 of the 40 weights")
    assert len(repr(ticket)) < 200


def test_a_certificate_says_what_it_claims() -> None:
    certificate = Certificate(
        index=3, input="d", label=1, prediction=1, norm="linf", radius=0.12346, method="crown",
        settings={}, confidence=1.0, hits=None, attack_radius=None, guarantee="base",
    )  # fmt: skip
    assert repr(certificate) == (
        "Certificate(example 3, label 1, outcome certified, radius 0.1235 (linf), method crown, "
        "confidence proof)"
    )
    assert ">nearest attack</td>" in certificate._repr_html_()


def test_accuracies_are_shares_of_the_examples() -> None:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.bias.zero_()
    x, y = torch.tensor([[1.0], [0.05], [-1.0], [1.0]]), torch.tensor([1, 1, 0, 0])
    threat = ThreatModel("linf", eps=0.1, bounds=None)
    outcome = evaluate(model, x, y, {"fgsm": FGSM(threat)}, batch_size=4)
    assert repr(outcome) == "Outcome(n=4, clean 75%, fgsm 50%, worst 50%)"
    assert ">75%</td>" in outcome._repr_html_()


def test_smoothing_tells_radius_and_abstentions() -> None:
    def classify(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0]], 1)

    result = certify(classify, torch.tensor([[9.0], [0.0]]), sigma=1.0, n=200)
    assert isinstance(result, SmoothingResult)
    assert repr(result).startswith("SmoothingResult(n=2, abstained 1, median radius of the others ")


def test_a_ticket_is_drawn_by_the_plots_of_the_report(tmp_path: Path) -> None:
    torch.manual_seed(0)
    from robustprune.search import prune_scores

    x, y = torch.randn(8, 3), torch.arange(8) % 2
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    ticket = prune_scores(model, [(x, y)], density=0.5, objective=Natural(), epochs=2, quiet=True)
    gallery = plot_ticket(ticket)
    assert [plot.key for plot in gallery.plots][:2] == ["layer-density-ticket", "training-loss"]
    assert gallery._repr_html_().count("<svg") == len(gallery.plots)
    assert [path.name for path in gallery.save(tmp_path / "plots")] == [
        f"{plot.key}.svg" for plot in gallery.plots
    ]
    untrained = plot_ticket(Ticket(ticket.masks, ticket.model, History()))
    assert [plot.key for plot in untrained.plots] == ["layer-density-ticket"]
    with pytest.raises(AttributeError):
        plot_ticket(object())  # type: ignore[arg-type]
