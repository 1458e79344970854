"""Writes the report of a run: one HTML file with its pictures, charts, style and scripts inside, that requests nothing.

The page's content security policy allows no request and no script but the ones written here, which it names by their
hashes. Text that a model wrote is untrusted: jinja escapes it, and the scripts insert it as text, never as markup.

Cases are JSON, one element each, so that the page parses only the case that is shown; the scripts come after the first
case, so that it is shown before the others are read. Charts are drawn by plotly.js's
`basic` bundle (1.2 MB; the whole library has 4.8), except the intervals in the rows of the tables: twenty static SVG
figures of 1 kB, which need no interaction.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from common.storage.files import PathLike, write_text
from eval.benchmark.tables import Row
from eval.report.environment import new_environment
from eval.report.run.case_data import case_content, case_summary
from eval.report.run.data import ReportCase, ReportData
from eval.report.run.strips import interval_strip
from hmr.render.heat_map import HEAT_STOPS

__all__ = ["write_report"]

FOLDER = Path(__file__).parent
PLOTLY = FOLDER / "plotly" / "plotly-basic.min.js"
SCRIPTS = ("dom.js", "charts.js", "case_view.js", "cases.js")
HEADLINE = ("mpjpe_mm", "hyp0")  # narrowing alone does not lower it
VARIANT_NAMES = {
    "narrowed": "Base at the same spread",
    "shuffled": "Shuffled scores",
    "labels": "Labels, the bound",
}


def write_report(path: PathLike, data: ReportData) -> None:
    """Render the page and replace the file at `path` in one step."""
    cases = sorted(data.cases, key=_agreement)
    scripts = _scripts()
    page = _environment().get_template("run/page.html.jinja").render(
        data=data,
        headline=next((row for row in data.rows if (row.metric, row.reduction) == HEADLINE), None),
        strips=_strips(data.rows),
        charts=[asdict(chart) for chart in data.charts],
        summaries=[case_summary(case) for case in cases],
        contents=(case_content(case) for case in cases),
        scripts=scripts,
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
    )  # fmt: skip
    write_text(path, page)


def _agreement(case: ReportCase) -> tuple[bool, float]:
    """Worst first: the page's first case is the one in which critic and truth disagree most. Cases without a
    correlation come last, those that the critic is least sure of before the others."""
    spearman = case.spearman
    return (spearman is None, -case.critique.rank_dispersion if spearman is None else spearman)


def _strips(rows: Sequence[Row]) -> list[Markup]:
    """One figure per row, all on one axis that covers every interval and 1 mm on both sides of zero."""
    intervals = [interval for row in rows for interval in row.differences.values() if interval is not None]
    low = min([-1.0, *(interval.low for interval in intervals)])
    high = max([1.0, *(interval.high for interval in intervals)])
    return [interval_strip(row.differences, low, high) for row in rows]


@cache
def _scripts() -> tuple[Markup, ...]:
    """plotly.js, and the page's own script."""
    own = "\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)
    return Markup(PLOTLY.read_text("utf-8")), Markup(f'"use strict";\n(() => {{\n{own}\n}})();')


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = new_environment()
    environment.filters |= {"webp": _data_uri, "signed": _signed, "embedded": _embedded}
    environment.globals |= {
        "variant_name": lambda name: VARIANT_NAMES.get(name, name.capitalize()),
        "heat_stops": HEAT_STOPS,
    }
    return environment


def _embedded(value: Any) -> Markup:
    """JSON in which no character can end the element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _data_uri(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def _signed(value: float) -> str:
    """+1.2, with a true minus sign and no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")
