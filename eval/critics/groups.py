"""Draws groups of hypotheses with their true errors, and caches them by policy, images, size and seed.

    CACHE/NAME-FIRST-KEY.npz    the groups of CHUNK_SIZE images, written when they are drawn

NAME is that of the set, KEY a hash of its content, rows, policy, size and seed. A killed run draws at most one chunk
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from common.reading.array_files import open_npz
from common.storage.files import atomic_path
from common.storage.fingerprint import json_digest
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup, noise_generator
from hmr.body.model import Body
from hmr.metrics.errors import group_errors_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import BodyParams, Detector, Hypotheses, Labelled, Sample

__all__ = ["CriticImages", "LabelledGroup", "LabelledSet", "draw_groups", "labelled_scenes"]

PARAMS = ("global_orient", "body_pose", "betas", "transl")
CHUNK_SIZE = 32  # images; sampling their groups takes one to two minutes


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images; name: of cached files. digest: hash of the content."""

    name: str
    cases: Sequence[Labelled]
    digest: str


@dataclass(frozen=True)
class CriticImages:
    """What critics are compared on and learn from in place of scenes, and their detector.

    body: of the hypotheses and of the truth's parameters. detector: None is the embedded one.
    """

    tests: LabelledSet
    calibration: LabelledSet
    body: Body
    detector: Detector | None


def labelled_scenes(folder: Path) -> LabelledSet:
    """The scenes that `hmr.synthetic.splits.draw_split` wrote. Raises FileNotFoundError if they have no truth."""
    return LabelledSet(folder.name, read_labelled(folder), set_digest(folder))


@dataclass(frozen=True)
class LabelledGroup:
    """A labelled image, its group, and the errors by ERROR_METRICS."""

    labelled: Labelled
    hypotheses: Hypotheses
    errors_mm: Mapping[str, Float[np.ndarray, " group"]]

    @property
    def sample(self) -> Sample:
        return self.labelled.sample

    def scored(self, scores: Sequence[float | None]) -> ScoredGroup:
        return ScoredGroup(self.sample.id, tuple(scores), self.errors_mm)


def draw_groups(
    policy: DiffusionPolicy,
    body: Body,
    labelled: LabelledSet,
    *,
    size: int,
    seed: int,
    cache: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[LabelledGroup]:
    """`size` hypotheses per image, from the files under `cache` where they exist.

    `progress` receives the number of images done after each image that is drawn.
    """
    cases = labelled.cases
    key = {"scenes": labelled.digest, "policy": policy.digest(), "size": size, "seed": seed}
    groups: list[LabelledGroup] = []
    for first in range(0, len(cases), CHUNK_SIZE):
        chunk = cases[first : first + CHUNK_SIZE]
        digest = json_digest({**key, "rows": [first, first + len(chunk)]}, length=12)
        path = cache / f"{labelled.name}-{first:05d}-{digest}.npz"
        if not path.exists():
            drawn = []
            for row, case in enumerate(chunk, start=1):
                drawn.append(_draw(policy, body, case, size, seed))
                progress(first + row)
            _write(path, {name: np.stack([columns[name] for columns in drawn]) for name in drawn[0]})
        tables = _read(path)
        groups += [_group(case, tables, row) for row, case in enumerate(chunk)]
    return groups


def _draw(policy: DiffusionPolicy, body: Body, case: Labelled, size: int, seed: int) -> dict[str, np.ndarray]:
    features = policy.encode([case.sample])
    params = policy.sample(features, size, noise_generator(seed, case.sample))[0].params
    errors = group_errors_mm(body, params, case.truth)
    return {name: getattr(params, name).numpy() for name in PARAMS} | {
        name: errors[name].numpy() for name in ERROR_METRICS
    }


def _group(case: Labelled, tables: Mapping[str, np.ndarray], row: int) -> LabelledGroup:
    params = BodyParams(*(torch.from_numpy(tables[name][row]) for name in PARAMS))
    errors = {name: tables[name][row] for name in ERROR_METRICS}
    return LabelledGroup(case, Hypotheses(params, case.sample.camera), errors)


def _read(path: Path) -> dict[str, np.ndarray]:
    with open_npz(path) as file:
        return {name: file.read(name) for name in file.names}


def _write(path: Path, tables: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **tables)
