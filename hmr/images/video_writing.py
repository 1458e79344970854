"""Writes pictures as a video in which each keeps its time: an animated GIF, or H.264 in an MP4 container by PyAV.

A build of FFmpeg without libx264 writes MPEG-4 Part 2, which browsers do not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from common.storage.files import PathLike, atomic_path
from hmr.images.videos import load_pyav

__all__ = ["TimedPicture", "write_video"]

MILLISECOND = Fraction(1, 1000)
ENCODERS = ("libx264", "mpeg4")  # the first one that FFmpeg has
QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
GIF_STEP_MS = 10  # the format counts hundredths of a second


@dataclass(frozen=True)
class TimedPicture:
    pixels: UInt8[np.ndarray, "height width 3"]
    time_s: float  # when it is shown; later than the picture before
    duration_s: float  # how long the last picture is shown; of the others the next one's time counts


def write_video(path: PathLike, pictures: Iterable[TimedPicture]) -> None:
    """Write pictures of one size; the suffix is .gif or .mp4. A picture of odd width or height loses a column or row
    in an MP4 file.

    Raises ValueError without a picture, for another suffix, and without PyAV for an MP4 file.
    """
    path, remaining = Path(path), iter(pictures)
    if (first := next(remaining, None)) is None:
        raise ValueError(f"{path}: a video needs at least one picture")
    if path.suffix not in _WRITERS:
        raise ValueError(f"{path}: videos are written as {' or '.join(_WRITERS)}, not as {path.suffix}")
    with atomic_path(path) as partial:
        _WRITERS[path.suffix](partial, first.pixels.shape[:2], _with_ends(chain([first], remaining)))


def _write_gif(path: Path, size: tuple[int, int], pictures: Iterable[tuple[TimedPicture, float]]) -> None:
    frames = _gif_frames(pictures)
    next(frames).save(path, "GIF", save_all=True, append_images=frames, loop=0, optimize=False)


def _gif_frames(pictures: Iterable[tuple[TimedPicture, float]]) -> Iterator[Image.Image]:
    """Frames that carry their durations. Times are rounded, not durations, so that errors do not add up."""
    for picture, end_s in pictures:
        frame = Image.fromarray(picture.pixels).quantize(256, dither=Image.Dither.NONE)
        steps = round(1000 * end_s / GIF_STEP_MS) - round(1000 * picture.time_s / GIF_STEP_MS)
        frame.info["duration"] = GIF_STEP_MS * max(1, steps)
        yield frame


def _with_ends(pictures: Iterable[TimedPicture]) -> Iterator[tuple[TimedPicture, float]]:
    """Each picture with the time at which it disappears."""
    before: TimedPicture | None = None
    for picture in pictures:
        if before is not None:
            yield before, picture.time_s
        before = picture
    if before is not None:
        yield before, before.time_s + before.duration_s


def _write_mp4(path: Path, size: tuple[int, int], pictures: Iterable[tuple[TimedPicture, float]]) -> None:
    av = load_pyav(path)
    height, width = (length - length % 2 for length in size)  # colours are stored at half the resolution
    encoder = next(name for name in ENCODERS if name in av.codec.codecs_available)
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream(encoder, options=QUALITY[encoder])
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = MILLISECOND
            for picture, end_s in pictures:
                pixels = np.ascontiguousarray(picture.pixels[:height, :width])
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(1000 * picture.time_s), MILLISECOND
                frame.duration = round(1000 * end_s) - frame.pts
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise ValueError(f"the video cannot be written ({error.strerror})") from error


_WRITERS = {".gif": _write_gif, ".mp4": _write_mp4}
