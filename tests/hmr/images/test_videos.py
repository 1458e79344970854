"""Videos in real containers: GIF with Pillow, MP4 and AVI with PyAV if it is installed."""

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.reading import image_files
from hmr.images.videos import _Clock, open_video

GREYS = (40, 120, 200)


def save_gif(path: Path, milliseconds: int | list[int] = 40) -> Path:
    frames = [Image.new("RGB", (32, 24), (grey, grey, grey)) for grey in GREYS]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds)
    return path


def save_video(path: Path, codec: str, times_ms: tuple[int, ...] = (0, 40, 80)) -> Path:
    """A stream of 25 frames per second, whose frames have the given times."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000 if times_ms[-1] > 80 else 25)
        for grey, time_ms in zip(GREYS, times_ms, strict=True):
            picture = np.full((48, 64, 3), grey, np.uint8)
            picture[:, :32] //= 2  # the left half is darker, to detect a rotation
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_of_a_gif_are_read_in_order(tmp_path):
    video = open_video(save_gif(tmp_path / "a.gif"))
    assert video.num_frames == 3
    frames = [(frame.index, frame.read()) for frame in video.frames()]
    assert [index for index, _ in frames] == [0, 1, 2]
    assert [int(image.mean()) for _, image in frames] == list(GREYS)
    assert all(image.shape == (24, 32, 3) for _, image in frames)


@pytest.mark.parametrize(
    ("milliseconds", "times_s", "durations_s"),
    [
        (40, (0, 0.04, 0.08), (0.04, 0.04, 0.04)),
        ([1000, 40, 260], (0, 1, 1.04), (1, 0.04, 0.26)),
        (0, (0, 0.1, 0.2), (0.1, 0.1, 0.1)),  # as in browsers
    ],
)
def test_each_frame_of_a_gif_has_its_own_duration(tmp_path, milliseconds, times_s, durations_s):
    frames = list(open_video(save_gif(tmp_path / "a.gif", milliseconds)).frames())
    assert [frame.time_s for frame in frames] == pytest.approx(times_s)
    assert [frame.duration_s for frame in frames] == pytest.approx(durations_s)


@pytest.mark.parametrize(
    ("name", "codec", "times_ms"),
    [
        ("a.mkv", "mpeg4", (0, 40, 80)),
        ("a.mkv", "mpeg4", (0, 1000, 1040)),
        ("a.mkv", "mpeg4", (500, 540, 1600)),
        ("a.mp4", "mpeg4", (0, 1000, 1040)),
        ("a.avi", "mjpeg", (0, 40, 80)),
    ],
)
def test_frames_of_a_container_have_their_presentation_times(tmp_path, name, codec, times_ms):
    """Since the first frame. The last frame has the duration of one frame at 25 per second."""
    frames = list(open_video(save_video(tmp_path / name, codec, times_ms)).frames())
    assert [frame.time_s * 1000 for frame in frames] == pytest.approx([t - times_ms[0] for t in times_ms])
    assert frames[-1].duration_s == pytest.approx(0.04)


def test_frames_without_a_later_time_follow_at_the_mean_interval():
    def frame(time_s: float | None, duration: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(time=time_s, duration=duration, time_base=Fraction(1, 1000))

    clock = _Clock(mean_interval_s=0.5)
    read = [clock.read(frame(time_s)) for time_s in (1.0, None, 1.2, 9.0, 8.0)]
    assert read == [(0, 0.5), (0.5, 0.5), (1, 0.5), (8, 0.5), (8.5, 0.5)]
    assert clock.read(frame(20.0, duration=250)) == (19, 0.25)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.avi", "mjpeg")])
def test_frames_of_a_container_are_read_in_order(tmp_path, name, codec):
    video = open_video(save_video(tmp_path / name, codec))
    assert video.num_frames == 3
    means = [frame.read().mean() for frame in video.frames()]
    np.testing.assert_allclose(means, [grey * 0.75 for grey in GREYS], atol=3)


def test_a_file_that_is_not_a_gif_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.gif"):
        open_video(tmp_path / "gone.gif")
    (tmp_path / "text.gif").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.gif: not an image"):
        open_video(tmp_path / "text.gif")


def test_a_gif_that_would_take_gigabytes_is_refused_before_it_is_decoded(tmp_path):
    content = bytearray(save_gif(tmp_path / "a.gif").read_bytes())
    content[6:10] = (65_000).to_bytes(2, "little") + (2_000).to_bytes(2, "little")  # the logical screen
    (tmp_path / "a.gif").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gif: 65000 x 2000 pixels; at most 64,000,000 are read"):
        open_video(tmp_path / "a.gif")


def test_a_gif_of_more_pixels_than_4k_is_refused(tmp_path):
    """Pillow holds several frames: 60 megapixels took 1.7 GB."""
    path = tmp_path / "wide.gif"
    Image.new("P", (4000, 3000)).save(path)
    with pytest.raises(
        ValueError, match=r"wide\.gif: 4000 x 3000 pixels; a GIF that is read has at most 9,000,000$"
    ):
        open_video(path)


def test_a_later_frame_of_a_gif_that_is_larger_is_refused(tmp_path):
    """Its second frame begins at 60,000 x 60,000; Pillow enlarges the image for it."""
    path = tmp_path / "grows.gif"
    frames = [Image.fromarray(np.full((16, 12, 3), 60 * number, np.uint8)) for number in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    content = bytearray(path.read_bytes())
    second = content.index(
        b"\x2c", content.index(b"\x2c") + 20
    )  # its image descriptor: left, top, width, height
    content[second + 1 : second + 3] = (8000).to_bytes(2, "little")
    content[second + 3 : second + 5] = (8000).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"grows\.gif: frame 1: .* pixels; a GIF that is read has at most 9,000,000$"
    ):
        list(open_video(path).frames())


def test_a_frame_that_would_take_gigabytes_is_refused(tmp_path, monkeypatch):
    path = save_video(tmp_path / "a.mp4", "mpeg4")
    monkeypatch.setattr(image_files, "MAX_WHOLE_PIXELS", 64 * 47)
    with pytest.raises(ValueError, match=r"a\.mp4: frame 0: 64 x 48 pixels; at most"):
        list(open_video(path).frames())


def test_a_file_that_is_not_a_container_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.mp4: not a video that can be read \(Invalid data"):
        open_video(tmp_path / "text.mp4")


def test_an_incomplete_gif_is_named(tmp_path):
    generator = np.random.default_rng(0)
    frames = [Image.fromarray(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.gif"):
        [frame.read() for frame in open_video(tmp_path / "cut.gif").frames()]


def test_a_container_without_pyav_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"needs PyAV, the extra `video`"):
        open_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("degrees", "dark"), [(90, (-1, 0)), (-90, (0, 0)), (180, (0, -1))])
def test_a_rotated_video_is_read_upright(tmp_path, degrees, dark):
    """The left half is dark. After rotation it is at the bottom, at the top, or at the right."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees)
        picture = np.full((48, 64, 3), 220, np.uint8)
        picture[:, :32] = 20
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (frame,) = open_video(tmp_path / "a.mp4").frames()
    image = frame.read()
    assert image.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))
    assert image[dark].max() < 60
    assert (
        image[-1 - dark[0] if dark[0] else -1, -1 - dark[1] if dark[1] else -1].min() > 180 or degrees == 180
    )
