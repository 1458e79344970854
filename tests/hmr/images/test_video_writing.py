"""Videos that are written are read back with their pictures and times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmr.images.video_writing import TimedPicture, write_video
from hmr.images.videos import open_video

TIMES_S = (0.0, 0.04, 0.08, 1.0)


def pictures(size: tuple[int, int] = (72, 64)) -> list[TimedPicture]:
    return [
        TimedPicture(np.full((*size, 3), (60 * k, 100, 200 - 40 * k), np.uint8), time_s, 0.5)
        for k, time_s in enumerate(TIMES_S)
    ]


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_pictures_keep_their_times(tmp_path: Path, suffix: str):
    write_video(tmp_path / f"a.{suffix}", iter(pictures()))
    read = [(frame.time_s, frame.read()) for frame in open_video(tmp_path / f"a.{suffix}").frames()]
    assert [time_s for time_s, _ in read] == pytest.approx(TIMES_S, abs=1e-3)
    for (_, pixels), given in zip(read, pictures(), strict=True):
        assert np.abs(pixels.astype(int) - given.pixels).max() <= 4
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_rounded_durations_of_a_gif_add_up(tmp_path: Path):
    """30 frames a second are 33.3 ms each; GIFs count in 10 ms."""
    colours = [np.full((20, 20, 3), 8 * k, np.uint8) for k in range(30)]
    write_video(
        tmp_path / "a.gif", [TimedPicture(pixels, k / 30, 1 / 30) for k, pixels in enumerate(colours)]
    )
    *_, last = open_video(tmp_path / "a.gif").frames()
    assert last.time_s + last.duration_s == pytest.approx(1.0)


def test_an_mp4_file_has_even_sides(tmp_path: Path):
    write_video(tmp_path / "a.mp4", pictures((71, 65)))
    frame = next(open_video(tmp_path / "a.mp4").frames())
    assert frame.read().shape == (70, 64, 3)


@pytest.mark.parametrize(
    ("name", "given", "said"), [("a.gif", [], "at least one"), ("a.avi", None, r"\.gif or \.mp4")]
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, given: list | None, said: str
):
    with pytest.raises(ValueError, match=said):
        write_video(tmp_path / name, pictures() if given is None else given)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_drawing_leaves_no_file(tmp_path: Path):
    def failing():
        yield pictures()[0]
        raise RuntimeError("while drawing")

    for suffix in ("gif", "mp4"):
        with pytest.raises(RuntimeError, match="while drawing"):
            write_video(tmp_path / f"a.{suffix}", failing())
    assert not list(tmp_path.iterdir())
