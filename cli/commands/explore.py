"""`meshcritic explore`: a critic learns from lab scenes whose truth is known."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    split_settings,
)
from cli.console import say, say_estimate, stages
from cli.options import DetectorSpec, Device, Json, Out, PolicyDir, Seed, Ucb, a_folder

__all__ = ["explore"]

SHOWN = 3  # cases that a line names


def explore(
    memory: Annotated[
        Path | None,
        typer.Option(
            callback=a_folder("--memory"),
            help="The folder of the memory, made where there is none; default: OUT/memory.",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=4, help="Of lab-calibration: half are explored, a quarter admit rules.")
    ] = 128,
    samples: Annotated[int, typer.Option(min=3, help="Hypotheses a group.")] = 20,
    ucb: Ucb = 0.5,
    detector: DetectorSpec = "embedded",
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyDir = None,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Out = Path("runs/explore"),
    as_json: Json = False,
) -> None:
    """Fill a memory: judge groups on lab scenes, compare with the truth, count rules, mine and weigh new ones.

    Killed, it goes on where it stopped; with more `--images` it goes on learning.

    Example: `meshcritic explore --images 128 --backend openai:qwen3-vl@http://127.0.0.1:8000/v1`
    """
    from agent.vlm.options import BackendOptions, opened_backend
    from eval.critics.exploration import ExploreSettings, explore_lab
    from hmr.policy.checkpoint import load_policy

    of_the_critique, of_the_backend = split_settings(settings or ())
    asked = BackendOptions(backend, of_the_backend, dry_run, max_calls, record, reply_cache)
    memory = memory or out / "memory"
    with opened_backend(asked) as opened:
        with _kept_or_not(out, memory, dry_run) as (folder, filled), stages() as stage:
            found = explore_lab(
                load_policy(policy, device),
                opened.backend,
                ExploreSettings(images, samples, seed, ucb, detector, of_the_critique),
                folder,
                filled,
                stage,
                say,
                workers=os.cpu_count() or 1,
            )
        if opened.dry_run:
            say_estimate(opened.dry_run, as_json)
            return
    if as_json:
        print(json.dumps({"memory": str(memory), **found}))
    else:
        _say_what_came_of_it(found, memory, detector)


@contextmanager
def _kept_or_not(out: Path, memory: Path, dry_run: bool) -> Iterator[tuple[Path, Path]]:
    """Where to write. A dry run writes into copies that are thrown away, and so counts what is left to ask."""
    if not dry_run:
        yield out, memory
        return
    with tempfile.TemporaryDirectory() as thrown_away:
        copy = Path(thrown_away) / "memory"
        if memory.exists():
            shutil.copytree(memory, copy)
        yield Path(thrown_away), copy


def _say_what_came_of_it(found: dict[str, Any], memory: Path, detector: str) -> None:
    say(
        f"{found['cases']} cases explored, {found['skipped']} before; SRCC with the true errors {_rho(found['srcc'])}"
    )
    say(
        f"rules: {len(found['mined'])} mined, {len(found['admitted'])} admitted, {len(found['retired'])} retired, "
        f"{found['reweighed']} reweighed; SRCC on the held-out cases {_rho(found['held_out_srcc_before'])} before, "
        f"{_rho(found['held_out_srcc_after'])} after"
    )
    if found["unscored"]:
        say(f"{found['unscored']} cases got no score; the same command asks for them again")
    if held_up := found["held_up"]:
        more = " ..." if len(held_up) > SHOWN else ""
        say(
            f"rules could not be tried on {len(held_up)} cases ({', '.join(held_up[:SHOWN])}{more}), for which the "
            f"backend gave no score; no weight and no state was changed by it, and the same command tries again"
        )
    eyes = "" if detector == "embedded" else f" --detector {shlex.quote(detector)}"
    say(f"judge with it: meshcritic critique photo.jpg --memory {memory}{eyes}")


def _rho(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
