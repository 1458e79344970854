"""Writes and reads a prepared data set, with samples and annotations in separate files.

    FOLDER/set.json               source, split, protocol, count, dropped records, content hash
    FOLDER/samples.parquet        id, JPEG, box, estimated camera: no ground truth
    FOLDER/annotations.parquet    the annotations of the data set (hmr/datasets/annotation.py)

This is the counterpart of hmr/synthetic/store.py for real data. `store.read_samples` reads the samples of both, and
opens no ground truth. The files of ground truth differ, because `Truth` requires a mask and all SMPL parameters, which
real records lack. Records that cannot be used are dropped, and counted by reason in set.json (hmr/datasets/flaws.py).
Rows are written in batches, so the memory in use does not depend on the size of the set; an incomplete folder is never
left behind.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.reading.image_files import open_image
from common.reading.untrusted_files import damage_named
from common.reading.validate import FlawedRecord, existing_image, read_json, require
from common.storage.files import PathLike, atomic_folder
from common.storage.fingerprint import digest
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Joints,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
)
from hmr.datasets.flaws import Flaws, ignored_keypoints, usable
from hmr.datasets.joints import CONVENTIONS
from hmr.types import Box, Camera

__all__ = ["photograph_digests", "prepare", "read_annotations"]

BATCH_ROWS = 64
JPEG_QUALITY = 95  # for images of other formats; JPEG files are copied

_NUMBERS, _FLAGS = pa.list_(pa.float64()), pa.list_(pa.bool_())
SAMPLES = pa.schema({"id": pa.string(), "jpeg": pa.binary(), "box": _NUMBERS, "camera": _NUMBERS})
ANNOTATIONS = pa.schema(
    {
        "id": pa.string(),
        "image": pa.string(),
        "person": pa.string(),
        "box": _NUMBERS,
        "camera": _NUMBERS,
        "smpl": pa.struct(
            {
                "model": pa.string(),
                "gender": pa.string(),
                "global_orient": _NUMBERS,
                "body_pose": _NUMBERS,
                "betas": _NUMBERS,
                "turn": _NUMBERS,
                "offset_m": _NUMBERS,
            }
        ),
        "joints": pa.list_(
            pa.struct(
                {"convention": pa.string(), "frame": pa.string(), "positions_m": _NUMBERS, "known": _FLAGS}
            )
        ),
        "keypoints": pa.list_(
            pa.struct(
                {
                    "convention": pa.string(),
                    "positions_px": _NUMBERS,
                    "confidence": _NUMBERS,
                    "visible": _FLAGS,
                }
            )
        ),
    }
)


def prepare(
    source: Source,
    folder: PathLike,
    split: str,
    out: PathLike,
    every: int = 1,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Reads a split of a data set and writes it to `out`, unless `out` already holds this split of the same folder.

    every: takes every n-th record, counting those that are then dropped. limit: the maximum number of annotations.
    progress: receives the number written so far. Raises the errors of the source, and ValueError for an image that is
    unreadable or of another size than its camera, if `out` holds another set, and if the split has no annotation that
    can be used. People in images that are missing are dropped, and the images counted.
    """
    folder, out = Path(folder), Path(out)
    place = digest(str(folder.resolve()))  # a hash, because a set may be shared
    wanted = {"source": source.name, "folder": place, "split": split, "every": every, "limit": limit}
    if (out / "set.json").exists():
        found = read_json(out / "set.json", ())
        if {key: found.get(key) for key in wanted} == wanted:
            return out
        raise ValueError(f"{out} already holds another set; remove it or choose another folder")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is a folder with other files in it; choose another")
    with atomic_folder(out) as partial:
        chosen, flaws = islice(source.read(folder, split), 0, None, every), Flaws()
        people = islice(_people(chosen, source.name, folder, flaws), limit)
        count, content = _write(people, partial, progress)
        if count == 0:
            reasons = "".join(f"; {line}" for line in flaws.lines())
            raise ValueError(f"split {split!r} of {source.name} in {folder} holds no person{reasons}")
        summary = {**wanted, "follows": source.follows, "count": count, "digest": content, **flaws.to_json()}
        (partial / "set.json").write_text(json.dumps(summary, indent=1))
    return out


def read_annotations(folder: PathLike) -> dict[str, Annotation]:
    """Annotations by sample id, for pretraining, exploration and evaluation only.

    Raises FileNotFoundError if there is no prepared data set, and ValueError if the file has another layout.
    """
    path = Path(folder) / "annotations.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"there is no prepared data set (annotations.parquet) in {folder}")
    with damage_named(path, "prepare the set again"):
        table = pq.read_table(path)
    require(table.column_names, ANNOTATIONS.names, str(path))
    with damage_named(path, "prepare the set again"):
        table = table.select(ANNOTATIONS.names).cast(ANNOTATIONS)
        if table["id"].null_count:
            raise ValueError("a row lacks its id")
        return {row["id"]: _annotation(row) for row in table.to_pylist()}


def photograph_digests(folder: PathLike) -> dict[str, str]:
    """Content hash of the photograph of each sample, by sample id; equal for one file in the sets of several sources.

    Raises FileNotFoundError, and ValueError for a damaged file.
    """
    path = Path(folder) / "samples.parquet"
    with damage_named(path, "prepare the set again"), pq.ParquetFile(path) as file:
        rows = (
            row
            for batch in file.iter_batches(BATCH_ROWS, columns=["id", "jpeg"])
            for row in batch.to_pylist()
        )
        return {row["id"]: digest(row["jpeg"]) for row in rows}


@dataclass(frozen=True)
class _Person:
    """The rows of one person in both files."""

    sample: dict[str, Any]
    annotation: dict[str, Any]


def _people(
    records: Iterable[Annotation | Dropped], source: str, folder: Path, flaws: Flaws
) -> Iterator[_Person]:
    """The rows of the records that can be used; counts the others."""
    for record in records:
        person = annotated_or_dropped(_person, record, source, folder, flaws)
        if isinstance(person, Dropped):
            flaws.drop(person)
        else:
            yield person


def _person(record: Annotation | Dropped, source: str, folder: Path, flaws: Flaws) -> _Person | Dropped:
    if isinstance(record, Dropped):
        return record
    jpeg, size = _jpeg(existing_image(folder, record.image))
    if record.image_size not in (None, size):
        raise FlawedRecord(
            f"{record.image} has {size} pixels, not {record.image_size}", "image of another size"
        )
    annotation = usable(record, size)
    flaws.ignored_keypoints += ignored_keypoints(record.keypoints, annotation.keypoints)
    name = _opaque_id(source, annotation)
    return _Person(_sample_row(name, jpeg, size, annotation), _annotation_row(name, annotation))


def _write(people: Iterator[_Person], out: Path, progress: Callable[[int], None] | None) -> tuple[int, str]:
    """Writes both files in batches, and returns the number of people and the hash of the content."""
    count, state = 0, hashlib.sha256()
    with (
        pq.ParquetWriter(out / "samples.parquet", SAMPLES) as samples,
        pq.ParquetWriter(out / "annotations.parquet", ANNOTATIONS) as annotated,
    ):
        while batch := list(islice(people, BATCH_ROWS)):
            tables = [person.sample for person in batch], [person.annotation for person in batch]
            for writer, schema, table in zip(
                (samples, annotated), (SAMPLES, ANNOTATIONS), tables, strict=True
            ):
                writer.write_table(pa.Table.from_pylist(table, schema))
                for row in table:
                    state.update(row.get("jpeg", b""))
                    state.update(repr([row[key] for key in schema.names if key != "jpeg"]).encode())
            count += len(batch)
            if progress is not None:
                progress(count)
    return count, state.hexdigest()[:16]


def _opaque_id(source: str, annotation: Annotation) -> str:
    """An id that reveals nothing about subject, action or sequence."""
    return digest(f"{source}/{annotation.name}")


def _sample_row(name: str, jpeg: bytes, size: tuple[int, int], annotation: Annotation) -> dict[str, Any]:
    camera = annotation.camera
    if camera is not None and size != (camera.width, camera.height):
        raise ValueError(
            f"{annotation.image} has {size[0]} x {size[1]} pixels; its camera was calibrated for "
            f"{camera.width} x {camera.height}"
        )
    estimate = Camera.estimate(*size)
    return {
        "id": name,
        "jpeg": jpeg,
        "box": list(astuple(annotation.box)),
        "camera": [float(value) for value in astuple(estimate)],
    }


def _jpeg(path: Path) -> tuple[bytes, tuple[int, int]]:
    """The file as JPEG, and its size. EXIF rotation is not applied, because annotations refer to the stored pixels."""
    with open_image(path) as image:
        size = image.size
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft("L", (1, 1))  # decoding at an eighth of the size detects a broken file faster
            image.load()
            return path.read_bytes(), size
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), size


def _annotation_row(name: str, annotation: Annotation) -> dict[str, Any]:
    camera, fit = annotation.camera, annotation.smpl
    return {
        "id": name,
        "image": annotation.image,
        "person": annotation.person,
        "box": list(astuple(annotation.box)),
        "camera": None if camera is None else [float(value) for value in astuple(camera)],
        "smpl": None if fit is None else _fit_row(fit),
        "joints": [
            {
                "convention": each.convention.name,
                "frame": each.frame,
                "positions_m": _flat(each.positions_m),
                "known": each.known.tolist(),
            }
            for each in annotation.joints
        ],
        "keypoints": [
            {
                "convention": each.convention.name,
                "positions_px": _flat(each.positions_px),
                "confidence": each.confidence.tolist(),
                "visible": None if each.visible is None else each.visible.tolist(),
            }
            for each in annotation.keypoints
        ],
    }


def _fit_row(fit: SmplFit) -> dict[str, Any]:
    placement = fit.placement
    return {
        "model": fit.model,
        "gender": fit.gender,
        "global_orient": _flat(fit.global_orient),
        "body_pose": _flat(fit.body_pose),
        "betas": None if fit.betas is None else _flat(fit.betas),
        "turn": None if placement is None else _flat(placement.turn),
        "offset_m": None if placement is None else _flat(placement.offset_m),
    }


def _annotation(row: dict[str, Any]) -> Annotation:
    camera, fit = row["camera"], row["smpl"]
    return Annotation(
        row["image"],
        row["person"],
        Box(*row["box"]),
        None if camera is None else Camera.from_numbers(camera),
        None if fit is None else _fit(fit),
        tuple(
            Joints(
                CONVENTIONS[each["convention"]],
                torch.tensor(each["positions_m"]).view(-1, 3),
                torch.tensor(each["known"]),
                each["frame"],
            )
            for each in row["joints"]
        ),
        tuple(
            Keypoints(
                CONVENTIONS[each["convention"]],
                torch.tensor(each["positions_px"]).view(-1, 2),
                torch.tensor(each["confidence"]),
                None if each["visible"] is None else torch.tensor(each["visible"]),
            )
            for each in row["keypoints"]
        ),
    )


def _fit(row: dict[str, Any]) -> SmplFit:
    placed = row["turn"] is not None
    return SmplFit(
        row["model"],
        row["gender"],
        torch.tensor(row["global_orient"]),
        torch.tensor(row["body_pose"]).view(23, 3),
        None if row["betas"] is None else torch.tensor(row["betas"]),
        Placement(torch.tensor(row["turn"]).view(3, 3), torch.tensor(row["offset_m"])) if placed else None,
    )


def _flat(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()
