"""The report of a run: one HTML file that needs nothing else, for a person to look at."""

from __future__ import annotations

from eval.report.page import ReportCase, ReportData, ShownHypothesis, write_report
from eval.report.pictures import picture_case

__all__ = ["ReportCase", "ReportData", "ShownHypothesis", "picture_case", "write_report"]
