"""The table of the cost of the headline model in each of its forms."""

from __future__ import annotations

from dataclasses import dataclass

from robustprune.report.records import CostRecord, CostsRecord
from robustprune.report.wording import count, file_size


@dataclass(frozen=True)
class CostRow:
    """One form of the network, as text."""

    name: str
    parameters: str
    nonzeros: str
    macs: str
    effective_macs: str
    file_size: str
    latency: str
    quartiles: str
    ratio: str


@dataclass(frozen=True)
class CostTable:
    """The rows, of which the first is the dense network, and the conditions of the measurement."""

    headline: str
    conditions: str
    note: str
    rows: tuple[CostRow, ...]


def cost_table(costs: CostsRecord | None) -> CostTable | None:
    """Return the table; None if the run has no costs, and no rows if none could be measured."""
    if costs is None or not (costs.rows or costs.note):
        return None
    if not costs.rows:
        return CostTable(costs.headline, "", costs.note, ())
    dense = costs.rows[0]
    threads = "1 thread" if dense.threads == 1 else f"{dense.threads} threads"
    return CostTable(
        headline=costs.headline,
        conditions=f"batches of {dense.batch_size}, {threads}, {dense.device}",
        note=costs.note,
        rows=tuple(_row(row, dense) for row in costs.rows),
    )


def _row(cost: CostRecord, dense: CostRecord) -> CostRow:
    low, high = cost.latency_quartiles
    return CostRow(
        name=cost.name,
        parameters=count(cost.parameters),
        nonzeros=count(cost.nonzeros),
        macs=_at_least(cost) + count(cost.macs),
        effective_macs=_at_least(cost) + count(cost.effective_macs),
        file_size=file_size(cost.file_bytes),
        latency=f"{1e3 * cost.latency:.2f} ms",
        quartiles=f"[{1e3 * low:.2f}, {1e3 * high:.2f}]",
        ratio=f"{cost.latency / dense.latency:.2f}",
    )


def _at_least(cost: CostRecord) -> str:
    """Return the words before counts that leave something out."""
    return "at least " if cost.uncounted else ""
