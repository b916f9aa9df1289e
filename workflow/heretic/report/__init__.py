"""The report: a self-contained page, static copies of its figures, and a table for the terminal."""

from heretic.report.page import write_report
from heretic.report.table import summary_table

__all__ = ["summary_table", "write_report"]
