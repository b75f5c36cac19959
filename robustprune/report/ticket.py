"""Pictures of a ticket for notebooks, by the functions that draw a report."""

from __future__ import annotations

from typing import Protocol

from robustprune.minmax import History
from robustprune.report.plots import layer_plot
from robustprune.report.style import Gallery, looks
from robustprune.report.training import PANELS, epoch_plot, line_of
from robustprune.sparsity import MaskSet


class HasHistory(Protocol):
    """What every search returns."""

    @property
    def masks(self) -> MaskSet: ...
    @property
    def history(self) -> History: ...


def plot_ticket(ticket: HasHistory, *, title: str = "ticket") -> Gallery:
    """Draw what a ticket keeps of each layer, and how its training went.

    Returns:
        plots that a notebook shows, and that `save(folder)` writes as SVG files.
    """
    layers = layer_plot(ticket.masks.layers(), key="ticket", title=title)
    trained = [record for record in ticket.history if record.layer is None]
    (look,) = looks([title]).values()
    curves = [
        epoch_plot([line], key=key, title=label, alt=f"{label} by epoch.")
        for key, label, read in PANELS
        if len((line := line_of(title, trained, look, read)).epochs)
    ]
    return Gallery((layers, *curves))
