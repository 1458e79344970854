"""What the output folder of `meshcritic predict` or `critique` says about its npz files: photographs and scores.

OUT/NAME-0.json       the critique of the hypotheses in NAME-0.npz, and the path of the photograph
OUT/manifest.jsonl    of predict: a record per photograph, with its path and the files
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.reading.validate import read_json
from common.storage.files import write_text
from hmr.images.photographs import PHOTO_SUFFIXES

__all__ = ["MANIFEST", "Scores", "critiqued_people", "find_photo", "read_scores", "write_critique"]

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Scores:
    """Of a group, by hypothesis; empty for a group that has not been critiqued."""

    scores: tuple[float | None, ...] = ()
    comments: tuple[str, ...] = ()


def write_critique(npz: Path, photo: Path, answer: Mapping[str, Any]) -> None:
    """Write the critique of the hypotheses in a file, beside it."""
    write_text(npz.with_suffix(".json"), json.dumps({"photo": str(photo.resolve()), **answer}) + "\n")


def critiqued_people(stem: Path, photo: Path) -> dict[int, Path]:
    """The critiques of people of the photograph beside `stem`, OUT/NAME, by the number of the person. Those of another
    photograph of that name, and files of predict, which have no critique, are not among them."""
    number = re.compile(re.escape(stem.name) + r"-(0|[1-9][0-9]*)")
    found = {
        int(matched[1]): path
        for path in stem.parent.glob(f"{glob.escape(stem.name)}-*.json")
        if (matched := number.fullmatch(path.stem))
    }
    return {
        person: path
        for person, path in sorted(found.items())
        if (record := _record(path.read_bytes())) and record.get("photo") == str(photo.resolve())
    }


def read_scores(npz: Path, size: int) -> Scores:
    """The scores beside a file with one group of `size` hypotheses.

    Raises ValueError for a file with the scores of another group.
    """
    path = npz.with_suffix(".json")
    if not path.is_file():
        return Scores()
    content = read_json(path, ("scores", "comments"))
    scores, comments = content["scores"], content["comments"]
    if not (_are(scores, (int, float, type(None)), size) and _are(comments, (str,), size)):
        raise ValueError(f"{path} does not hold {size} scores and comments, one per hypothesis of {npz.name}")
    return Scores(tuple(None if score is None else float(score) for score in scores), tuple(comments))


def find_photo(npz: Path, photos: Path | None = None) -> Path:
    """The photograph of a file of hypotheses: in `photos`, a folder, or the photograph itself; without it the one that
    the run's files name, or one beside the file. In a folder it is NAME for NAME.npz or NAME-0.npz.

    Raises FileNotFoundError if there is none.
    """
    if photos is not None and not photos.is_dir():
        return photos
    recorded = _recorded_photo(npz)
    if photos is None and recorded is not None and recorded.is_file():
        return recorded
    folder = photos or npz.parent
    if photos is not None and recorded is not None and (moved := photos / recorded.name).is_file():
        return moved
    stems = (npz.stem, npz.stem.rpartition("-")[0])
    for stem in stems:
        for found in sorted(folder.glob("*")):
            if found.stem == stem and found.suffix.lower() in PHOTO_SUFFIXES:
                return found
    if photos is None and recorded is not None:
        raise FileNotFoundError(
            f"{npz}: its photograph {recorded} is gone; --photos names the folder it is in now"
        )
    raise FileNotFoundError(
        f"{npz}: there is no photograph {' or '.join(filter(None, stems))} in {folder}; --photos names its folder"
    )


def _recorded_photo(npz: Path) -> Path | None:
    """The path that a critique beside the file, or predict's manifest, names."""
    beside = npz.with_suffix(".json")
    lines = [beside.read_bytes()] if beside.is_file() else []
    records = [record for line in lines if (record := _record(line))] or _records_of_manifest(npz)
    paths = [record.get("photo") for record in records]
    return next((Path(path) for path in reversed(paths) if isinstance(path, str)), None)


def _records_of_manifest(npz: Path) -> list[dict[str, Any]]:
    """Those of the photograph that the file belongs to; of several the last one counts."""
    for folder in npz.parents:
        if (manifest := folder / MANIFEST).is_file():
            name = npz.relative_to(folder).with_suffix("").as_posix().rpartition("-")[0]
            records = [_record(line) for line in manifest.read_bytes().splitlines()]
            return [record for record in records if record and record.get("name") == name]
    return []


def _record(line: bytes) -> dict[str, Any] | None:
    """None for a line that is not an object, such as an incomplete last one."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _are(values: Any, kinds: tuple[type, ...], size: int) -> bool:
    return isinstance(values, list) and len(values) == size and all(type(value) in kinds for value in values)
