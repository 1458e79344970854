"""The report of a run: one interactive HTML file that requests nothing, with a browser of scored cases."""

from __future__ import annotations

from eval.report.run.charts import alignment_charts, occlusion_chart, paired_chart
from eval.report.run.data import Change, Chart, PersonPictures, Progress, ReportCase, ReportData
from eval.report.run.page import write_report
from eval.report.run.pictures import PictureSize, draw_case, draw_heat_maps, draw_person, picture_size
from eval.report.run.replies import with_replies

__all__ = [
    "Change", "Chart", "PersonPictures", "PictureSize", "Progress", "ReportCase", "ReportData", "alignment_charts",
    "draw_case", "draw_heat_maps", "draw_person", "occlusion_chart", "paired_chart", "picture_size",
    "with_replies", "write_report",
]  # fmt: skip
