"""The front door: the command `meshcritic`, and the one name that plug-ins import from.

    from meshcritic import CritiqueTool, Evidence, VLMBackend, load_body

Everything behind it is loaded when it is first used, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

_PUBLIC = {
    "BodyParams": "hmr.types",
    "Box": "hmr.types",
    "Camera": "hmr.types",
    "Detection": "hmr.types",
    "Hypotheses": "hmr.types",
    "Sample": "hmr.types",
    "Scorer": "hmr.types",
    "load_body": "hmr.body",
    "load_policy": "hmr.checkpoint",
    "DiffusionPolicy": "hmr.policy",
    "Case": "agent.types",
    "CritiqueTool": "agent.types",
    "Evidence": "agent.types",
    "GroupCritique": "agent.types",
    "CritiqueAgent": "agent.agent",
    "default_agent": "agent.default",
    "load_tools": "agent.tools",
    "Capabilities": "agent.vlm",
    "DataPart": "agent.vlm",
    "ImagePart": "agent.vlm",
    "MalformedReply": "agent.vlm",
    "Part": "agent.vlm",
    "Reply": "agent.vlm",
    "TextPart": "agent.vlm",
    "VLMBackend": "agent.vlm",
    "load_backend": "agent.vlm",
    "GroupPreferenceConfig": "rl.config",
    "GroupPreferenceTrainer": "rl.trainer",
    "build_preferences": "rl.preferences",
    "load_preferences": "rl.preferences",
}
__all__ = sorted(["main", *_PUBLIC])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="A critique agent judges groups of 3D human meshes and teaches a diffusion policy with what it found.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
PolicyDir = Annotated[
    Path | None, typer.Option("--policy", help="A checkpoint folder; default: the shipped one.")
]
BodyFile = Annotated[
    Path | None, typer.Option("--body", help="An SMPL file (.npz, .pkl); default: the embedded body.")
]
Boxes = Annotated[
    list[str] | None, typer.Option("--box", help="x0,y0,x1,y1 of a person in pixels; repeatable.")
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Pose a box even where the encoder is unsure.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    config: Annotated[
        Path | None, typer.Option(help="Sizes and alignment; default: configs/demo.yaml.")
    ] = None,
    policy: PolicyDir = None,
    as_json: Json = False,
) -> None:
    """The whole loop: wild images, hypotheses, critique, groups, alignment, evaluation.

    Example: `meshcritic demo --out runs/demo`
    """
    start = time.perf_counter()
    from eval.demo import Demo
    from eval.demo_outputs import write_demo
    from eval.settings import read_settings
    from eval.tables import rich_table

    settings = read_settings(config or Path(__file__).parent / "configs" / "demo.yaml")
    with _stages() as stage, Demo(out, settings, stage, policy) as run:
        result = run.run()
        rows, metrics = write_demo(run, result, time.perf_counter() - start)
    for title in result.reused:
        _say(f"reused from an earlier run: {title}")
    if as_json:
        print(json.dumps(metrics))
        return
    _console().print(rich_table(rows))
    critic = next(iter(metrics["seeds"].values()))["critic"]
    _say(
        f"critic, first seed: SRCC {critic['srcc']:.3f}, KRCC {critic['krcc']:.3f}, PLCC {critic['plcc']:.3f}"
    )
    _say(f"{metrics['wall_s'] / 60:.1f} min, {metrics['peak_mib']} MiB at most")
    _say(f"look at {out / 'report.html'}; figures in {out / 'metrics.json'}")


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photographs.")],
    out: Out = Path("runs/predict"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses a person.")] = 8,
    box: Boxes = None,
    anyway: Anyway = False,
    policy: PolicyDir = None,
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Hypotheses for the people in photographs: overlays, npz, GLB.

    Example: `meshcritic predict photo.jpg --box 214,18,330,345 --samples 8`
    """
    from eval.photos import parse_box, sample_people, save_person
    from hmr.body import load_body
    from hmr.checkpoint import load_policy
    from hmr.render import load_renderer

    model, skin, renderer = load_policy(policy), load_body(body), load_renderer()
    boxes = [parse_box(text) for text in box or []]
    out.mkdir(parents=True, exist_ok=True)
    answers = []
    for photo in photos:
        people = sample_people(_found(photo, model, boxes, anyway), model, samples, seed)
        for number, person in enumerate(people):
            paths = save_person(out / f"{photo.stem}-{number}", person, skin, renderer)
            answers.append(
                {"photo": str(photo), "bbox": _corners(person.sample.box), "files": [str(p) for p in paths]}
            )
    if as_json:
        print(json.dumps({"people": answers}))
        return
    for answer in answers:
        _say(f"{answer['photo']}: {', '.join(answer['files'])}")


@app.command()
def critique(
    photo: Annotated[Path, typer.Argument(help="A photograph.")],
    hypotheses: Annotated[
        Path | None, typer.Option(help="Judge these (docs/hypotheses-npz.md) instead of the policy's own.")
    ] = None,
    out: Out = Path("runs/critique"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses a person.")] = 8,
    box: Boxes = None,
    anyway: Anyway = False,
    backend: Annotated[
        str, typer.Option(help="Who judges: embedded, or an installed backend's NAME:ARGUMENT.")
    ] = "embedded",
    memory: Annotated[
        Path | None,
        typer.Option(help="An explored memory, such as runs/demo/memory; default: the seed rules."),
    ] = None,
    policy: PolicyDir = None,
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Scores from 0 to 100 and a comment for each hypothesis of a group.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    import tempfile

    from agent.default import default_agent, open_default_memory
    from agent.tracing import Trace
    from eval.photos import given_people, parse_box, sample_people, save_person
    from hmr.body import load_body
    from hmr.checkpoint import load_policy

    model, skin = load_policy(policy), load_body(body)
    if hypotheses is not None:
        people = given_people(photo, hypotheses, skin)
    else:
        boxes = [parse_box(text) for text in box or []]
        people = sample_people(_found(photo, model, boxes, anyway), model, samples, seed)
    out.mkdir(parents=True, exist_ok=True)
    answers = []
    with (
        tempfile.TemporaryDirectory() as fresh,
        Trace(out / "trace.jsonl") as trace,
        open_default_memory(memory or Path(fresh), model, frozen=memory is not None) as opened,
    ):
        agent = default_agent(model, skin, opened, backend=backend, trace=trace)
        for number, person in enumerate(people):
            verdict = agent.critique(person.sample, person.hypotheses)
            paths = save_person(out / f"{photo.stem}-{number}", person, skin, agent.renderer, verdict)
            answers.append(
                {
                    "bbox": _corners(person.sample.box),
                    "scores": list(verdict.scores),
                    "comments": list(verdict.comments),
                    "reasons": list(verdict.reasons),
                    "files": [str(path) for path in paths],
                }
            )
    if as_json:
        print(json.dumps({"people": answers}))
        return
    _say_scores(answers)


def _say_scores(answers: list[dict[str, Any]]) -> None:
    for number, answer in enumerate(answers):
        _say(f"person {number} at {answer['bbox']}: {', '.join(answer['files'][:2])}")
        for index, (score, comment) in enumerate(zip(answer["scores"], answer["comments"], strict=True)):
            _say(f"  {index:3d}  {'  -' if score is None else f'{score:5.1f}'}  {comment}")


@app.command()
def pretrain(
    config: Annotated[Path, typer.Option(help="One experiment.")] = Path("configs/pretrain_tiny.yaml"),
    out: Out = Path("runs/pretrain"),
    cache: Annotated[Path, typer.Option(help="Where training crops are kept.")] = Path("runs/cache"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw scenes.")] = 2,
) -> None:
    """Train a policy on labelled lab scenes; goes on from its last checkpoint.

    Example: `meshcritic pretrain --config configs/pretrain_tiny.yaml --out runs/pretrain`
    """
    from hmr.pretrain import pretrain as run
    from hmr.pretrain import read_config

    settings = read_config(config)
    with _stages() as stage:
        ticks: dict[str, Callable[[int], None]] = {}

        def progress(title: str, done: int, total: int) -> None:
            key = f"{title} ({total})"
            if key not in ticks:
                ticks[key] = stage(key, total)
            ticks[key](done)

        run(settings, out, cache, workers, progress)
    _say(f"the policy lies in {out}")


@app.command()
def evaluate(
    policy: PolicyDir = None,
    motion: Annotated[
        Path | None, typer.Option(help="Pose the scenes from a folder of AMASS npz files.")
    ] = None,
    split: Annotated[str, typer.Option(help="wild-test or lab-test.")] = "wild-test",
    images: Annotated[int, typer.Option(min=1)] = 200,
    samples: Annotated[int, typer.Option(min=2, help="M, hypotheses an image.")] = 100,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate"),
    as_json: Json = False,
) -> None:
    """A policy's errors on scenes with truth, beside the mean pose and a regression head on the same encoder.

    Example: `meshcritic evaluate --split wild-test --images 200 --samples 100`
    """
    from eval.baselines import evaluate_with_baselines
    from eval.tables import baseline_table
    from hmr.checkpoint import load_policy

    with _stages() as stage:
        result = evaluate_with_baselines(
            load_policy(policy), split, images, samples, seed, out, stage, motion, workers=os.cpu_count() or 1
        )
    if as_json:
        print(json.dumps(result.to_json()))
        return
    _console().print(baseline_table(result.reports))
    _say(f"benchmark {result.benchmark}, base policy {result.base_policy}")


@app.command()
def trace(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its trace.jsonl.")],
    case: Annotated[str | None, typer.Option(help="An image's id; default: the last case.")] = None,
) -> None:
    """One case's reasoning, node by node.

    Example: `meshcritic trace runs/demo --case 1f0c9a7be2d44c55`
    """
    from eval.trace_view import read_case, show_case

    for block in show_case(read_case(run, case)):
        _console().print(block)


def main() -> None:
    """The command. Bad input ends in one sentence and exit code 2; MESHCRITIC_DEBUG=1 shows the traceback."""
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars over local files
    try:
        app()
    except (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if os.environ.get("MESHCRITIC_DEBUG"):
            raise
        print(f"meshcritic: {error}", file=sys.stderr)
        sys.exit(2)


def _found(photo: Path, policy: Any, boxes: list[Any], anyway: bool) -> list[Any]:
    """The people of a photograph; what was refused is said on stderr."""
    from eval.photos import find_people

    found, refusals = find_people(photo, policy, boxes, anyway)
    for sentence in refusals:
        _say(sentence)
    return found


def _corners(box: Any) -> list[float]:
    return [round(value, 1) for value in (box.x0, box.y0, box.x1, box.y1)]


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _stages() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Progress bars on stderr, one a stage; where nobody watches, one line a finished stage."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield lambda title, total: _stage(bars, title, total)


def _stage(bars: Progress, title: str, total: int) -> Callable[[int], None]:
    task = bars.add_task(title, total=total)

    def tick(done: int) -> None:
        bars.update(task, completed=done)
        if bars.disable and done >= total:
            _say(f"done: {title}")

    return tick


if __name__ == "__main__":
    main()
