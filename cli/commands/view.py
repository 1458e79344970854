"""`meshcritic view`: a page on this machine that shows bodies in space."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import print_message
from cli.options import (
    MAX_SAMPLES,
    MODELS,
    AcceptAnyBox,
    BodyFile,
    Boxes,
    CameraFile,
    Center,
    Device,
    Focal,
    KeypointFile,
    PhotoDetector,
    PolicyDir,
    Seed,
)
from cli.startup import without_collection

if TYPE_CHECKING:
    from cli.photos.intrinsics import Intrinsics
    from cli.viewer.catalogue import Entry
    from hmr.body.model import Body
    from hmr.policy.policy import DiffusionPolicy

__all__ = ["view"]


def view(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|NPZ|PHOTO",
            help="Output folder of `meshcritic critique` or `predict`, a file of hypotheses, or a photograph, for "
            "which hypotheses are sampled.",
        ),
    ],
    photo: Annotated[
        Path | None,
        typer.Option(
            "--photo",
            "--photos",
            metavar="PATH",
            help="Photograph of the hypotheses, or the folder of the photographs of a run. Default: those that the "
            "hypotheses were made for.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=2, max=MAX_SAMPLES, help="Hypotheses per person of a photograph.")
    ] = 8,
    box: Boxes = None,
    accept_any_box: AcceptAnyBox = False,
    focal: Focal = None,
    center: Center = None,
    camera: CameraFile = None,
    detector: PhotoDetector = None,
    keypoints: KeypointFile = None,
    policy: PolicyDir = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=MODELS,
            help="Checkpoint of a second policy, whose bodies are shown beside those of --policy, from the same noise.",
        ),
    ] = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. Default: a free one.")] = 0,
) -> None:
    """Serve a page on this machine that shows bodies in space, over their photograph, in the colours of their scores.

    Ctrl-C ends the command.

    Example: `meshcritic view runs/critique`
    """
    _require_viser()
    with without_collection():
        from cli.photos.intrinsics import parse_intrinsics
        from cli.viewer.page import Page
        from cli.viewer.server import GuardedServer
        from hmr.body.model import load_body

    model = load_body(body)
    if what.is_dir() or what.suffix == ".npz":
        sampling = {
            "--box": box, "--accept-any-box": accept_any_box, "--focal": focal, "--center": center, "--camera": camera,
            "--keypoints": keypoints, "--policy": policy, "--against": against,
        }  # fmt: skip
        _refuse(sampling, f"is for photographs, for which bodies are sampled; {what} holds bodies")
        entries = _given_entries(what, photo, model, detector, device)
    else:
        _refuse(
            {"--photo": photo}, f"is for the bodies of a run or of a file; {what} is taken for a photograph"
        )
        policies = _load_policies(policy, against, device, detector, keypoints, what)
        intrinsics = parse_intrinsics(focal, center, camera)
        entries = [_sampled_entry(what, policies, box, accept_any_box, intrinsics, samples, seed)]
    first = entries[0].load()
    server = GuardedServer(port, "meshcritic")
    Page(server, entries, first, model)
    print_message(f"open {server.access.url} in a browser on this machine")
    threading.Event().wait()  # a signal ends the process (common.stopping)


def _require_viser() -> None:
    if find_spec("viser") is None:
        raise ValueError("meshcritic view needs viser: pip install 'meshcritic[view]'")


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raises ValueError for an option that is given."""
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{given[0]} {why}")


def _given_entries(
    path: Path, photo: Path | None, body: Body, detector: str | None, device: str
) -> Sequence[Entry]:
    from cli.photos.detectors import DEFAULT_DETECTOR
    from cli.viewer.catalogue import find_entries
    from hmr.detection.loading import load_detector

    spec = detector or DEFAULT_DETECTOR
    return find_entries(path, photo, body, cache(lambda: load_detector(spec, device)))


def _load_policies(
    policy: Path | None,
    against: Path | None,
    device: str,
    detector: str | None,
    keypoints: Path | None,
    photo: Path,
) -> dict[str, DiffusionPolicy]:
    """By label: the path that was given. They share the detector."""
    from cli.photos.detectors import choose_detector
    from hmr.policy.checkpoint import load_policy

    first = load_policy(policy, device, choose_detector(detector, keypoints, [photo]))
    policies = {str(policy or "shipped policy"): first}
    if against is not None:
        if str(against) in policies:
            raise ValueError(f"--against {against} is the policy of --policy; give another one")
        policies[str(against)] = load_policy(against, device, first.detector)
    return policies


def _sampled_entry(
    path: Path,
    policies: Mapping[str, DiffusionPolicy],
    boxes: Sequence[str] | None,
    accept_any_box: bool,
    intrinsics: Intrinsics,
    samples: int,
    seed: int,
) -> Entry:
    """The photograph with hypotheses of every policy. Rejected boxes are reported on stderr."""
    from cli.photos.people import find_people, parse_box
    from cli.viewer.catalogue import Entry, sample_photo
    from hmr.images.photographs import load_photo

    photo = load_photo(path)
    detector = next(iter(policies.values())).detector
    given = [parse_box(text) for text in boxes or ()]
    people, rejections = find_people(photo, str(path), detector, given, accept_any_box, intrinsics)
    for sentence in rejections:
        print_message(sentence)
    shown = sample_photo(path.stem, photo, people, policies, samples, seed)
    return Entry(path.name, lambda: shown)
