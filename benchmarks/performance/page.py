"""Figures as a Markdown page, with the machine on which they were measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.performance.figure import Figure

__all__ = ["Machine", "markdown"]


@dataclass(frozen=True)
class Machine:
    command: str
    commit: str
    date: str
    cores: int
    threads: int
    processor: str
    torch: str

    @staticmethod
    def here(command: str) -> Machine:
        git = ["git", "describe", "--always", "--dirty"]
        described = subprocess.run(
            git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return Machine(
            command,
            described.stdout.strip() or "unknown",
            datetime.date.today().isoformat(),
            os.cpu_count() or 1,
            torch.get_num_threads(),
            platform.machine(),
            torch.__version__,
        )

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)


def markdown(machine: Machine, results: Mapping[str, Sequence[Figure]], failures: Mapping[str, str]) -> str:
    """The page: the machine, then a table per benchmark. Ratios are the peer's figure relative to ours."""
    lines = [
        "# Performance",
        "",
        "| | |",
        "|---|---|",
        f"| command | `{machine.command}` |",
        f"| commit, date | `{machine.commit}`, {machine.date} |",
        f"| machine | {machine.cores} CPU cores ({machine.processor}), {machine.threads} threads, "
        f"torch {machine.torch} |",
        "",
        "Ratio: the peer's figure divided by ours, in the same run. The medians of several repeats are given. A goal "
        "that ends in x is a ratio.",
    ]
    for name, figures in results.items():
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", ""]
        if name in failures:
            lines.append(f"Not measured: {failures[name]}.")
            continue
        lines += ["| | ours | peer | the peer's | ratio | goal | |", "|---|---:|---|---:|---:|---:|---|"]
        lines += [_row(figure) for figure in figures]
        notes = [f"{figure.name}: {figure.note}." for figure in figures if figure.note]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> str:
    peer = "" if figure.peer_value is None else _number(figure.peer_value)
    ratio = "" if figure.ratio is None else _number(figure.ratio)
    verdict = {None: "", True: "met", False: "**missed**"}[figure.is_met]
    ours = f"{_number(figure.value)} {figure.unit}"
    return (
        f"| {figure.name} | {ours} | {figure.peer or ''} | {peer} | {ratio} | {_goal(figure)} | {verdict} |"
    )


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = "at most" if figure.goal.bound == "at most" else "at least"
    return f"{sign} {_number(figure.goal.value)}{' x' if figure.goal.of == 'ratio' else ''}"


def _number(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
