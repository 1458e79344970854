"""Folders and videos: one picture at a time, resumed after a kill, and not stopped by an unreadable file."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.intrinsics import Intrinsics
from cli.prediction.predictor import Predictor
from cli.prediction.run import Models, Outcome, PredictSettings
from cli.prediction.sources import list_sources
from common.storage.jsonl import Manifest
from hmr.body.model import Body
from hmr.images import photographs as photo_module
from hmr.images.photographs import load_photo, sample_of
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.types import Box

BOX = Box(10.0, 8.0, 50.0, 60.0)
QUICK = PredictSettings(samples=2, boxes=(BOX,), accept_any_box=True, formats=("npz",))


@pytest.fixture
def models(tiny_policy: DiffusionPolicy, body: Body) -> Models:
    return Models(tiny_policy, body, load_renderer())


def save_photo(path: Path, seed: int = 0, size: tuple[int, int] = (64, 72)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_gif(path: Path, frames: int, milliseconds: int | list[int] = 40) -> Path:
    pictures = [Image.fromarray(np.full((72, 64, 3), 60 * index, np.uint8)) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds)
    return path


def predict(
    models: Models, out: Path, *paths: Path, settings: PredictSettings = QUICK, stop_after: int = 1000
) -> list[Outcome]:
    """One run, killed after `stop_after` outcomes."""
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with Manifest(out / "manifest.jsonl") as manifest:
        for outcome in Predictor(models, settings, out, manifest).run(
            list_sources(paths, out), lambda title, total: lambda done: None
        ):
            outcomes.append(outcome)
            if len(outcomes) == stop_after:
                break
    return outcomes


def files_of(outcomes: list[Outcome]) -> list[str]:
    return [file for outcome in outcomes for person in outcome.record["people"] for file in person["files"]]


def test_subfolders_are_kept(models, tmp_path):
    save_photo(tmp_path / "in/a.png")
    save_photo(tmp_path / "in/sub/b.png", seed=1)
    outcomes = predict(models, tmp_path / "out", tmp_path / "in")
    assert [Path(file).relative_to(tmp_path / "out").as_posix() for file in files_of(outcomes)] == [
        "a-0-overlay.png", "a-0-group.png", "a-0.npz", "sub/b-0-overlay.png", "sub/b-0-group.png", "sub/b-0.npz",
    ]  # fmt: skip
    assert all(Path(file).stat().st_size > 0 for file in files_of(outcomes))


@pytest.mark.slow
def test_a_killed_run_is_resumed_with_the_same_result(models, tmp_path):
    for number in range(3):
        save_photo(tmp_path / f"in/{number}.png", seed=number)
    predict(models, tmp_path / "out", tmp_path / "in", stop_after=2)
    again = predict(models, tmp_path / "out", tmp_path / "in")
    whole = predict(models, tmp_path / "whole", tmp_path / "in")
    assert [outcome.earlier for outcome in again] == [True, True, False]
    for ours, theirs in zip(files_of(again), files_of(whole), strict=True):
        if ours.endswith(".npz"):
            with np.load(ours) as first, np.load(theirs) as second:
                np.testing.assert_array_equal(first["body_pose"], second["body_pose"])
        else:
            assert Path(ours).read_bytes() == Path(theirs).read_bytes()


@pytest.mark.parametrize("change", ["seed", "solver", "photograph", "lost file"])
def test_a_finished_item_is_computed_again_if_its_inputs_change(models, tmp_path, change):
    photo, settings = save_photo(tmp_path / "a.png"), QUICK
    (first,) = predict(models, tmp_path / "out", photo)
    if change == "seed":
        settings = dataclasses.replace(QUICK, seed=1)
    elif change == "solver":  # in the policy's config.json
        models.policy.config.solver = "dpm++"
    elif change == "photograph":
        save_photo(photo, seed=5, size=(64, 80))
    else:
        Path(files_of([first])[0]).unlink()
    (again,) = predict(models, tmp_path / "out", photo, settings=settings)
    assert not again.earlier
    assert all(Path(file).exists() for file in files_of([again]))


def test_an_unreadable_file_is_reported_and_the_others_are_processed(models, tmp_path):
    save_photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.jpg").write_text("hello")
    save_photo(tmp_path / "in/c.png", seed=1)
    first, bad, last = predict(models, tmp_path / "out", tmp_path / "in")
    assert bad.record is None
    assert "b.jpg: not an image" in bad.reason
    assert len(files_of([first, last])) == 6


def test_a_file_whose_output_cannot_be_written_is_reported_and_the_others_are_processed(models, tmp_path):
    """The names of its output files are longer than the 255 bytes that file systems allow."""
    for name in ("a", "b" * 245, "c"):
        save_photo(tmp_path / f"in/{name}.png")
    first, bad, last = predict(models, tmp_path / "out", tmp_path / "in")
    assert bad.record is None
    assert bad.reason.endswith(": File name too long")
    assert len(files_of([first, last])) == 6


def test_an_output_name_may_be_as_long_as_the_file_system_allows(models, tmp_path):
    name = "b" * (255 - len("-0-overlay.png"))
    outcomes = predict(models, tmp_path / "out", save_photo(tmp_path / f"{name}.png"))
    assert sorted(Path(file).name for file in files_of(outcomes)) == sorted(
        path.name for path in (tmp_path / "out").glob("b*")
    )


@pytest.mark.parametrize(
    ("number", "ends"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EACCES, False)]
)
def test_a_full_disk_ends_the_run(models, tmp_path, monkeypatch, number, ends):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "a.png")

    monkeypatch.setattr("cli.prediction.predictor.save_person", fail)
    run = functools.partial(predict, models, tmp_path / "out", save_photo(tmp_path / "a.png"))
    if ends:
        with pytest.raises(OSError, match=os.strerror(number)):
            run()
    else:
        assert run()[0].reason == f"a.png: {os.strerror(number)}"


def test_a_photograph_without_people_is_recorded_with_the_reason(models, tmp_path):
    photo, settings = save_photo(tmp_path / "a.png"), PredictSettings(samples=2, formats=())
    for earlier in (False, True):
        (outcome,) = predict(models, tmp_path / "out", photo, settings=settings)
        assert outcome.earlier == earlier
        assert outcome.record["people"] == []
        assert "--box" in outcome.record["messages"][0]


def test_several_people_are_drawn_over_one_photograph(models, tmp_path):
    photo, other = save_photo(tmp_path / "a.png"), Box(0.0, 0.0, 30.0, 40.0)
    settings = dataclasses.replace(QUICK, boxes=(BOX, other))
    (outcome,) = predict(models, tmp_path / "out", photo, settings=settings)
    overlay = Path(outcome.record["overlay"])
    drawn, before = (np.asarray(Image.open(path)) for path in (overlay, photo))
    assert drawn.shape == before.shape
    assert (drawn != before).any()
    overlay.unlink()
    assert not predict(models, tmp_path / "out", photo, settings=settings)[0].earlier
    assert overlay.exists()
    assert predict(models, tmp_path / "out", photo, settings=settings)[0].earlier


def test_camera_and_box_of_a_reduced_photograph_are_in_the_pixels_of_the_file(models, tmp_path, monkeypatch):
    """The photograph is read at half its width and height."""
    photo = save_photo(tmp_path / "a.png", size=(128, 144))
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 64 * 72)
    (outcome,) = predict(models, tmp_path / "out", photo)
    (person,) = outcome.record["people"]
    assert person["bbox"] == [10, 8, 50, 60]
    with np.load(tmp_path / "out/a-0.npz") as file:
        assert file["image_size"].tolist() == [128, 144]
        assert file["focal_px"] == pytest.approx(np.hypot(128, 144))
        assert file["boxes_xyxy"].ravel().tolist() == [10, 8, 50, 60]
    with Image.open(tmp_path / "out/a-0-overlay.png") as overlay:
        assert overlay.size == (64, 72)


def test_a_known_camera_of_a_reduced_photograph_is_in_the_pixels_of_the_file(models, tmp_path, monkeypatch):
    photo = save_photo(tmp_path / "a.png", size=(128, 144))
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 64 * 72)
    known = dataclasses.replace(QUICK, intrinsics=Intrinsics(300.0, (60.0, 70.0)))
    (estimated,) = predict(models, tmp_path / "out", photo)
    (given,) = predict(models, tmp_path / "out", photo, settings=known)
    assert not given.earlier
    with np.load(tmp_path / "out/a-0.npz") as file:
        assert (file["focal_px"], *file["center_px"]) == (300, 60, 70)
        known_depth = file["transl"][..., 2]
    camera = {"focal_px": 300.0, "cx_px": 60.0, "cy_px": 70.0, "focal_is_estimated": False}
    assert given.record["camera"] == camera
    assert estimated.record["camera"] == {
        "focal_px": 192.7, "cx_px": 64.0, "cy_px": 72.0, "focal_is_estimated": True,
    }  # fmt: skip
    predict(models, tmp_path / "out", photo)
    with np.load(tmp_path / "out/a-0.npz") as file:  # a longer focal length moves the same person away
        ratio = known_depth / file["transl"][..., 2]
    np.testing.assert_allclose(ratio, 300 / np.hypot(128, 144), rtol=0.05)


def test_guided_bodies_are_closer_to_the_detected_keypoints(models, body, tmp_path):
    photo, guided = save_photo(tmp_path / "a.png"), dataclasses.replace(QUICK, guide=True)
    predict(models, tmp_path / "plain", photo)
    predict(models, tmp_path / "guided", photo, settings=guided)
    detection = models.policy.detector.detect(sample_of(load_photo(photo).image, BOX))

    def distance_px(folder: str) -> float:
        ((_, group),) = read_hypotheses(tmp_path / folder / "a-0.npz", (64, 72))
        joints_px = group.camera.project(body.joints(group.params))
        return float(
            ((joints_px - detection.keypoints_px).norm(dim=-1) * detection.keypoint_visibility).mean()
        )

    assert distance_px("guided") < 0.95 * distance_px("plain")


def test_a_photograph_is_predicted_again_when_the_detector_has_other_weights(models, tmp_path):
    photo = save_photo(tmp_path / "a.png")
    predict(models, tmp_path / "out", photo)
    assert [outcome.earlier for outcome in predict(models, tmp_path / "out", photo)] == [True]
    with torch.no_grad():
        next(models.policy.detector.encoder.parameters()).add_(0.1)
    assert [outcome.earlier for outcome in predict(models, tmp_path / "out", photo)] == [False]


def test_files_of_people_who_are_not_found_any_more_are_deleted(models, tmp_path):
    """Other files stay, also one beside the output folder that a changed manifest names."""
    photo, out = save_photo(tmp_path / "a.png"), tmp_path / "out"
    two = dataclasses.replace(QUICK, boxes=(BOX, Box(20.0, 8.0, 60.0, 60.0)))
    predict(models, out, photo, settings=two)
    assert {path.name for path in out.iterdir()} > {"a-1-overlay.png", "a-1.npz", "a-people.png"}
    (out / "notes.txt").touch()
    (tmp_path / "mine.npz").touch()
    manifest = out / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("a-1-group.png", "../mine.npz"))
    predict(models, out, photo)
    left = {path.name for path in out.iterdir()}
    assert left == {
        "a-0-overlay.png", "a-0-group.png", "a-0.npz", "a-1-group.png", "manifest.jsonl", "notes.txt",
    }  # fmt: skip
    assert (tmp_path / "mine.npz").exists()
