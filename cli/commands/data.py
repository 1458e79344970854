"""`meshcritic data`: real data sets, made ready once and evaluated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.console import say, stages
from cli.options import BodyFile, Json, PolicyDir, Seed, a_folder

__all__ = ["data"]

data = typer.Typer(
    no_args_is_help=True, help="Real data sets, made ready once and evaluated on (docs/datasets.md)."
)


@data.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="human36m, 3dpw, 3dpw-coco, humandata, hmr2, spin, bedlam, emdb or coco.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the data set lies, as its own page unpacks it.")],
    out: Annotated[
        Path,
        typer.Option(
            callback=a_folder("--out"), help="Folder for the prepared set; must not exist or be empty."
        ),
    ],
    split: Annotated[str, typer.Option(help="A split's name, or an npz file's without its ending.")],
    every: Annotated[int, typer.Option(min=1, help="Take every so-manieth person, from the first.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many people at most.")] = None,
    as_json: Json = False,
) -> None:
    """Read a data set in its published layout, check it, and write samples and annotations apart.

    Example: `meshcritic data prepare coco data/coco --split val2017 --out data/prepared/coco-val`
    """
    from hmr.datasets.annotated_set import prepare as run
    from hmr.datasets.sources import source_of

    chosen = source_of(source, split)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    stderr = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(f"people of {source} {split}", total=None)
        run(chosen, folder, split, out, every, limit, lambda done: bar.update(task, completed=done))
    summary = json.loads((out / "set.json").read_text())
    if as_json:
        print(json.dumps(summary))
        return
    say(f"{summary['count']} people in {out} (content {summary['digest']}); {summary['follows']}")


@data.command()
def evaluate(
    prepared: Annotated[Path, typer.Argument(help="A folder that `meshcritic data prepare` wrote.")],
    policy: PolicyDir = None,
    body: BodyFile = None,
    bodies: Annotated[
        list[str] | None,
        typer.Option(help="gender=FILE, the set's own body models (EMDB, SPIN's 3DPW); repeatable."),
    ] = None,
    regressor: Annotated[
        Path | None,
        typer.Option(help="J_regressor_h36m.npy, or hmr2's SMPL_to_J19.pkl, for protocols of 14 joints."),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="M, hypotheses a person.")] = 20,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many people.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """A policy on a prepared set: MPJPE and PA-MPJPE by the set's own protocol, PCK where there are COCO keypoints.

    Example: `meshcritic data evaluate data/prepared/coco-val --samples 20`
    """
    from eval.benchmark.prepared_sets import Instruments, evaluate_annotated
    from hmr.body.model import load_body
    from hmr.datasets.protocols import load_regressor
    from hmr.policy.checkpoint import load_policy

    given = dict(_gender_and_file(text) for text in bodies or [])
    instruments = Instruments(
        load_body(body),
        {gender: load_body(path) for gender, path in given.items()},
        None if regressor is None else load_regressor(regressor),
    )
    with stages() as stage:
        report = evaluate_annotated(
            load_policy(policy),
            prepared,
            instruments,
            num_samples=samples,
            seed=seed,
            stage=stage,
            limit=limit,
        )
    if as_json:
        print(json.dumps({**report.to_json(), "samples": samples, "seed": seed}))
        return
    for metric, values in report.errors_mm.items():
        told = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
        say(f"{metric} ({report.protocol}, {report.people_in_space} people): {told}")
    for name, value in report.pck.items():
        say(f"{name} of hypothesis 0 ({report.people_in_image} people): {value:.3f}")


def _gender_and_file(text: str) -> tuple[str, Path]:
    gender, _, path = text.partition("=")
    if gender not in ("female", "male", "neutral") or not path:
        raise ValueError(f"--bodies takes female=FILE, male=FILE or neutral=FILE, not {text!r}")
    return gender, Path(path)
