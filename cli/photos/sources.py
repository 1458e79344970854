"""What `meshcritic predict` was given: photographs, videos, and folders of photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hmr.images.photographs import PHOTO_SUFFIXES
from hmr.images.videos import VIDEO_SUFFIXES

__all__ = ["Source", "list_sources"]


@dataclass(frozen=True)
class Source:
    path: Path
    name: str  # of its files under the output folder, without an ending

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def list_sources(paths: Sequence[Path], out: Path) -> list[Source]:
    """The photographs and videos named, and the photographs in the folders named, at any depth but not under `out`.

    Two pictures that differ in their ending alone keep it in their names. Raises ValueError for a folder without
    photographs, and for pictures of different folders whose files would have one name.
    """
    found = [place for path in paths for place in _places(path, out)]
    stems = Counter(place.with_suffix("") for _, place in found)
    sources = [
        Source(path, str(place.with_suffix("") if stems[place.with_suffix("")] == 1 else place))
        for path, place in found
    ]
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{times} pictures would be written as {name}; give each a run and an --out of its own"
        )
    return sources


def _places(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The files behind one argument, and where each belongs under the output folder."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    inside = [file for file in sorted(path.rglob("*")) if _is_photo(file) and not file.is_relative_to(out)]
    if not inside:
        raise ValueError(f"{path}: the folder holds no photograph ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return [(file, file.relative_to(path)) for file in inside]


def _is_photo(file: Path) -> bool:
    return file.suffix.lower() in PHOTO_SUFFIXES and file.is_file()
