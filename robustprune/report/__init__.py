"""Turn a finished run directory into report.html, report.md and a table for the terminal."""

from robustprune.report.render import write_report
from robustprune.report.table import terminal_table

__all__ = ["terminal_table", "write_report"]
