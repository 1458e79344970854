"""Writes tables as Markdown, LaTeX (booktabs) and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from common.storage.files import atomic_path, write_text
from eval.benchmark.intervals import Interval
from eval.tables.table import Claim, Column, ResultTable, TableRow

__all__ = ["latex", "markdown", "write_tables"]


def write_tables(tables: Sequence[ResultTable], out: Path) -> list[Path]:
    """`tables.md`, `tables.tex` and `tables.parquet` in `out`; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"tables.{ending}" for ending in ("md", "tex", "parquet")]
    write_text(paths[0], "\n".join(markdown(table) for table in tables))
    write_text(paths[1], "\n".join(latex(table) for table in tables))
    with atomic_path(paths[2]) as partial:
        Dataset.from_list([record for table in tables for record in table.records()]).to_parquet(str(partial))
    return paths


def markdown(table: ResultTable) -> str:
    """The table under its title and protocol, then its claims."""
    header = ["", "uses truth", *(column.title for column in (*table.columns, *table.paper_columns))]
    lines = [
        f"## {_name(table)}: {table.title}{table.data and f' ({table.data})'}",
        "",
        f"Protocol: {table.protocol}.",
        *([f"Last {len(table.paper_columns)} columns: {table.paper_source}."] if table.paper_columns else []),
        "",
        _line(header),
        "|---|---|" + "---:|" * (len(header) - 2),
        *(_line([row.name, "yes" if row.uses_truth else "no", *_cells(table, row)]) for row in table.rows),
        "",
        *(f"- {claim.sentence}: **{claim.verdict}** ({_difference(claim)})" for claim in table.claims),
    ]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: ResultTable) -> str:
    """A `table` environment for the package booktabs."""
    columns = (*table.columns, *table.paper_columns)
    header = " & ".join(["", *(_escaped(column.title) for column in columns)])
    names = [f"{row.name} (uses truth)" if row.uses_truth else row.name for row in table.rows]
    rows = [
        " & ".join(map(_escaped, [name, *_cells(table, row)])) + r" \\"
        for name, row in zip(names, table.rows, strict=True)
    ]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escaped(table.title)}. {_escaped(table.protocol)}.}}",
        rf"\label{{tab:{'-'.join(filter(None, (table.name, table.data)))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        header + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _name(table: ResultTable) -> str:
    return table.name.replace("-", " ").capitalize()


def _cells(table: ResultTable, row: TableRow) -> list[str]:
    ours = [_interval(row.cells.get(column.key), column) for column in table.columns]
    theirs = [_number(row.paper.get(column.key), column.digits) for column in table.paper_columns]
    return [*ours, *theirs]


def _interval(cell: Interval | None, column: Column) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.{column.digits}f} ± {cell.half_width:.{column.digits}f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _difference(claim: Claim) -> str:
    found, digits = claim.difference, claim.digits
    if found is None:
        return "not measured"
    return f"{found.mean:+.{digits}f}, {found.low:+.{digits}f} to {found.high:+.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
