"""`meshcritic check-vlm`: does a backend see faults that nobody can overlook?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.agent import judging_agent
from cli.backend_flags import BackendSet, DryRunFlag, MaxCalls, Record, ReplyCacheFile
from cli.console import console, say, say_estimate, stages
from cli.options import Json, PolicyDir, a_folder

if TYPE_CHECKING:
    from rich.table import Table

    from agent.agent import CritiqueAgent
    from eval.critics.planted_faults import FaultReport, Judged, PlantedGroup

__all__ = ["check_vlm"]


def check_vlm(
    spec: Annotated[
        str, typer.Argument(help="A backend, such as local:Qwen/Qwen3-VL-4B-Instruct.")
    ] = "embedded",
    scenes: Annotated[int, typer.Option(min=1, help="Groups of six to judge; always the same ones.")] = 12,
    pictures: Annotated[
        str, typer.Option(help="separate: a picture a hypothesis; montage: sheets of six.")
    ] = "separate",
    out: Annotated[
        Path | None,
        typer.Option(
            callback=a_folder("--out"),
            help="Folder for a sheet of pictures a scene, the trace and the answers.",
        ),
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="An explored memory, such as runs/demo/memory; default: the seed rules."),
    ] = None,
    settings: BackendSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyDir = None,
    as_json: Json = False,
) -> None:
    """Plant faults beside the true body and see what a backend ranks last.

    Example: `meshcritic check-vlm openai:qwen3-vl@http://localhost:8000/v1 --scenes 12 --out runs/check`
    """
    from agent.context import CritiqueSettings
    from agent.vlm.options import BackendOptions, opened_backend
    from eval.critics.planted_faults import planted_groups, report
    from hmr.body.model import load_body
    from hmr.policy.checkpoint import load_policy

    trace = out / "trace.jsonl" if out and not dry_run else None
    asked = BackendOptions(spec, settings or (), dry_run, max_calls, record, reply_cache)
    shown, body = CritiqueSettings(pictures=pictures), load_body()
    with (
        opened_backend(asked) as opened,
        judging_agent(load_policy(policy), body, opened.backend, memory, trace, settings=shown) as agent,
    ):
        groups = planted_groups(body, scenes)
        judged = _judged(agent, groups)
        if opened.dry_run:
            say_estimate(opened.dry_run, as_json)
            return
        found = report(judged)
        answer = {"backend": agent.backend.name, "revision": agent.backend.revision, **found.to_json()}
        whole = json.dumps({**answer, "scenes": [item.to_json() for item in judged]})
        if out is not None:
            _save(out, whole, groups, judged, agent)
    if as_json:
        print(whole)
    else:
        _say(found, judged)


def _judged(agent: CritiqueAgent, groups: Sequence[PlantedGroup]) -> list[Judged]:
    from agent.concurrent import critique_many
    from eval.critics.planted_faults import Judged

    judged: list[Judged] = []
    with stages() as stage:
        tick = stage("judging", len(groups))
        pairs = [(group.sample, group.hypotheses) for group in groups]
        for group, critique in zip(groups, critique_many(agent, pairs), strict=True):
            judged.append(Judged.of(group, critique))
            tick(len(judged))
    return judged


def _save(
    out: Path, answer: str, groups: Sequence[PlantedGroup], judged: Sequence[Judged], agent: CritiqueAgent
) -> None:
    from eval.critics.planted_faults import fault_sheet
    from hmr.images.crops import encode_png

    out.mkdir(parents=True, exist_ok=True)
    (out / "check.json").write_text(answer)
    for number, (group, verdict) in enumerate(zip(groups, judged, strict=True)):
        sheet = fault_sheet(group, verdict, agent.body, agent.renderer, agent.settings.view_margin)
        (out / f"scene-{number:02d}.png").write_bytes(encode_png(sheet))
    say(f"{len(groups)} sheets of pictures in {out}")


def _say(found: FaultReport, judged: Sequence[Judged]) -> None:
    console().print(_table(found))
    say(f"the truth came first in {found.truth_first} of {found.judged} groups")
    if found.judged < found.groups:
        reason = next((item.reason for item in judged if not item.ranking), "")
        say(f"{found.groups - found.judged} of {found.groups} groups got no scores: {reason}")


def _table(found: FaultReport) -> Table:
    from rich.table import Table

    table = Table("planted", "below the truth", "ranked last", title=f"{found.judged} groups of six")
    for name, times in found.last.items():
        below = found.below_truth.get(name)
        table.add_row(name, "" if below is None else f"{below} of {found.judged}", str(times))
    return table
