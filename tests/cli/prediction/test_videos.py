"""Videos: batches of frames, motions, the overlay video, resumed after a kill."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.commands.predict import Summary
from cli.photos.hypotheses_file import read_hypotheses
from cli.prediction import videos
from cli.prediction.run import Outcome, PredictSettings
from cli.prediction.sources import Source
from hmr.images.videos import VideoFrame, open_video
from hmr.types import Box
from tests.cli.prediction.test_predictor import BOX, models, predict, save_gif
from tests.hmr.body.test_export import read_accessor, read_glb
from tests.hmr.detection.test_video import Noting

__all__ = ["models"]

VIDEO = PredictSettings(samples=2, boxes=(BOX,), accept_any_box=True, formats=("bvh",), every=2)


@pytest.fixture
def short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "BATCH_FRAMES", 2)


def test_every_nth_frame_of_a_video_is_processed_and_written_as_one_motion(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=5)
    *frames, whole = predict(models, tmp_path / "out", clip, settings=VIDEO)
    assert [outcome.frame for outcome in frames] == [0, 2, 4]
    (motion,) = whole.record["motions"]
    assert motion == {
        "files": [str(tmp_path / "out/clip-0.bvh")],
        "first_frame": 0,
        "time_s": 0,
        "duration_s": 0.2,
    }
    assert frames_of(motion["files"][0]) == ["Frames: 3", "Frame Time: 0.080000"]  # two frames of 40 ms


def frames_of(bvh: str) -> list[str]:
    lines = Path(bvh).read_text().splitlines()
    start = lines.index("MOTION")
    return lines[start + 1 : start + 3]


def test_motions_have_the_durations_of_unevenly_spaced_frames(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", 4, milliseconds=[1000, 40, 40, 40])
    settings = dataclasses.replace(VIDEO, formats=("glb", "bvh"), every=1)
    *frames, whole = predict(models, tmp_path / "out", clip, settings=settings)
    assert [outcome.record["time_s"] for outcome in frames] == [0, 1, 1.04, 1.08]
    (motion,) = whole.record["motions"]
    assert motion["files"] == [str(tmp_path / "out/clip-0.glb"), str(tmp_path / "out/clip-0.bvh")]
    assert motion["duration_s"] == 1.12
    assert frames_of(motion["files"][1]) == ["Frames: 28", "Frame Time: 0.040000"]
    tree, binary = read_glb(Path(motion["files"][0]))
    times = tree["animations"][0]["samplers"][0]["input"]
    np.testing.assert_allclose(read_accessor(tree, binary, times), [0, 1, 1.04, 1.08, 1.12], rtol=1e-6)


def test_a_missing_animation_is_written_again(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=2)
    settings = dataclasses.replace(VIDEO, formats=("glb",), every=1)
    predict(models, tmp_path / "out", clip, settings=settings)
    data = (tmp_path / "out/clip-0.glb").read_bytes()
    (tmp_path / "out/clip-0.glb").unlink()
    again = predict(models, tmp_path / "out", clip, settings=settings)
    assert [outcome.earlier for outcome in again] == [True, True, False]
    assert (tmp_path / "out/clip-0.glb").read_bytes() == data


def test_a_person_who_appears_later_has_a_motion_from_then_on(models, tmp_path, monkeypatch):
    clip, calls = save_gif(tmp_path / "clip.gif", 3, milliseconds=[500, 100, 100]), []

    def nobody_at_first(*args: object) -> list[Box]:
        calls.append(args)
        return [] if len(calls) == 1 else [BOX]

    monkeypatch.setattr(models.policy.detector, "find", nobody_at_first)
    settings = dataclasses.replace(VIDEO, boxes=(), every=1)
    *_, whole = predict(models, tmp_path / "out", clip, settings=settings)
    (motion,) = whole.record["motions"]
    assert (motion["first_frame"], motion["time_s"], motion["duration_s"]) == (1, 0.5, 0.2)
    assert frames_of(motion["files"][0]) == ["Frames: 2", "Frame Time: 0.100000"]


@pytest.mark.parametrize("frames_done", [2, 3])
@pytest.mark.usefixtures("short_batches")
def test_a_killed_video_is_resumed_at_the_next_frame(models, tmp_path, frames_done):
    """Also within a batch."""
    clip = save_gif(tmp_path / "clip.gif", frames=4)
    settings = dataclasses.replace(VIDEO, every=1, formats=("npz", "bvh"))
    predict(models, tmp_path / "out", clip, settings=settings, stop_after=frames_done)
    assert not (tmp_path / "out/clip-0.bvh").exists()
    again = predict(models, tmp_path / "out", clip, settings=settings)
    assert [outcome.earlier for outcome in again] == [number < frames_done for number in range(4)] + [False]
    predict(models, tmp_path / "whole", clip, settings=settings)
    for name in ("clip-0.bvh", "clip-overlay.gif"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ours, theirs = (
        read_hypotheses(tmp_path / run / "clip-000003-0.npz", (64, 72)) for run in ("out", "whole")
    )
    assert torch.equal(ours[0][1].params.body_pose, theirs[0][1].params.body_pose)
    third = predict(models, tmp_path / "out", clip, settings=settings)
    assert [(outcome.frame, outcome.earlier) for outcome in third] == [
        (0, True), (1, True), (2, True), (3, True), (None, True),
    ]  # fmt: skip


@pytest.mark.usefixtures("short_batches")
def test_people_of_a_video_are_followed_and_those_of_a_resumed_one_are_the_same(
    models, tmp_path, monkeypatch
):
    clip, settings = save_gif(tmp_path / "clip.gif", frames=4), dataclasses.replace(VIDEO, boxes=(), every=1)
    tracker = Noting()
    monkeypatch.setattr(models.policy, "detector", tracker)
    predict(models, tmp_path / "whole", clip, settings=settings)
    assert tracker.searches == [0]
    predict(models, tmp_path / "out", clip, settings=settings, stop_after=2)
    again = predict(models, tmp_path / "out", clip, settings=settings)
    assert [outcome.earlier for outcome in again] == [True, True, False, False, False]
    assert tracker.searches == [0, 0, 0]
    assert (tmp_path / "out/clip-0.bvh").read_text() == (tmp_path / "whole/clip-0.bvh").read_text()


def test_a_motion_is_smoothed_on_request(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=3)
    for seconds in (0.0, 0.1):
        settings = dataclasses.replace(VIDEO, every=1, smooth_s=seconds)
        predict(models, tmp_path / str(seconds), clip, settings=settings)
    plain, smooth = ((tmp_path / folder / "clip-0.bvh").read_text() for folder in ("0.0", "0.1"))
    assert plain != smooth
    assert frames_of(tmp_path / "0.1/clip-0.bvh") == frames_of(tmp_path / "0.0/clip-0.bvh")


def test_the_manifest_has_one_json_line_per_item(models, tmp_path):
    predict(models, tmp_path / "out", save_gif(tmp_path / "clip.gif", frames=2), settings=VIDEO)
    records = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == ["clip-000000", "clip"]


def test_a_failed_video_is_reported_with_the_reason_of_the_failure(tmp_path, capsys):
    """Not with what was said of a frame before."""
    source = Source(tmp_path / "clip.gif", "clip")
    summary = Summary(single=True, collect=False)
    camera = {"focal_px": 1.0, "center_px": [1.0, 1.0], "is_estimated": True}
    summary.add(Outcome(source, 0, {"people": [], "messages": ["somebody is uncertain"], "camera": camera}))
    summary.add(Outcome(source, None, None, "the motion cannot be written"))
    with pytest.raises(ValueError, match="the motion cannot be written"):
        summary.check()


def test_frames_have_the_files_of_people_and_the_video_those_of_motions(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=2)
    settings = dataclasses.replace(VIDEO, formats=("npz", "obj", "glb", "bvh"), every=1)
    predict(models, tmp_path / "out", clip, settings=settings)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "clip-0.bvh", "clip-0.glb", "clip-000000-0.npz", "clip-000000-0.obj", "clip-000001-0.npz",
        "clip-000001-0.obj", "clip-overlay.gif", "manifest.jsonl",
    ]  # fmt: skip


def test_the_overlay_shows_everybody_at_the_times_of_the_frames(models, tmp_path):
    clip, other = save_gif(tmp_path / "clip.gif", 3, milliseconds=[500, 100, 200]), Box(0.0, 0.0, 30.0, 40.0)
    settings = dataclasses.replace(VIDEO, boxes=(BOX, other), every=1)
    *_, whole = predict(models, tmp_path / "out", clip, settings=settings)
    shown, given = (list(map(_pixels, open_video(path).frames())) for path in (whole.record["overlay"], clip))
    assert [(time, duration) for time, duration, _ in shown] == [
        (0, 0.5),
        (0.5, 0.1),
        (pytest.approx(0.6), 0.2),
    ]
    for (_, _, drawn), (_, _, before) in zip(shown, given, strict=True):
        assert drawn.shape == before.shape
        assert 0.02 < (np.abs(drawn.astype(int) - before).max(axis=-1) > 30).mean() < 0.9


def _pixels(frame: VideoFrame) -> tuple[float, float, np.ndarray]:
    return frame.time_s, frame.duration_s, frame.read()


def test_the_overlay_shows_the_smoothed_motion_and_the_reported_points(models, tmp_path):
    """The frames differ, so the poses do."""
    clip, overlays = save_gif(tmp_path / "clip.gif", frames=3), set()
    for name, changed in {"plain": {}, "smooth": {"smooth_s": 1.0}, "points": {"skeleton": True}}.items():
        settings = dataclasses.replace(VIDEO, every=1, **changed)
        predict(models, tmp_path / name, clip, settings=settings)
        overlays.add((tmp_path / name / "clip-overlay.gif").read_bytes())
    assert len(overlays) == 3


def test_a_lost_overlay_is_drawn_again(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=2)
    *_, whole = predict(models, tmp_path / "out", clip, settings=VIDEO)
    overlay = Path(whole.record["overlay"])
    data = overlay.read_bytes()
    overlay.unlink()
    predict(models, tmp_path / "out", clip, settings=VIDEO)
    assert overlay.read_bytes() == data


def test_a_video_without_people_has_no_overlay(models, tmp_path):
    clip = save_gif(tmp_path / "clip.gif", frames=2)
    *_, whole = predict(models, tmp_path / "out", clip, settings=PredictSettings(samples=2))
    assert "overlay" not in whole.record
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]


def test_an_overlay_is_named_in_the_answer(models, tmp_path, capsys):
    summary = Summary(single=True, collect=True)
    for outcome in predict(
        models, tmp_path / "out", save_gif(tmp_path / "clip.gif", frames=2), settings=VIDEO
    ):
        summary.add(outcome)
    overlay = str(tmp_path / "out/clip-overlay.gif")
    assert summary.answer["videos"] == [{"photo": str(tmp_path / "clip.gif"), "overlay": overlay}]
    assert f"everybody: {overlay}" in capsys.readouterr().err
