"""`meshcritic data`: prepares real data sets and evaluates policies on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import print_json, print_message, stages
from cli.options import MODELS, BodyFile, Device, Json, Out, PolicyDir, Seed, output_folder

if TYPE_CHECKING:
    from eval.benchmark.prepared_sets import AnnotatedReport, EvaluationBodies
    from hmr.datasets.flaws import Flaws

__all__ = ["data"]

data = typer.Typer(
    no_args_is_help=True,
    help="Prepare real data sets and evaluate a policy on them (docs/guides/datasets.md).",
)


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


@data.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Data set: human36m, 3dpw, 3dpw-coco, humandata, hmr2, spin, bedlam, emdb or coco "
            "(docs/guides/datasets.md)."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of the data set, unpacked in its published layout.")],
    out: Annotated[
        Path, output_folder("Folder for the prepared set. It must be missing or empty, or hold the same set.")
    ],
    split: Annotated[
        str,
        typer.Option(
            help="Name of the split, such as val2017, or of an annotation .npz file without suffix."
        ),
    ],
    every: Annotated[int, typer.Option(min=1, help="Use every n-th person, starting with the first.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of people. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Check a data set in its published layout, and write its samples and its ground truth to separate files.

    Records that cannot be used are dropped and counted by reason.

    Example: `meshcritic data prepare coco data/coco --split val2017 --out data/prepared/coco-val`
    """
    from hmr.datasets.annotated_set import prepare as run
    from hmr.datasets.flaws import Flaws
    from hmr.datasets.sources import source_of

    known_source = source_of(source, split)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    stderr = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(f"people of {source} {split}", total=None)
        run(known_source, folder, split, out, every, limit, lambda done: bar.update(task, completed=done))
    summary = json.loads((out / "set.json").read_text())
    if as_json:
        print_json(summary)
        return
    print_message(f"{summary['count']} people in {out} (content {summary['digest']}); {summary['follows']}")
    _print_flaws(Flaws.of_json(summary))


@data.command()
def evaluate(
    prepared: Annotated[Path, typer.Argument(help="Folder written by `meshcritic data prepare`.")],
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    bodies: GenderedBodies = None,
    regressor: Regressor = None,
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses per person.")] = 20,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first people, up to this number. Default: all.")
    ] = None,
    seed: Seed = 0,
    out: Out = Path("runs/data-evaluate"),
    as_json: Json = False,
) -> None:
    """Evaluate a policy on a prepared data set.

    Reports MPJPE and PA-MPJPE in mm by the protocol of the data set, and PCK if there are COCO keypoints. Writes
    summary.json and, with one row per person, people.jsonl.

    Example: `meshcritic data evaluate data/prepared/coco-val --samples 20`
    """
    from common.fingerprint import file_digest
    from common.validate import read_json
    from eval.benchmark.prepared_sets import evaluate_annotated
    from hmr.body.model import EMBEDDED_BODY
    from hmr.policy.checkpoint import load_policy

    model, evaluation_bodies = load_policy(policy, device), _load_bodies(body, bodies or (), regressor)
    with stages() as stage:
        report = evaluate_annotated(
            model,
            prepared,
            evaluation_bodies,
            num_samples=samples,
            seed=seed,
            stage=stage,
            limit=limit,
        )
    digests = {
        "policy": model.digest(),
        "body": file_digest(body or EMBEDDED_BODY),
        "data": read_json(prepared / "set.json", ("digest",))["digest"],
    }
    details = {**digests, "samples": samples, "seed": seed}
    report.write(out, details)
    if as_json:
        print_json({**report.to_json(), **details})
        return
    _print_report(report)
    named = ", ".join(f"{name} {value}" for name, value in digests.items())
    print_message(f"{named}; errors of each person in {out / 'people.jsonl'}")


def _load_bodies(body: Path | None, bodies: Sequence[str], regressor: Path | None) -> EvaluationBodies:
    from eval.benchmark.prepared_sets import EvaluationBodies
    from hmr.body.model import load_body
    from hmr.datasets.protocols import load_regressor

    files = dict(_gender_and_file(text) for text in bodies)
    return EvaluationBodies(
        load_body(body),
        {gender: load_body(path) for gender, path in files.items()},
        None if regressor is None else load_regressor(regressor),
    )


def _print_report(report: AnnotatedReport) -> None:
    for metric, values in report.errors_mm.items():
        numbers = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
        print_message(f"{metric} ({report.protocol}, {report.people_in_space} people): {numbers}")
    for name, value in report.pck.items():
        print_message(f"{name} of hypothesis 0 ({report.people_in_image} people): {value:.3f}")
    _print_flaws(report.flaws)


def _print_flaws(flaws: Flaws) -> None:
    for line in flaws.lines():
        print_message(line)


def _gender_and_file(text: str) -> tuple[str, Path]:
    gender, _, path = text.partition("=")
    if gender not in ("female", "male", "neutral") or not path:
        raise ValueError(f"--bodies takes female=FILE, male=FILE or neutral=FILE, not {text!r}")
    return gender, Path(path)
