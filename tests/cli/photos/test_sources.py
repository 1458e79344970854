"""What was named, and under which names it is written."""

from pathlib import Path

import pytest

from cli.photos.sources import list_sources


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(paths: list[Path], out: Path = Path("out")) -> list[str]:
    return [source.name for source in list_sources(paths, out)]


def test_a_folder_is_all_photographs_within_it_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "sub/c.webp", "notes.txt", "clip.mp4", "sub/deep/a.tiff")
    assert names([tmp_path]) == ["a", "b", "sub/c", "sub/deep/a"]


def test_what_an_earlier_run_wrote_into_the_folder_is_no_photograph(tmp_path):
    touch(tmp_path, "a.png", "out/a-0-overlay.png")
    assert names([tmp_path], tmp_path / "out") == ["a"]


def test_pictures_that_differ_in_their_ending_alone_keep_it(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.jpg")
    assert names([tmp_path]) == ["a.jpg", "a.png", "b"]


def test_files_are_taken_as_named_and_videos_are_known_by_their_ending():
    photo, clip = list_sources([Path("x/photo.odd"), Path("clip.GIF")], Path("out"))
    assert (photo.name, photo.is_video) == ("photo", False)
    assert (clip.name, clip.is_video) == ("clip", True)


def test_two_pictures_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"2 pictures would be written as a\.jpg"):
        names([Path("x/a.jpg"), Path("y/a.jpg")])


def test_a_folder_without_photographs_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"no photograph \(\.bmp"):
        names([tmp_path])
