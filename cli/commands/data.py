"""`meshcritic data`: prepares real data sets and evaluates policies on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    ReplyCacheFile,
    critique_and_backend,
)
from cli.console import console, print_estimate, print_json, print_message, stages
from cli.evaluation_bodies import GenderedBodies, Regressor, load_evaluation_bodies
from cli.options import (
    MAX_SAMPLES,
    BodyFile,
    DetectorSpec,
    Device,
    Json,
    MemoryOrSeedRules,
    Out,
    PolicyDir,
    Seed,
    output_folder,
)

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent
    from agent.vlm.options import BackendOptions
    from agent.vlm.wrappers.dry_run import DryRun
    from eval.benchmark.annotated.annotated_report import AnnotatedReport
    from hmr.body.model import Body
    from hmr.datasets.flaws import Flaws
    from hmr.policy.policy import DiffusionPolicy

__all__ = ["data"]

data = typer.Typer(
    no_args_is_help=True,
    help="Prepare real data sets and evaluate a policy on them (docs/guides/datasets.md).",
)


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
    detector: DetectorSpec = "blazepose",
    body: BodyFile = None,
    bodies: GenderedBodies = None,
    regressor: Regressor = None,
    samples: Annotated[int, typer.Option(min=2, max=MAX_SAMPLES, help="Hypotheses per person.")] = 20,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first people, up to this number. Default: all.")
    ] = None,
    critic: Annotated[
        bool,
        typer.Option(
            "--critic", help="Score the hypotheses with the critic, and report those that it scores best."
        ),
    ] = False,
    memory: MemoryOrSeedRules = None,
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    reply_cache: ReplyCacheFile = None,
    seed: Seed = 0,
    out: Out = Path("runs/data-evaluate"),
    as_json: Json = False,
) -> None:
    """Evaluate a policy and its detector on a prepared data set. The detector gets the boxes of the set.

    Reports MPJPE and PA-MPJPE in mm by the protocol of the data set, PVE if it has SMPL parameters, and PCK if it has
    COCO keypoints. Writes summary.json and, with one row per person, people.jsonl.

    Example: `meshcritic data evaluate data/prepared/coco-val --samples 20`
    """
    from common.storage.versions import versions
    from eval.benchmark.annotated.prepared_sets import evaluate_annotated
    from hmr.policy.checkpoint import load_policy

    asked = _critic_of(critic, memory, backend, settings, dry_run, max_calls, reply_cache)
    model = load_policy(policy, device, detector)
    evaluation_bodies = load_evaluation_bodies(body, bodies, regressor)
    with stages() as stage, _open_critic(asked, model, evaluation_bodies.body) as (scorer, estimate):
        report = evaluate_annotated(
            model, model.detector, prepared, evaluation_bodies, num_samples=samples, seed=seed, stage=stage,
            limit=limit, scorer=scorer,
        )  # fmt: skip
    if estimate:
        print_estimate(estimate, as_json)
        return
    digests, left_out = _digests(model, body, prepared), _flaws_of(prepared)
    used = {
        "detector_name": model.detector.name,
        "critic": scorer and scorer.name,
        "samples": samples,
        "seed": seed,
    }
    details = {**digests, **used, "prepared": left_out.to_json(), "versions": versions()}
    report.write(out, details)
    if as_json:
        print_json({**report.to_json(), **details})
        return
    _print_report(report, left_out)
    named = ", ".join(f"{name} {value}" for name, value in digests.items())
    print_message(f"{named}; errors of each person in {out / 'people.jsonl'}")


@dataclass(frozen=True)
class _Critic:
    """The critic that the options describe."""

    memory: Path | None
    backend: BackendOptions
    settings: dict[str, Any]


def _critic_of(
    critic: bool,
    memory: Path | None,
    backend: str,
    settings: list[str] | None,
    dry_run: bool,
    max_calls: int | None,
    reply_cache: Path | None,
) -> _Critic | None:
    """Raises ValueError for options of a critic without --critic."""
    critique_settings, options = critique_and_backend(
        backend, settings, dry_run, max_calls, None, reply_cache
    )
    if critic:
        return _Critic(memory, options, critique_settings)
    if memory or settings or dry_run or reply_cache or max_calls is not None or backend != "embedded":
        raise ValueError("--memory and the options of the backend configure the critic; add --critic")
    return None


@contextmanager
def _open_critic(
    critic: _Critic | None, policy: DiffusionPolicy, body: Body
) -> Iterator[tuple[CritiqueAgent | None, DryRun | None]]:
    """The agent, and in a dry run what counts its questions."""
    if critic is None:
        yield None, None
        return
    from agent.context import CritiqueSettings
    from agent.default import open_default_agent
    from agent.vlm.options import open_backend

    settings = CritiqueSettings(**critic.settings)
    with (
        open_backend(critic.backend) as opened,
        open_default_agent(
            policy, body, critic.memory, backend=opened.backend, settings=settings, trace=None
        ) as agent,
    ):
        yield agent, opened.dry_run


def _digests(policy: DiffusionPolicy, body: Path | None, prepared: Path) -> dict[str, str | None]:
    from common.reading.validate import read_json
    from common.storage.fingerprint import file_digest
    from hmr.body.model import EMBEDDED_BODY
    from hmr.detection.protocol import detector_digest

    return {
        "policy": policy.digest(),
        "detector": detector_digest(policy.detector),
        "body": file_digest(body or EMBEDDED_BODY),
        "data": read_json(prepared / "set.json", ("digest",))["digest"],
    }


def _flaws_of(prepared: Path) -> Flaws:
    """Of the records that `meshcritic data prepare` has left out."""
    from common.reading.validate import read_json
    from hmr.datasets.flaws import FIELDS, Flaws

    return Flaws.of_json(read_json(prepared / "set.json", FIELDS))


def _print_report(report: AnnotatedReport, prepared: Flaws) -> None:
    from eval.benchmark.annotated.annotated_report import report_tables

    for table in report_tables(report):
        console().print(table)
    for reason, count in report.without_pve.items():
        print_message(f"{count} people with SMPL parameters have no PVE: {reason}")
    if report.people_scored is not None:
        print_message(f"the critic scored {report.people_scored} of {len(report.per_person)} people")
    _print_flaws(report.flaws)
    for line in prepared.lines():
        print_message(f"when the set was prepared: {line}")


def _print_flaws(flaws: Flaws) -> None:
    for line in flaws.lines():
        print_message(line)
