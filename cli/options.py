"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "DETECTORS", "MAX_GROUP", "MAX_SAMPLES", "MODELS", "WORKERS", "AcceptAnyBox", "BasePolicy", "BodyFile", "Boxes",
    "CameraFile", "Center", "DetectorOrExplored", "DetectorSpec", "Device", "Focal", "Json", "KeypointFile",
    "MemoryOrExplore", "MemoryOrSeedRules", "Motion", "Out", "PhotoDetector", "PolicyDir", "PolicyOrBase",
    "SceneBodyFile", "Seed", "Skeleton", "Ucb", "WithoutTool", "body_option", "config_file", "file_to_write",
    "output_folder",
    "policy_folder",
]  # fmt: skip

WORKERS = os.cpu_count() or 1  # processes that render scenes
MAX_GROUP = 200  # hypotheses of a critique, which takes about 10 MB of memory for each
MAX_SAMPLES = 10_000
MODELS = "Models"  # a group of options on the help pages

Check = Callable[[Path | None], Path | None]


def folder_to_write(option: str) -> Check:
    """The callback of an option that takes an output folder: ValueError if the path, or a parent of it, is a file."""

    def check(folder: Path | None) -> Path | None:
        if folder and (file := _first_file(folder, *folder.parents)):
            raise ValueError(f"{option} takes a new or an existing folder, and {file} is a file")
        return folder

    return check


def file_to_write(option: str) -> Check:
    """The callback of an option that takes an output file: ValueError if the path is a folder or a parent is a file."""

    def check(file: Path | None) -> Path | None:
        if file and file.is_dir():
            raise ValueError(f"{option} takes a new or an existing file, and {file} is a folder")
        if file and (other := _first_file(*file.parents)):
            raise ValueError(f"{option} takes a file in a folder, and {other} is a file")
        return file

    return check


def output_folder(help: str, option: str = "--out") -> Any:
    """The declaration of an option that takes an output folder."""
    return typer.Option(option, metavar="FOLDER", callback=folder_to_write(option), help=help)


def config_file(help: str) -> Any:
    """The declaration of `--config`, which takes a YAML file."""
    return typer.Option("--config", metavar="FILE", help=help)


def policy_folder(policy: Path | None, base: str) -> Path:
    """The folder of --policy, or else of the base policy. Raises ValueError for an unknown one."""
    from hmr.policy.checkpoint import BASES

    if base not in BASES:
        raise ValueError(f"no base policy is called {base!r}; there are {', '.join(BASES)}")
    return policy or BASES[base]


def body_option(body: Path | None) -> str:
    """`--body` with its value, for a command that a message names, after a space; empty for the embedded body."""
    return f" --body {shlex.quote(str(body))}" if body else ""


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists() and not path.is_dir()), None)


Skeleton = Annotated[
    bool, typer.Option("--skeleton", help="Draw the detector's keypoints over the bodies, as bones.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed. The same seed gives the same result.")]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="Box of a person, in pixels of the photograph; repeatable. Default: the detector finds the people.",
    ),
]
AcceptAnyBox = Annotated[
    bool,
    typer.Option(
        "--accept-any-box", help="Also accept boxes in which the detector has a confidence below 0.2."
    ),
]
Focal = Annotated[
    float | None,
    typer.Option(
        "--focal",
        metavar="PX",
        help="Focal length, in pixels of the photograph. Default: estimated as the length of the image diagonal.",
    ),
]
Center = Annotated[
    str | None,
    typer.Option(
        "--center",
        metavar="X,Y",
        help="Principal point, in pixels of the photograph. Default: the middle of the photograph.",
    ),
]
CameraFile = Annotated[
    Path | None,
    typer.Option(
        "--camera",
        metavar="FILE",
        help="Known camera, .json, instead of --focal and --center (docs/reference/camera-file.md).",
    ),
]
Motion = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Pose the scenes with AMASS .npz files in this folder. Default: generated poses.",
    ),
]
Ucb = Annotated[
    float,
    typer.Option(
        "--ucb",
        help="Weight C of the exploration bonus for rules that were used rarely; 0 disables the bonus.",
    ),
]

PolicyDir = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FOLDER",
        rich_help_panel=MODELS,
        help="Checkpoint of the policy. Default: the shipped one.",
    ),
]
PolicyOrBase = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FOLDER",
        rich_help_panel=MODELS,
        help="Checkpoint of the policy. Default: that of --base.",
    ),
]
BasePolicy = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="NAME",
        rich_help_panel=MODELS,
        help="Base policy: shipped (broad), or studio (trained on scenes of studio alone; its alignment uses scenes of "
        "street). docs/reference/benchmark.md describes both.",
    ),
]
Device = Annotated[
    str,
    typer.Option(rich_help_panel=MODELS, help="Device that the policy runs on: cpu, cuda, cuda:N or mps."),
]
SCENES_BODY = (
    "SMPL, SMPL-H or SMPL-X body model, .npz or .pkl, of which scenes are drawn and hypotheses scored. The policy must "
    "have been trained with it (meshcritic pretrain --body). Default: the embedded body model."
)
BodyFile = Annotated[
    Path | None,
    typer.Option(
        "--body",
        metavar="FILE",
        rich_help_panel=MODELS,
        help="SMPL, SMPL-H or SMPL-X body model, .npz or .pkl. Default: the embedded body model.",
    ),
]
SceneBodyFile = Annotated[
    Path | None, typer.Option("--body", metavar="FILE", rich_help_panel=MODELS, help=SCENES_BODY)
]
DETECTORS = (
    "Detector of people and keypoints: blazepose (for photographs), embedded (for rendered people), simulated (stored "
    "with scenes of studio and street), transformers, "
    "transformers:FINDER,POSE,SEGMENTER with models from the hub or from folders, or NAME:ARGUMENT of an installed "
    "plug-in."
)
DetectorSpec = Annotated[str, typer.Option(metavar="SPEC", rich_help_panel=MODELS, help=DETECTORS)]
WithoutTool = Annotated[
    list[str] | None, typer.Option(metavar="TOOL", help="Tool to remove from the agent; repeatable.")
]
PhotoDetector = Annotated[
    str | None,
    typer.Option(
        "--detector", metavar="SPEC", rich_help_panel=MODELS, help=f"{DETECTORS} Default: blazepose."
    ),
]
DetectorOrExplored = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="SPEC",
        rich_help_panel=MODELS,
        help="Detector of people and keypoints, as in predict. Default: the one with which --memory was explored, if "
        "that reads photographs, or else blazepose.",
    ),
]
KeypointFile = Annotated[
    Path | None,
    typer.Option(
        "--keypoints",
        metavar="FILE",
        help="The people of one photograph and their keypoints, .json, instead of a detector: our own format, "
        "OpenPose's output, or COCO's annotations or results (docs/reference/keypoint-file.md).",
    ),
]
MemoryOrSeedRules = Annotated[
    Path | None,
    typer.Option(
        "--memory",
        metavar="FOLDER",
        rich_help_panel=MODELS,
        help="Memory of an explored critic, such as runs/demo/memory. Default: the seed rules only.",
    ),
]
MemoryOrExplore = Annotated[
    Path | None,
    typer.Option(
        "--memory",
        metavar="FOLDER",
        rich_help_panel=MODELS,
        help="Memory of an explored critic, such as runs/demo/memory. Default: a new one is explored first.",
    ),
]

Out = Annotated[Path, output_folder("Folder for the output files.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result on stdout as one JSON object."),
]
