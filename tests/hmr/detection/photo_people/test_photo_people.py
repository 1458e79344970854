"""People of a folder of photographs: found once, kept on disk, read as samples with their detections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from hmr.detection.photo_people import folder as folder_module
from hmr.detection.photo_people.cache import read_people, save_people
from hmr.detection.photo_people.folder import PhotoPeople, find_in_folder
from hmr.detection.photo_people.known import KnownPeople
from hmr.detection.protocol import detector_digest
from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.types import BatchDetector, Box, Detection, Truth
from tests.hmr.detection.photo_people.finder import CountingFinder, detection

BOX = Box(3.0, 4.0, 13.5, 28.0)


def photograph(path: Path, red: int, turned: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 30), (red, 0, 0)).save(path, exif=exif)


def search(photos: Path, detector: CountingFinder, lines: list[str]) -> PhotoPeople:
    return find_in_folder(
        photos, detector, photos / "out" / "people", lambda *_: lambda *_: None, lines.append, photos / "out"
    )


def same(a: Detection, b: Detection) -> bool:
    arrays = ("points_px", "sigma_px", "visibility", "depth_m", "depth_sigma_m")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in arrays)


def test_people_are_stored_whole(tmp_path: Path) -> None:
    path = tmp_path / "found.safetensors"
    joints = torch.arange(72.0).reshape(24, 3)
    first = dataclasses.replace(detection(BOX), joints_root_m=joints)
    plain = dataclasses.replace(detection(BOX), mask=None, mask_box=None)
    save_people(path, [(BOX, first), (BOX, plain)])
    (box, read), (_, without) = read_people(path)
    assert (box, read.mask_box, read.confidence) == (BOX, BOX, 0.75)
    assert same(read, first)
    assert read.joints_root_m is not None
    assert torch.equal(read.joints_root_m, joints)
    assert read.mask is not None
    assert first.mask is not None
    assert np.abs(read.mask - first.mask).max() < 1e-3
    assert (without.mask, without.mask_box, without.joints_root_m) == (None, None, None)
    save_people(path, [])
    assert read_people(path) == []


def test_a_damaged_file_of_people_is_named(tmp_path: Path) -> None:
    (tmp_path / "found.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"found\.safetensors holds no detections of people"):
        read_people(tmp_path / "found.safetensors")


def test_every_person_is_a_sample_named_by_the_photograph_and_broken_files_are_left_out(
    tmp_path: Path,
) -> None:
    photograph(tmp_path / "b.png", 200)
    photograph(tmp_path / "sub" / "a.jpg", 104)
    photograph(tmp_path / "none.png", 0)
    photograph(tmp_path / "out" / "drawn.png", 200)
    (tmp_path / "a.jpg").write_text("no image")
    lines: list[str] = []
    people = search(tmp_path, CountingFinder(), lines)
    assert [sample.id for sample in people] == ["b.png-0", "b.png-1", "sub/a.jpg-0"]
    first, second = people[0], people[1]
    assert (first.box, second.box) == (Box(4.0, 3.0, 12.0, 27.0), Box(13.0, 3.0, 21.0, 27.0))
    assert second.detection is not None
    assert same(second.detection, detection(second.box))
    assert (first.camera.width, first.camera.height, first.camera.focal_px) == (40, 30, 50.0)
    assert not any(isinstance(value, Truth) for sample in people for value in vars(sample).values())
    assert len(lines) == 2
    assert lines[0].startswith(f"left out: {tmp_path / 'a.jpg'}: not an image that can be read")
    assert lines[1].endswith("found nobody in 1 of 4 photographs")


def test_photographs_are_upright(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 104, turned=True)
    (sample,) = search(tmp_path, CountingFinder(), [])
    assert sample.image.shape == (40, 30, 3)


def test_a_killed_search_continues_and_another_detector_searches_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        photograph(tmp_path / name, 100 + ord(name[0]) - ord("a"))
    detector, searched = CountingFinder(), []
    load = folder_module.load_photo

    def load_two(path: Path):
        searched.append(path.name)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return load(path)

    monkeypatch.setattr(folder_module, "load_photo", load_two)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, detector, [])
    monkeypatch.setattr(folder_module, "load_photo", load)
    people = search(tmp_path, detector, [])
    assert (detector.found, len(people)) == (3, 3)
    assert [path.name for path in (tmp_path / "out" / "people").iterdir() if "partial" in path.name] == []
    assert search(tmp_path, detector, []).digest() == people.digest()
    assert detector.found == 3
    other = CountingFinder("other")
    assert search(tmp_path, other, []).digest() != people.digest()
    assert other.found == 3


def test_a_slice_has_people_without_reading_photographs(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 250)
    photograph(tmp_path / "b.png", 250)
    people = search(tmp_path, CountingFinder(), [])
    every_second = people[::2]
    assert isinstance(every_second, PhotoPeople)
    assert list(every_second.boxes) == ["a.png-0", "b.png-0"]


WRONG = {
    "no folder": ("nowhere", FileNotFoundError, "there is no such folder of photographs"),
    "no photograph": ("empty", ValueError, "the folder has no photograph"),
    "nobody": ("nobody", ValueError, "the detector counting found nobody in 1 photograph"),
}


@pytest.mark.parametrize(("name", "kind", "message"), WRONG.values(), ids=WRONG)
def test_a_folder_without_people_is_named(
    tmp_path: Path, name: str, kind: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "nobody" / "a.png", 0)
    with pytest.raises(kind, match=message) as raised:
        search(tmp_path / name, CountingFinder(), [])
    assert str(tmp_path / name) in str(raised.value)


def test_found_people_are_not_read_again_but_their_other_crops_are(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 250)
    finder = CountingFinder()
    people = search(tmp_path, finder, [])
    finder.detected.clear()
    known = KnownPeople(finder, people.boxes)
    assert isinstance(known, BatchDetector)
    assert (known.name, detector_digest(known)) == ("counting", finder.digest())
    assert same(known.detect(people[1]), detection(people[1].box))
    assert finder.detected == []
    moved = dataclasses.replace(people[0], box=BOX)
    read, stored = known.detect_batch([moved, people[0]])
    assert [sample.box for sample in finder.detected] == [BOX]
    assert (same(read, detection(BOX)), same(stored, detection(people[0].box))) == (True, True)


def test_a_mirror_image_is_read_even_if_the_box_is_its_own_mirror_image(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 104)
    finder = CountingFinder()
    people = search(tmp_path, finder, [])
    whole = dataclasses.replace(people[0], box=Box(0.0, 0.0, 40.0, 30.0))
    finder.detected.clear()
    detect_with_augmentation(KnownPeople(finder, {whole.id: whole.box}), whole, views=1)
    (mirrored,) = finder.detected
    assert mirrored.detection is None
