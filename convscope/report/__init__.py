"""The report: one HTML file that holds everything it shows."""

from convscope.report.build import About, Report
from convscope.report.page import Figure, PhotoPage, Sheet, Trouble

__all__ = ["About", "Figure", "PhotoPage", "Report", "Sheet", "Trouble"]
