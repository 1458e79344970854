"""Lists the photographs and videos that the arguments of `meshcritic predict` name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.console import print_message
from hmr.images.photographs import PHOTO_SUFFIXES, photos_in
from hmr.images.videos import VIDEO_SUFFIXES

__all__ = ["Source", "list_sources"]

UNREADABLE = (".heic", ".heif")  # photographs that Pillow cannot decode


@dataclass(frozen=True)
class Source:
    path: Path
    name: str  # path of its output files relative to the output folder, without suffix

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def title(self, frame: int | None = None) -> str:
        """How messages name the photograph or video, or one frame of a video."""
        return str(self.path) if frame is None else f"{self.path} frame {frame}"


def list_sources(paths: Sequence[Path], out: Path) -> list[Source]:
    """The given photographs and videos, and the photographs in the given folders at any depth, except under `out`.

    Two files whose names differ only in the suffix keep it in their output names. Raises ValueError for a folder
    without photographs, and if two files have the same output name.
    """
    found = [file for path in paths for file in _files(path, out)]
    stems = Counter(relative.with_suffix("") for _, relative in found)
    sources = [
        Source(path, str(relative.with_suffix("") if stems[relative.with_suffix("")] == 1 else relative))
        for path, relative in found
    ]
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{count} inputs have the output name {name}; run them separately with different --out folders"
        )
    return sources


def _files(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The files of one argument, each with its path relative to the output folder."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    inside = photos_in(path, out)
    if unread := sorted(file for file in path.rglob("*") if file.suffix.lower() in UNREADABLE):
        print_message(
            f"{path}: {len(unread)} HEIC files, such as {unread[0].name}, cannot be read and are left out; convert "
            "them to JPEG"
        )
    if not inside:
        raise ValueError(f"{path}: the folder has no photograph ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return [(file, file.relative_to(path)) for file in inside]
