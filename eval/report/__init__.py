"""The report of a run: one HTML file without external resources, and learning curves as SVG."""

from __future__ import annotations

from eval.report.page import ReportCase, ReportData, ShownHypothesis, draw_case, write_report
from eval.report.people import Change, PersonPictures, draw_person

__all__ = [
    "Change", "PersonPictures", "ReportCase", "ReportData", "ShownHypothesis", "draw_case", "draw_person",
    "write_report",
]  # fmt: skip
