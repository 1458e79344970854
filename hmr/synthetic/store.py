"""A set of scenes on disk, its truth in a file of its own.

    FOLDER/set.json          recipe, seed, count, content hash
    FOLDER/samples.parquet   id, JPEG, box, estimated camera: all that a wild image gives
    FOLDER/truth.parquet     parameters, true camera, joints, visibility, mask; not there in `wild-train`

`read_samples` never opens the truth; the agent, the groups and the trainer are handed its answer alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
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

from hmr.synthetic.recipe import SceneRecipe
from hmr.synthetic.scenes import CHUNK, Scene
from hmr.synthetic.workers import in_order, scene_maker
from hmr.types import BodyParams, Box, Camera, Labelled, Sample, Truth

__all__ = [
    "SampleSet", "fingerprint", "make_scenes", "read_labelled", "read_samples", "read_truth", "set_digest",
]  # fmt: skip

Progress = Callable[[int], None]


class SampleSet(Sequence[Sample]):
    """Samples decoded when asked for; a set of thousands costs its JPEGs in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleSet: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleSet:
        if isinstance(index, slice):
            return SampleSet(self._table.take(list(range(*index.indices(len(self))))))
        row = self._table.slice(range(len(self))[index], 1).to_pylist()[0]
        image = np.asarray(Image.open(io.BytesIO(row["jpeg"])).convert("RGB"))
        return Sample(row["id"], image, Box(*row["box"]), _camera(row["camera"]))


def make_scenes(
    folder: Path,
    recipe: SceneRecipe,
    seed: int,
    count: int,
    motion: Path | None = None,
    backdrops: Path | None = None,
    *,
    keep_truth: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write a set, or find that the same one is already there; `progress` is told of each scene made.

    Without `keep_truth` no truth is ever written. The set appears in one piece: a killed run leaves no half of it.
    Raises ValueError if `folder` holds another set, FileNotFoundError where `motion` or `backdrops` is not there.
    """
    wanted = {
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "count": count,
        "motion": motion and fingerprint(motion),
        "backdrops": backdrops and fingerprint(backdrops),
        "truth": keep_truth,
    }
    if (folder / "set.json").exists():
        found = json.loads((folder / "set.json").read_text())
        if {key: found.get(key) for key in wanted} == json.loads(json.dumps(wanted)):
            return folder
        raise ValueError(f"{folder} already holds another set of scenes; remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    samples, truths = [], []
    make = functools.partial(_rows_of_chunk, recipe, seed, count, motion, backdrops)
    for sample_rows, truth_rows in in_order(make, -(-count // CHUNK), workers):
        samples += sample_rows
        truths += truth_rows
        if progress is not None:
            progress(len(samples))
    _write_parquet(folder / "samples.parquet", samples)
    if keep_truth:
        _write_parquet(folder / "truth.parquet", truths)
    _write_text(
        folder / "set.json", json.dumps({**wanted, "digest": _content_digest(samples, truths)}, indent=1)
    )
    return folder


def set_digest(folder: Path) -> str:
    """The content hash of a set: every pixel, box, camera and true parameter in it."""
    return str(json.loads((folder / "set.json").read_text())["digest"])


def read_samples(folder: Path) -> SampleSet:
    """What wild images give. Opens `samples.parquet` and nothing else."""
    return SampleSet(pq.read_table(folder / "samples.parquet"))


def read_truth(folder: Path) -> dict[str, Truth]:
    """Truth by sample id; for pretraining, exploration and evaluation alone.

    Raises FileNotFoundError for a set whose truth was never kept.
    """
    if not (folder / "truth.parquet").exists():
        raise FileNotFoundError(f"{folder} holds no truth: it was drawn without, as wild-train is")
    return {row["id"]: _truth(row) for row in pq.read_table(folder / "truth.parquet").to_pylist()}


def read_labelled(folder: Path) -> list[Labelled]:
    truths = read_truth(folder)
    return [Labelled(sample, truths[sample.id]) for sample in read_samples(folder)]


def fingerprint(folder: Path) -> str:
    """What files a folder holds, by name and size: enough to tell two folders of one name apart.

    Raises FileNotFoundError where there is no such folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file()) or [folder]
    listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in files)
    return f"{folder.name}-{hashlib.sha256(listing.encode()).hexdigest()[:8]}"


def _rows_of_chunk(
    recipe: SceneRecipe, seed: int, count: int, motion: Path | None, backdrops: Path | None, chunk: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    scenes = scene_maker(recipe, seed, motion, backdrops).chunk(chunk, min(CHUNK, count - chunk * CHUNK))
    return [_sample_row(scene) for scene in scenes], [_truth_row(scene.labelled) for scene in scenes]


def _sample_row(scene: Scene) -> dict[str, Any]:
    sample = scene.labelled.sample
    return {
        "id": sample.id,
        "jpeg": scene.jpeg,
        "box": list(dataclasses.astuple(sample.box)),
        "camera": list(dataclasses.astuple(sample.camera)),
    }


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
    return Truth(
        BodyParams(
            torch.tensor(row["global_orient"]),
            torch.tensor(row["body_pose"]).view(23, 3),
            torch.tensor(row["betas"]),
            torch.tensor(row["transl"]),
        ),
        _camera(row["camera"]),
        torch.tensor(row["joints_cam_m"]).view(24, 3),
        torch.tensor(row["keypoints_px"]).view(24, 2),
        torch.tensor(row["visible"]),
        np.asarray(Image.open(io.BytesIO(row["mask_png"]))),
    )


def _camera(values: list[float]) -> Camera:
    focal, cx, cy, width, height = values
    return Camera(focal, cx, cy, int(width), int(height))


def _content_digest(*tables: list[dict[str, Any]]) -> str:
    state = hashlib.sha256()
    for table in tables:
        for row in table:
            state.update(repr(sorted(row.items())).encode())
    return state.hexdigest()[:16]


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
