"""`meshcritic check-vlm`: tests whether a backend recognises planted faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.backend_flags import BackendSet, DryRunFlag, MaxCalls, Record, ReplyCacheFile
from cli.console import console, print_estimate, print_message, stages
from cli.options import MODELS, Json, MemoryOrSeedRules, PolicyDir, output_folder

if TYPE_CHECKING:
    from rich.table import Table

    from agent.agent import CritiqueAgent
    from agent.types import GroupCritique
    from eval.critics.planted_faults import FaultReport, PlantedGroup, PlantedScores

__all__ = ["check_vlm"]

PlantedBody = Annotated[
    Path | None,
    typer.Option(
        "--body",
        metavar="FILE",
        rich_help_panel=MODELS,
        help="SMPL, SMPL-H or SMPL-X body model, .npz or .pkl, of the people in the pictures and of the bodies that "
        "are scored. Default: the embedded body model.",
    ),
]
SHEET_CAPTION = "Each hypothesis with its score and name, the best first"


def check_vlm(
    spec: Annotated[
        str, typer.Argument(metavar="BACKEND", help="Backend, such as local:Qwen/Qwen3-VL-4B-Instruct.")
    ] = "embedded",
    scenes: Annotated[
        int,
        typer.Option(
            min=1, help="Number of groups to score, six bodies each. They are the same in every run."
        ),
    ] = 12,
    pictures: Annotated[
        str,
        typer.Option(
            help="How hypotheses are shown: separate (one picture each) or montage (six on a sheet)."
        ),
    ] = "separate",
    out: Annotated[
        Path | None,
        output_folder(
            "Folder for a sheet of pictures per scene, the trace and the scores. Default: nothing is written."
        ),
    ] = None,
    memory: MemoryOrSeedRules = None,
    settings: BackendSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyDir = None,
    body: PlantedBody = None,
    as_json: Json = False,
) -> None:
    """Check whether a backend ranks bodies with planted faults below the true body.

    Example: `meshcritic check-vlm openai:qwen3-vl@http://localhost:8000/v1 --scenes 12 --out runs/check`
    """
    from agent.context import CritiqueSettings
    from agent.default import open_default_agent
    from agent.types import require_scores
    from agent.vlm.options import BackendOptions, open_backend
    from eval.critics.planted_faults import PlantedScores, planted_groups
    from hmr.body.model import body_fingerprint, load_body
    from hmr.policy.checkpoint import load_policy

    options = BackendOptions(spec, settings or (), dry_run, max_calls, record, reply_cache)
    critique_settings, model = CritiqueSettings(pictures=pictures), load_body(body)
    trace = out / "trace.jsonl" if out and not dry_run else None
    with (
        open_backend(options) as opened,
        open_default_agent(
            load_policy(policy),
            model,
            memory,
            backend=opened.backend,
            settings=critique_settings,
            trace=trace,
        ) as agent,
    ):
        groups = planted_groups(model, scenes)
        critiques = _critiques(agent, groups)
    if opened.dry_run:
        print_estimate(opened.dry_run, as_json)
        return
    scored = [PlantedScores.of(group, critique) for group, critique in zip(groups, critiques, strict=True)]
    traces = [critique.trace_id for critique in critiques]
    _report(agent, groups, scored, traces, body_fingerprint(body), out, as_json)
    require_scores(critiques)


def _critiques(agent: CritiqueAgent, groups: Sequence[PlantedGroup]) -> list[GroupCritique]:
    from agent.agent import critique_many

    critiques: list[GroupCritique] = []
    with stages() as stage:
        tick = stage("scoring groups", len(groups))
        for critique in critique_many(agent, [(group.sample, group.hypotheses) for group in groups]):
            critiques.append(critique)
            tick(len(critiques))
    return critiques


def _report(
    agent: CritiqueAgent,
    groups: Sequence[PlantedGroup],
    scored: Sequence[PlantedScores],
    traces: Sequence[str],
    body: Mapping[str, str],
    out: Path | None,
    as_json: bool,
) -> None:
    from eval.critics.planted_faults import fault_report

    found = fault_report(scored)
    made_from = {"backend": agent.backend.name, "revision": agent.backend.revision, **body}
    answer = json.dumps({**made_from, **found.to_json(), "scenes": [item.to_json() for item in scored]})
    if out is not None:
        _save(out, answer, groups, scored, traces, agent)
    if as_json:
        print(answer)
    else:
        _print_report(found, scored)


def _save(
    out: Path,
    answer: str,
    groups: Sequence[PlantedGroup],
    scored: Sequence[PlantedScores],
    traces: Sequence[str],
    agent: CritiqueAgent,
) -> None:
    from eval.critics.planted_faults import fault_sheet
    from eval.report.trace.pictures import record_pictures
    from hmr.images.crops import encode_png

    out.mkdir(parents=True, exist_ok=True)
    (out / "check.json").write_text(answer)
    for number, (group, item, trace) in enumerate(zip(groups, scored, traces, strict=True)):
        sheet = fault_sheet(group, item, agent.body, agent.renderer, agent.settings.view_margin)
        name = f"scene-{number:02d}.png"
        (out / name).write_bytes(encode_png(sheet))
        record_pictures(out, trace, {name: SHEET_CAPTION})
    print_message(f"sheets of pictures in {out}: {len(groups)}")


def _print_report(found: FaultReport, scored: Sequence[PlantedScores]) -> None:
    from agent.types import QuestionCounts, lost_questions

    console().print(_table(found))
    if not found.judged:  # the run ends with the reason
        return
    print_message(f"the true body was ranked first in {found.truth_first} of {found.judged} groups")
    if found.judged < found.groups:
        reason = next((item.reason for item in scored if not item.ranking), "")
        print_message(f"{found.groups - found.judged} of {found.groups} groups got no scores: {reason}")
    degenerate = Counter(item.degeneracy for item in scored if item.ranking and item.degeneracy)
    for sentence, count in degenerate.items():
        print_message(f"{count} of {found.groups} groups: {sentence}")
    failures = [failure for item in scored for failure in item.failures]
    if lost := lost_questions(sum((item.questions for item in scored), QuestionCounts()), failures):
        print_message(lost)


def _table(found: FaultReport) -> Table:
    from rich.table import Table

    table = Table(
        "planted", "below the true body", "ranked last", title=f"groups of six judged: {found.judged}"
    )
    for name, count in found.last.items():
        below = found.below_truth.get(name)
        table.add_row(name, "" if below is None else f"{below} of {found.judged}", str(count))
    return table
