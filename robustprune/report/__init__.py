"""Turn a finished run directory into report.html, report.md and a table for the terminal."""

from robustprune.report.render import write_report
from robustprune.report.table import terminal_table
from robustprune.report.ticket import plot_ticket

__all__ = ["plot_ticket", "terminal_table", "write_report"]
