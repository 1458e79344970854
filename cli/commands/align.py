"""`meshcritic align`: aligns a policy with a critic's scores of its hypotheses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import CritiqueSet, DryRunFlag, MaxCalls, ReplyCacheFile, split_settings
from cli.console import print_estimate, print_message, report_lost_questions, stages
from cli.options import (
    DETECTORS,
    MAX_GROUP,
    MODELS,
    WORKERS,
    BasePolicy,
    Device,
    Json,
    MemoryOrExplore,
    Motion,
    PolicyOrBase,
    SceneBodyFile,
    Seed,
    WithoutTool,
    body_option,
    config_file,
    output_folder,
    policy_folder,
)
from common.storage.files import CONFIGS
from common.storage.locks import single_run

if TYPE_CHECKING:
    from eval.pipelines.align_settings import AlignSettings
    from eval.pipelines.photographs import Photographs
    from hmr.policy.policy import DiffusionPolicy
    from rl.rounds import Rounds

__all__ = ["align"]

FIT = CONFIGS / "align_resample.yaml"
# by base policy: on wild the safest one, on street the only loss that can move the initial estimate
METHODS = {"shipped": "clip", "studio": "resample"}

AlignedPolicy = Annotated[
    Path, output_folder("Folder for the aligned policy, the scenes, the groups and the log.")
]
Critic = Annotated[
    str,
    typer.Option(
        "--critic",
        "--backend",
        help="Critic: embedded or another backend such as openai:NAME@URL (docs/guides/backends.md), hmr-scorer "
        "(a learned scorer), noisy-truth:SRCC (ground truth with noise), noisy-reading:SRCC[:shared] (true pose with "
        "an error), reward:FILE.py:NAME (your function), or shuffled[:CRITIC] (scores in random order, as a control).",
    ),
]
Penalties = Annotated[
    list[str] | None,
    typer.Option(
        "--penalty",
        metavar="METRIC=WEIGHT",
        help="Weight of a measurement of the agent's tools that is subtracted from its scores, both in standard "
        "deviations of the group, such as self_penetration_mm=0.3; repeatable (docs/guides/align.md).",
    ),
]
WithTrace = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="Write every step of the agent's critiques to OUT/trace.jsonl, for meshcritic trace: 110 KB for "
        "a group of 20.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="Way to learn from the scores: a loss (clip, weighted, quadratic, linear, dpo, kto, sft or resample), or "
        "search, which widens each group before the critic scores it, or policy-gradient, on the denoising chain. "
        "Default: that of --config, or else clip; with --base studio resample."
    ),
]
FitFirst = Annotated[
    bool,
    typer.Option(
        help="Before the scores, fit hypothesis 0 of each image to the keypoints that the policy's detector reports, "
        "and imitate the fits: for a policy outside the domain that it was trained on (docs/guides/align.md)."
    ),
]
NumRounds = Annotated[
    int,
    typer.Option(min=1, help="Rounds of sampling, scoring and alignment. The images are divided among them."),
]
Images = Annotated[
    int, typer.Option(min=2, help="Number of synthetic scenes without labels; each gets one critique.")
]
Calibration = Annotated[
    int,
    typer.Option(
        min=4,
        help="Number of labelled scenes that a memory is explored on, or a learned scorer is fitted on.",
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of your own photographs: the people found there are aligned on, instead of --images scenes; one "
        "in five is held out for a report.",
    ),
]
AnnotatedKeypoints = Annotated[
    Path | None,
    typer.Option(
        "--keypoints",
        metavar="FILE",
        help="COCO annotations of some of the --photos, .json, for the report alone: neither policy nor critic sees "
        "them.",
    ),
]
ScenesOrPhotosDetector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="SPEC",
        rich_help_panel=MODELS,
        help=f"{DETECTORS} Default: embedded; blazepose with --photos, where it finds the people for the policy too.",
    ),
]
TrainingArguments = Annotated[
    Path | None,
    config_file("YAML file of training arguments (rl/config.py). Default: configs/align_METHOD.yaml."),
]


def align(
    out: AlignedPolicy = Path("runs/align"),
    critic: Critic = "embedded",
    penalty: Penalties = None,
    without_tool: WithoutTool = None,
    method: Method = None,
    fit_first: FitFirst = False,
    rounds: NumRounds = 1,
    images: Images = 200,
    group_size: Annotated[int, typer.Option(min=2, max=MAX_GROUP, help="Hypotheses per image.")] = 20,
    calibration: Calibration = 128,
    config: TrainingArguments = None,
    motion: Motion = None,
    photos: Photos = None,
    keypoints: AnnotatedKeypoints = None,
    memory: MemoryOrExplore = None,
    detector: ScenesOrPhotosDetector = None,
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    reply_cache: ReplyCacheFile = None,
    trace: WithTrace = False,
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    device: Device = "cpu",
    body: SceneBodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Align a policy with a critic's scores of its own hypotheses, on images without labels: scenes, or photographs.

    The same command continues an interrupted run.

    Example: `meshcritic align --base studio --critic embedded --rounds 4 --out runs/street`
    """
    from eval.pipelines.align_settings import AlignSettings, read_alignment
    from hmr.policy.checkpoint import load_policy
    from rl.scorers.penalties import parse_penalties

    photographs = _photographs(photos, keypoints)
    policys, critics = _detectors(detector, photos)
    critique_settings, backend_settings = split_settings(settings)
    align_settings = AlignSettings(
        critic=critic, base=base, images=images, calibration=calibration,
        rounds=_rounds(rounds, group_size, seed, method), **_method(config, method, base),
        fit=read_alignment(FIT) if fit_first else None,
        motion=motion, body=body, memory=memory, detector=critics,
        max_calls=max_calls, reply_cache=reply_cache, backend=backend_settings, critique=critique_settings,
        penalties=parse_penalties(penalty or []), without_tools=tuple(without_tool or ()), trace=trace,
    )  # fmt: skip
    model = load_policy(policy_folder(policy, base), device, policys)
    if dry_run:
        _estimate(model, align_settings, photographs, as_json)
    else:
        _align(model, align_settings, photographs, out, as_json)


def _photographs(photos: Path | None, keypoints: Path | None) -> Photographs | None:
    from eval.pipelines.photographs import Photographs

    if photos is None:
        if keypoints is not None:
            raise ValueError(f"--keypoints {keypoints} annotates photographs; it needs --photos")
        return None
    return Photographs(photos, keypoints, print_message)


def _detectors(detector: str | None, photos: Path | None) -> tuple[str | None, str]:
    """Of the policy, None for its own, and of a critic on scenes; a critic on photographs has the policy's."""
    from cli.photos.detectors import choose_detector
    from eval.pipelines.align_settings import AlignSettings

    if photos is None:
        return None, detector or AlignSettings.detector
    return str(choose_detector(detector, None, [photos])), AlignSettings.detector


def _rounds(count: int, group_size: int, seed: int, method: str | None) -> Rounds:
    from eval.pipelines.align_settings import SEARCH
    from rl.preferences.search import SearchSettings
    from rl.rounds import Rounds

    search = SearchSettings.of_size(group_size) if method == SEARCH else None
    return Rounds(count, group_size, seed, search=search)


def _method(config: Path | None, method: str | None, base: str) -> dict[str, Any]:
    """The fields of `AlignSettings` that the method decides on, from the file or else the method's own in configs/."""
    from eval.pipelines.align_settings import POLICY_GRADIENT, SEARCH, read_alignment
    from rl.policy_gradient.config import read_policy_gradient

    if config is None:
        method = method or METHODS.get(base, METHODS["shipped"])
        own = CONFIGS / f"align_{method.replace('-', '_')}.yaml"
        config = own if own.exists() else CONFIGS / "align_clip.yaml"
    if method == POLICY_GRADIENT:
        return {"policy_gradient": read_policy_gradient(config)}
    alignment = read_alignment(config)
    return {"alignment": alignment if method in (None, SEARCH) else {**alignment, "loss_type": method}}


def _estimate(
    base: DiffusionPolicy, settings: AlignSettings, photographs: Photographs | None, as_json: bool
) -> None:
    from eval.pipelines.alignment import count_calls
    from eval.pipelines.photographs import count_calls_on_photographs

    with stages() as stage:
        if photographs is None:
            dry_run = count_calls(base, settings, stage, workers=WORKERS)
        else:
            dry_run = count_calls_on_photographs(base, photographs, settings, stage)
    print_estimate(dry_run, as_json)


def _align(
    base: DiffusionPolicy, settings: AlignSettings, photographs: Photographs | None, out: Path, as_json: bool
) -> None:
    from eval.pipelines.alignment import run_alignment
    from eval.pipelines.photographs import align_on_photographs

    with single_run(out), report_lost_questions(), stages() as stage:
        if photographs is None:
            aligned = run_alignment(base, settings, out, stage, workers=WORKERS)
        else:
            aligned = align_on_photographs(base, photographs, settings, out, stage)
    report = (out / "alignment.json").read_text()
    if as_json:
        print(report)
        return
    counts = json.loads(report)
    print_message(f"{counts['unscored_groups']} of {counts['groups']} groups got no score from the critic")
    warning = "; its critic used the ground truth, so this is not a result" if settings.uses_truth else ""
    print_message(f"{out} has policy {aligned.digest()}, aligned from {base.digest()}{warning}")
    print_message(f"learning curves: {out / 'curves.svg'}")
    if photographs is None:
        option = body_option(settings.body)
        print_message(f"to evaluate: meshcritic evaluate --policy {out} --split {settings.gap.test}{option}")
    else:
        print_message(f"before and after: {out / 'photos.html'}, {out / 'photos.json'}")
