"""`meshcritic explore`: fills a critic's memory from labelled scenes."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    critique_and_backend,
)
from cli.console import print_estimate, print_json, print_message, report_lost_questions, stages
from cli.options import (
    MAX_GROUP,
    WORKERS,
    BasePolicy,
    DetectorSpec,
    Device,
    Json,
    Out,
    PolicyOrBase,
    SceneBodyFile,
    Seed,
    Ucb,
    body_option,
    output_folder,
    policy_folder,
)
from common.storage.locks import single_run

if TYPE_CHECKING:
    from agent.exploration.explore import RuleReviewer

__all__ = ["explore"]

MAX_NAMES = 3  # cases named in a message

MemoryToFill = Annotated[
    Path | None,
    output_folder(
        "Folder of the memory; it is created if missing. Default: OUT/memory.",
        option="--memory",
    ),
]
Review = Annotated[
    str | None,
    typer.Option(
        metavar="POINT",
        help="Ask on the terminal: admit_rule, which mined rules are worth a trial; the others retire.",
    ),
]
Images = Annotated[
    int,
    typer.Option(
        min=4,
        help="Number of synthetic scenes of the base policy's calibration split. Half are explored; a quarter decides "
        "which new rules are admitted.",
    ),
]


def explore(
    memory: MemoryToFill = None,
    images: Images = 128,
    samples: Annotated[int, typer.Option(min=3, max=MAX_GROUP, help="Hypotheses per scene.")] = 20,
    ucb: Ucb = 0.5,
    detector: DetectorSpec = "embedded",
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    review: Review = None,
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    device: Device = "cpu",
    body: SceneBodyFile = None,
    seed: Seed = 0,
    out: Out = Path("runs/explore"),
    as_json: Json = False,
) -> None:
    """Fill a critic's memory: critique synthetic scenes, and learn rules from the true errors.

    The same command continues an interrupted run. A larger `--images` extends a finished one.

    Example: `meshcritic explore --images 128 --backend openai:qwen3-vl@http://127.0.0.1:8000/v1`
    """
    from agent.vlm.options import open_backend
    from common.storage.versions import write_run
    from eval.critics.exploration import ExploreSettings, explore_calibration
    from hmr.policy.checkpoint import load_policy

    critique_settings, options = critique_and_backend(
        backend, settings, dry_run, max_calls, record, reply_cache
    )
    explore_settings = ExploreSettings(
        base=base, images=images, samples=samples, seed=seed, ucb=ucb, detector=detector, body=body,
        critique=critique_settings,
    )  # fmt: skip
    memory, reviewer = memory or out / "memory", _reviewer(review, dry_run)
    with open_backend(options.keeping_replies_in(out)) as opened:
        with (
            report_lost_questions(),
            _output_folders(out, memory, dry_run) as (out_folder, memory_folder),
            stages() as stage,
        ):
            found = explore_calibration(
                load_policy(policy_folder(policy, base), device),
                opened.backend,
                explore_settings,
                out=out_folder,
                memory=memory_folder,
                stage=stage,
                print_line=print_message,
                workers=WORKERS,
                reviewer=reviewer,
            )
            write_run(out_folder, found["made_from"])
        if opened.dry_run:
            print_estimate(opened.dry_run, as_json)
            return
    if as_json:
        print_json({"memory": str(memory), **found})
    else:
        _print_report(found, memory, detector, body)


def _reviewer(point: str | None, dry_run: bool) -> RuleReviewer | None:
    from cli.rule_review import review_rules

    if point not in (None, "admit_rule"):
        raise ValueError(f"--review of an exploration takes admit_rule, not {point}")
    if point and dry_run:
        raise ValueError("--dry-run asks nobody; leave out --review")
    return review_rules if point else None


@contextmanager
def _output_folders(out: Path, memory: Path, dry_run: bool) -> Iterator[tuple[Path, Path]]:
    """The folders to write to. A dry run gets a temporary copy of the memory, and so counts the remaining requests."""
    if not dry_run:
        with single_run(out, memory):
            yield out, memory
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "memory"
        if memory.exists():
            shutil.copytree(memory, copy)
        yield Path(temporary), copy


def _print_report(found: dict[str, Any], memory: Path, detector: str, body: Path | None = None) -> None:
    print_message(
        f"{found['cases']} cases explored, {found['skipped']} by an earlier run; SRCC with the true errors "
        f"{_rho(found['srcc'])}"
    )
    print_message(
        f"rules: {len(found['mined'])} mined, {len(found['admitted'])} admitted, {len(found['retired'])} retired, "
        f"{found['reweighed']} reweighed; SRCC on the held-out cases {_rho(found['held_out_srcc_before'])} before, "
        f"{_rho(found['held_out_srcc_after'])} after"
    )
    if found["unscored"]:
        print_message(
            f"{found['unscored']} cases got no complete critique; the same command tries them again"
        )
    if blocked := found["blocked_cases"]:
        more = " ..." if len(blocked) > MAX_NAMES else ""
        print_message(
            f"rules could not be tested on {len(blocked)} cases ({', '.join(blocked[:MAX_NAMES])}{more}) because the "
            f"backend gave no score; their weights and states are unchanged, and the same command tries again"
        )
    option = "" if detector == "embedded" else f" --detector {shlex.quote(detector)}"
    print_message(f"to use it: meshcritic critique photo.jpg --memory {memory}{option}{body_option(body)}")


def _rho(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
