"""Groups of hypotheses with the errors that no critic sees, drawn once a policy, a set of scenes and a seed.

    KEPT/SCENES-FIRST-KEY.npz    the groups of PART images, written when they are drawn

KEY is a hash of what they are drawn from: scenes, rows, policy, size and seed. So a run that is killed draws one part
again at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup, noise_generator
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import BodyParams, Hypotheses, Labelled
from rl.scorers.hmr_scorer_training import errors_mm

__all__ = ["LabelledGroup", "draw_groups"]

PARAMS = ("global_orient", "body_pose", "betas", "transl")
PART = 32  # images: a minute or two


@dataclass(frozen=True)
class LabelledGroup:
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
) -> list[LabelledGroup]:
    """`size` hypotheses an image of the set in `scenes`; kept in files under `kept` and found there again.

    `progress` is told how many images are done after each that is drawn.
    """
    cases = read_labelled(scenes)
    key = {"scenes": set_digest(scenes), "policy": policy.digest(), "size": size, "seed": seed}
    groups: list[LabelledGroup] = []
    for first in range(0, len(cases), PART):
        part = cases[first : first + PART]
        path = kept / f"{scenes.name}-{first:05d}-{_hash({**key, 'rows': [first, first + len(part)]})}.npz"
        if not path.exists():
            drawn = []
            for row, case in enumerate(part, start=1):
                drawn.append(_draw(policy, body, case, size, seed))
                progress(first + row)
            _write(path, {name: np.stack([columns[name] for columns in drawn]) for name in drawn[0]})
        tables = _read(path)
        groups += [_group(case, tables, row) for row, case in enumerate(part)]
    return groups


def _hash(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _draw(policy: DiffusionPolicy, body: Body, case: Labelled, size: int, seed: int) -> dict[str, np.ndarray]:
    features = policy.encode([case.sample])
    params = policy.sample(features, size, noise_generator(seed, case.sample))[0].params
    errors = errors_mm(body, params, case.truth)
    return {name: getattr(params, name).numpy() for name in PARAMS} | {
        name: errors[name].numpy() for name in ERROR_METRICS
    }


def _group(case: Labelled, tables: Mapping[str, np.ndarray], row: int) -> LabelledGroup:
    params = BodyParams(*(torch.from_numpy(tables[name][row]) for name in PARAMS))
    errors = {name: tables[name][row] for name in ERROR_METRICS}
    return LabelledGroup(case, Hypotheses(params, case.sample.camera), errors)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, tables: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **tables)
    partial.replace(path)
