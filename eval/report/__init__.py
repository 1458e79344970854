"""The report of a run: one HTML file without external resources, and learning curves as SVG."""

from __future__ import annotations

from eval.report.page import ReportCase, ReportData, ShownHypothesis, draw_case, write_report

__all__ = ["ReportCase", "ReportData", "ShownHypothesis", "draw_case", "write_report"]
