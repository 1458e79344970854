"""Labelled scenes that alignment replays if its training arguments set `replay_weight` (`rl.labels.body_labels`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.progress import Stage
from eval.pipelines.align_settings import AlignSettings
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled
from rl.config import training_fields
from rl.labels.body_labels import true_labels

__all__ = ["with_replay", "with_replay_file"]


def with_replay(
    policy: DiffusionPolicy, settings: AlignSettings, out: Path, stage: Stage, workers: int = 1
) -> dict[str, Any]:
    """The training arguments. If they set replay_weight but no replay_file, labelled scenes in `out` make the
    file.

    All rounds share one file: it holds detections and initial estimates, which alignment does not change.
    """
    alignment = with_replay_file(policy, settings, out)
    if not alignment.get("replay_weight") or (file := Path(alignment["replay_file"])).exists():
        return alignment
    split = settings.gap.train
    tick = stage(f"drawing {settings.replayed} scenes of {split} to replay", settings.replayed)
    scenes = draw_split(
        split, out / "scenes", settings.replayed,
        motion=settings.motion, body=settings.body, workers=workers, progress=tick,
    )  # fmt: skip
    true_labels(policy, read_labelled(scenes)).save(file)
    return alignment


def with_replay_file(policy: DiffusionPolicy, settings: AlignSettings, out: Path) -> dict[str, Any]:
    """The training arguments with the path of the replay file. Raises FileNotFoundError if a given file is missing."""
    alignment = training_fields(settings.alignment)
    if not alignment.get("replay_weight"):
        return alignment
    named = alignment.get("replay_file")
    if named and not Path(named).exists():
        raise FileNotFoundError(f"{named}: no such replay_file; leave replay_file out to have one made")
    file = named or str(out / f"replay-{settings.replayed}-{policy.digest()}.safetensors")
    return {**alignment, "replay_file": file}
