"""Options for the body models and the regressor by which real data sets are evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import MODELS

if TYPE_CHECKING:
    from eval.benchmark.annotated.annotated_errors import EvaluationBodies

__all__ = ["GenderedBodies", "Regressor", "load_evaluation_bodies"]

GenderedBodies = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GENDER=FILE",
        rich_help_panel=MODELS,
        help="Body model of female, male or neutral for the ground truth (needed by EMDB and SPIN's 3DPW); "
        "repeatable.",
    ),
]
Regressor = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=MODELS,
        help="Joint regressor for protocols of 14 joints: J_regressor_h36m.npy, or SMPL_to_J19.pkl of 4D-Humans.",
    ),
]


def load_evaluation_bodies(
    body: Path | None, bodies: list[str] | None, regressor: Path | None
) -> EvaluationBodies:
    """The files of `--body`, `--bodies` and `--regressor`. Raises ValueError and FileNotFoundError for what is none."""
    from eval.benchmark.annotated.annotated_errors import EvaluationBodies
    from hmr.body.model import load_body
    from hmr.datasets.protocols import load_regressor

    files = dict(_gender_and_file(text) for text in bodies or ())
    if body:
        files.setdefault("neutral", body)
    return EvaluationBodies(
        load_body(body),
        {gender: load_body(path) for gender, path in files.items()},
        None if regressor is None else load_regressor(regressor),
    )


def _gender_and_file(text: str) -> tuple[str, Path]:
    gender, _, path = text.partition("=")
    if gender not in ("female", "male", "neutral") or not path:
        raise ValueError(f"--bodies takes female=FILE, male=FILE or neutral=FILE, not {text!r}")
    return gender, Path(path)
