"""Groups of hypotheses with the errors that no critic sees, drawn once a policy, a set of scenes and a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from eval.protocol import ERROR_METRICS, ScoredGroup, noise_generator
from hmr.body import Body
from hmr.data.store import read_labelled, set_digest
from hmr.policy import DiffusionPolicy
from hmr.types import BodyParams, Hypotheses, Labelled
from rl.train_hmr_scorer import errors_mm

__all__ = ["TestedGroup", "draw_groups"]

PARAMS = ("global_orient", "body_pose", "betas", "transl")


@dataclass(frozen=True)
class TestedGroup:
    """A labelled image, its group, and the errors by ERROR_METRICS."""

    __test__ = False  # pytest takes the name for its own

    labelled: Labelled
    hypotheses: Hypotheses
    errors_mm: Mapping[str, Float[np.ndarray, " group"]]

    def scored(self, scores: Sequence[float | None]) -> ScoredGroup:
        return ScoredGroup(self.labelled.sample.id, tuple(scores), self.errors_mm)


def draw_groups(
    policy: DiffusionPolicy,
    body: Body,
    scenes: Path,
    size: int,
    seed: int,
    kept: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[TestedGroup]:
    """`size` hypotheses an image of the set in `scenes`; kept in a file under `kept` and found there again."""
    cases = read_labelled(scenes)
    key = {"scenes": set_digest(scenes), "policy": policy.digest(), "size": size, "seed": seed}
    path = kept / f"{scenes.name}-{size}-seed-{seed}.npz"
    tables = _read(path, key)
    if tables is None:
        drawn = []
        for done, case in enumerate(cases, start=1):
            drawn.append(_draw(policy, body, case, size, seed))
            progress(done)
        tables = {name: np.stack([columns[name] for columns in drawn]) for name in drawn[0]}
        _write(path, key, tables)
    return [_group(case, tables, row) for row, case in enumerate(cases)]


def _draw(policy: DiffusionPolicy, body: Body, case: Labelled, size: int, seed: int) -> dict[str, np.ndarray]:
    features = policy.encode([case.sample])
    params = policy.sample(features, size, noise_generator(seed, case.sample))[0].params
    errors = errors_mm(body, params, case.truth)
    return {name: getattr(params, name).numpy() for name in PARAMS} | {
        name: errors[name].numpy() for name in ERROR_METRICS
    }


def _group(case: Labelled, tables: Mapping[str, np.ndarray], row: int) -> TestedGroup:
    params = BodyParams(*(torch.from_numpy(tables[name][row]) for name in PARAMS))
    errors = {name: tables[name][row] for name in ERROR_METRICS}
    return TestedGroup(case, Hypotheses(params, case.sample.camera), errors)


def _read(path: Path, key: Mapping[str, object]) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        tables = {name: file[name] for name in file.files}
    return tables if str(tables.pop("key")) == json.dumps(key, sort_keys=True) else None


def _write(path: Path, key: Mapping[str, object], tables: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, key=np.array(json.dumps(key, sort_keys=True)), **tables)
    partial.replace(path)
