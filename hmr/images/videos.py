"""Reads videos frame by frame, with one decoded frame in memory at a time.

GIFs are read with Pillow; all other containers with PyAV (https://pyav.org, FFmpeg's libraries), the extra `video`.
Frames are rotated upright: phones store a rotation by 90 degrees as metadata, which PyAV does not apply.

Each frame has its own time, because frames may be unevenly spaced; a container's average rate is used only for
frames without a time.

Left out: seeking. The index of a frame is its position in decoding order, which is exact, unlike seeking by time;
frames that are not needed are decoded and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from common.reading.image_files import check_pixels, open_image, unreadable_images_named
from common.storage.files import PathLike
from hmr.images.photographs import to_rgb

__all__ = ["VIDEO_SUFFIXES", "Video", "VideoFrame", "load_pyav", "open_video"]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif"})
DEFAULT_FPS = 10.0  # of GIF frames without a duration, as in browsers
MAX_GIF_PIXELS = 9_000_000  # a frame of 4K video


@dataclass(frozen=True)
class VideoFrame:
    index: int  # from 0, in decoding order
    time_s: float  # when it is shown, since the first frame; increases from frame to frame
    duration_s: float  # how long it is shown if no other frame follows; above 0
    read: Callable[[], UInt8[np.ndarray, "height width 3"]]  # valid until the next frame is decoded


@dataclass(frozen=True)
class Video:
    """An open video; `frames()` decodes it from the start."""

    path: Path
    num_frames: int  # stated by the container or estimated; 0 if unknown
    frames: Callable[[], Iterator[VideoFrame]]


def open_video(path: PathLike) -> Video:
    """Raises FileNotFoundError if there is no file, and ValueError if it is not a video or PyAV is not installed.

    `frames()` raises ValueError at a frame that cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such video")
    return _open_gif(path) if path.suffix.lower() == ".gif" else _open_container(path)


def _open_gif(path: Path) -> Video:
    with open_image(path) as image:
        size, count = image.size, int(getattr(image, "n_frames", 1))
    _check_gif(size, f"{path}: ")
    return Video(path, count, partial(_gif_frames, path, count))


def _gif_frames(path: Path, count: int) -> Iterator[VideoFrame]:
    time_s = 0.0
    with Image.open(path) as image:
        for index in range(count):
            with unreadable_images_named(f"{path}: frame {index}"):
                image.seek(index)
            _check_gif(image.size, f"{path}: frame {index}: ")  # it may be larger than the one before
            with unreadable_images_named(f"{path}: frame {index}"):
                image.load()
            duration_s = float(image.info.get("duration", 0)) / 1000 or 1 / DEFAULT_FPS
            yield VideoFrame(index, time_s, duration_s, partial(to_rgb, image))
            time_s += duration_s


def _check_gif(size: tuple[int, int], where: str) -> None:
    """Raises ValueError for frames that Pillow would need gigabytes for: it holds several at a time."""
    width, height = size
    if width * height > MAX_GIF_PIXELS:
        raise ValueError(
            f"{where}{width} x {height} pixels; a GIF that is read has at most {MAX_GIF_PIXELS:,}"
        )


def _open_container(path: Path) -> Video:
    av = load_pyav(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no video stream among {len(container.streams)} streams")
            stream = container.streams.video[0]
            estimated = round((container.duration or 0) / av.time_base / _mean_interval_s(stream))
            return Video(path, stream.frames or estimated, partial(_container_frames, path))
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error.strerror})") from error


def _container_frames(path: Path) -> Iterator[VideoFrame]:
    av, index = load_pyav(path), -1
    try:
        with av.open(str(path)) as container:
            clock = _Clock(_mean_interval_s(container.streams.video[0]))
            for index, frame in enumerate(container.decode(video=0)):
                check_pixels((frame.width, frame.height), f"{path}: frame {index}: ")
                yield VideoFrame(index, *clock.read(frame), partial(_upright, frame))
    except av.FFmpegError as error:
        raise ValueError(f"{path}: frame {index + 1} cannot be decoded ({error.strerror})") from error


def _mean_interval_s(stream: Any) -> float:
    return 1 / float(stream.average_rate or DEFAULT_FPS)


class _Clock:
    """The times of successive frames of a container, since the first one.

    A frame without a time, or with one that is not later than that of the frame before, follows that frame at the
    stream's mean interval.
    """

    def __init__(self, mean_interval_s: float) -> None:
        self.mean_interval_s = mean_interval_s
        self.start_s: float | None = None
        self.time_s = -mean_interval_s

    def read(self, frame: Any) -> tuple[float, float]:
        """The time and the duration of the next frame, in seconds."""
        if self.start_s is None:
            self.start_s, self.time_s = frame.time or 0.0, 0.0
        elif frame.time is not None and frame.time - self.start_s > self.time_s:
            self.time_s = frame.time - self.start_s
        else:
            self.time_s += self.mean_interval_s
        stated_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        return self.time_s, stated_s if stated_s > 0 else self.mean_interval_s


def load_pyav(path: Path) -> Any:
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"{path}: reading {path.suffix} needs PyAV, the extra `video`: pip install -e '.[video]'"
        ) from error
    return av


def _upright(frame: Any) -> UInt8[np.ndarray, "height width 3"]:
    """`rotation` is counter-clockwise, in degrees; cameras write multiples of 90."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
