"""A set of scenes on disk, with the ground truth in a separate file.

    FOLDER/set.json          recipe, seed, count, digest of the body model if it is not the embedded one, content hash
    FOLDER/samples.parquet   id, JPEG, box, estimated camera: what is known of a wild image; in `studio` and `street`
                             also the detection of the simulated detector
    FOLDER/truth.parquet     parameters, true camera, joints, visibility, mask; absent in `wild-train`
                             and `street-align`

`read_samples` does not open the ground truth; the agent, the groups and the trainer only get its result.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from common.reading.image_files import open_image
from common.reading.untrusted_files import damage_named
from common.reading.validate import require
from common.storage.files import PathLike, atomic_path, write_text
from common.storage.fingerprint import digest, file_digest
from hmr.synthetic.recipe import SceneRecipe
from hmr.synthetic.scenes import CHUNK, Scene
from hmr.synthetic.workers import in_order, scene_maker
from hmr.types import NUM_POINTS, BodyParams, Box, Camera, Detection, Labelled, Sample, Truth

__all__ = [
    "SampleSet", "folder_fingerprint", "make_scenes", "read_labelled", "read_samples", "read_truth",
    "sample_ids", "set_digest",
]  # fmt: skip

Progress = Callable[[int], None]
DAMAGED = "draw or prepare the set again"
SAMPLE_COLUMNS = ("id", "jpeg", "box", "camera")
TRUTH_COLUMNS = (
    "id", "global_orient", "body_pose", "betas", "transl", "camera", "joints_cam_m", "keypoints_px", "visible",
    "mask_png",
)  # fmt: skip

DETECTION = (
    "points_px",
    "sigma_px",
    "visibility",
    "depth_m",
    "depth_sigma_m",
)  # what a simulated detector reports


class SampleSet(Sequence[Sample]):
    """Samples of a set. Only the JPEGs are in memory; an image is decoded on access."""

    def __init__(self, table: pa.Table, path: Path) -> None:
        self._table, self._path = table, path

    def __len__(self) -> int:
        return self._table.num_rows

    def take(self, rows: Sequence[int]) -> SampleSet:
        """The samples of these rows, in this order."""
        return SampleSet(self._table.take(list(rows)), self._path)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleSet: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleSet:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        row = self._table.slice(range(len(self))[index], 1).to_pylist()[0]
        with damage_named(self._path, DAMAGED):
            with open_image(row["jpeg"], f"the image of {row['id']}") as stored:
                image = np.asarray(stored.convert("RGB"))
            detection = _detection(row["detection"]) if "detection" in row else None
            return Sample(row["id"], image, Box(*row["box"]), Camera.from_numbers(row["camera"]), detection)


def make_scenes(
    folder: PathLike,
    recipe: SceneRecipe,
    seed: int,
    count: int,
    motion: PathLike | None = None,
    backdrops: PathLike | None = None,
    *,
    body: PathLike | None = None,
    keep_truth: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write a set of scenes, unless `folder` holds the same set already. Returns the folder.

    body: file of the body model that people are drawn with; None: the embedded one.
    keep_truth: write the ground truth; if false, it is never written.
    progress: receives the number of scenes drawn.

    `set.json` is written last, so a killed run leaves no incomplete set. Raises ValueError if `folder` holds another
    set, FileNotFoundError if `motion`, `backdrops` or `body` is missing.
    """
    folder = Path(folder)
    motion, backdrops, body = (Path(source) if source else None for source in (motion, backdrops, body))
    wanted = {
        "recipe": recipe.to_json(),
        "seed": seed,
        "count": count,
        "motion": motion and folder_fingerprint(motion),
        "backdrops": backdrops and folder_fingerprint(backdrops),
        "body": body and file_digest(body),
        "truth": keep_truth,
    }
    if (folder / "set.json").exists():
        recorded = json.loads((folder / "set.json").read_text())
        if {key: recorded.get(key) for key in wanted} == json.loads(json.dumps(wanted)):
            return folder
        raise ValueError(f"{folder} already holds another set of scenes; remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    samples, truths = [], []
    make = functools.partial(_rows_of_chunk, recipe, seed, count, motion, backdrops, body)
    for sample_rows, truth_rows in in_order(make, -(-count // CHUNK), workers):
        samples += sample_rows
        truths += truth_rows
        if progress is not None:
            progress(len(samples))
    _write_parquet(folder / "samples.parquet", samples)
    if keep_truth:
        _write_parquet(folder / "truth.parquet", truths)
    description = {**wanted, "digest": _content_digest(samples, truths)}
    write_text(folder / "set.json", json.dumps(description, indent=1))
    return folder


def set_digest(folder: PathLike) -> str:
    """The content hash of a set: pixels, boxes, cameras and ground truth."""
    return str(json.loads((Path(folder) / "set.json").read_text())["digest"])


def read_samples(folder: PathLike) -> SampleSet:
    """The samples without ground truth. Opens only `samples.parquet`.

    Raises FileNotFoundError, and ValueError for a file that is damaged or of another layout; a damaged image is a
    ValueError when it is read.
    """
    path = Path(folder) / "samples.parquet"
    return SampleSet(_read_parquet(path, SAMPLE_COLUMNS), path)


def sample_ids(folder: PathLike) -> list[str]:
    """The ids of the samples; images are not read. Raises FileNotFoundError, and ValueError for a damaged file."""
    path = Path(folder) / "samples.parquet"
    with damage_named(path, DAMAGED):
        return pq.read_table(path, columns=["id"])["id"].to_pylist()


def read_truth(folder: PathLike) -> dict[str, Truth]:
    """Ground truth by sample id; only for pretraining, exploration and evaluation.

    Raises FileNotFoundError for a set without ground truth.
    """
    path = Path(folder) / "truth.parquet"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no truth: it was drawn without, as wild-train and street-align are"
        )
    rows = _read_parquet(path, TRUTH_COLUMNS).to_pylist()
    with damage_named(path, DAMAGED):
        return {row["id"]: _truth(row) for row in rows}


def read_labelled(folder: PathLike) -> list[Labelled]:
    truths = read_truth(folder)
    return [Labelled(sample, truths[sample.id]) for sample in read_samples(folder)]


def folder_fingerprint(folder: Path) -> str:
    """The folder's name and a hash of its files' names and sizes. Raises FileNotFoundError for a missing folder."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file()) or [folder]
    listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in files)
    return f"{folder.name}-{digest(listing, length=8)}"


def _rows_of_chunk(
    recipe: SceneRecipe,
    seed: int,
    count: int,
    motion: Path | None,
    backdrops: Path | None,
    body: Path | None,
    chunk: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    maker = scene_maker(recipe, seed, motion, backdrops, body)
    scenes = maker.chunk(chunk, min(CHUNK, count - chunk * CHUNK))
    return [_sample_row(scene) for scene in scenes], [_truth_row(scene.labelled) for scene in scenes]


def _sample_row(scene: Scene) -> dict[str, Any]:
    sample = scene.labelled.sample
    return {
        "id": sample.id,
        "jpeg": scene.jpeg,
        "box": list(dataclasses.astuple(sample.box)),
        "camera": list(dataclasses.astuple(sample.camera)),
    } | _detection_column(sample.detection)


def _detection_column(detection: Detection | None) -> dict[str, dict[str, list[float]]]:
    """Empty without a detection: sets of other recipes have no such column."""
    if detection is None:
        return {}
    return {"detection": {name: getattr(detection, name).flatten().tolist() for name in DETECTION}}


def _detection(column: dict[str, list[float]]) -> Detection:
    points_px, sigma_px, visibility, depth_m, depth_sigma_m = (
        torch.tensor(column[name]) for name in DETECTION
    )
    return Detection(points_px.view(NUM_POINTS, 2), sigma_px, visibility, depth_m, depth_sigma_m)


def _truth_row(labelled: Labelled) -> dict[str, Any]:
    truth, buffer = labelled.truth, io.BytesIO()
    Image.fromarray(truth.mask).save(buffer, "PNG")
    return {
        "id": labelled.sample.id,
        "global_orient": truth.params.global_orient.tolist(),
        "body_pose": truth.params.body_pose.flatten().tolist(),
        "betas": truth.params.betas.tolist(),
        "transl": truth.params.transl.tolist(),
        "camera": list(dataclasses.astuple(truth.camera)),
        "joints_cam_m": truth.joints_cam_m.flatten().tolist(),
        "keypoints_px": truth.keypoints_px.flatten().tolist(),
        "visible": truth.visible.tolist(),
        "mask_png": buffer.getvalue(),
    }


def _truth(row: dict[str, Any]) -> Truth:
    with open_image(row["mask_png"], f"the mask of {row['id']}") as stored:
        mask = np.asarray(stored)
    return Truth(
        BodyParams(
            torch.tensor(row["global_orient"]),
            torch.tensor(row["body_pose"]).view(23, 3),
            torch.tensor(row["betas"]),
            torch.tensor(row["transl"]),
        ),
        Camera.from_numbers(row["camera"]),
        torch.tensor(row["joints_cam_m"]).view(24, 3),
        torch.tensor(row["keypoints_px"]).view(24, 2),
        torch.tensor(row["visible"]),
        mask,
    )


def _read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """Raises ValueError if a column is missing or lacks a value, or if an id is no text."""
    with damage_named(path, DAMAGED):
        table = pq.read_table(path)
    require(table.column_names, columns, str(path))
    with damage_named(path, DAMAGED):
        if any(table[name].null_count for name in columns) or not pa.types.is_string(
            table.schema.field("id").type
        ):
            raise ValueError("a row lacks a value")
    return table


def _content_digest(*tables: list[dict[str, Any]]) -> str:
    return digest(*(repr(sorted(row.items())) for table in tables for row in table))


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows), partial)
