"""Checkpoints of a run: OUT/checkpoint-N after N updates, each whole or absent; the newest one is kept.

state.safetensors    the copies of the weights, the moments of the optimizer (`PolicyGradient.state_dict`)
log.json             the lines of the log so far
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from common.storage.files import atomic_folder
from rl.monitoring.training_log import LOG, Log
from rl.policy_gradient.updates import PolicyGradient

__all__ = ["CHECKPOINTS", "remove_checkpoints", "resume", "save_checkpoint"]

CHECKPOINTS = "checkpoint-*"
STATE = "state.safetensors"


def save_checkpoint(run: PolicyGradient, log: Log, out: Path) -> None:
    """After as many updates as the log has lines."""
    with atomic_folder(_path(out, len(log))) as partial:
        save_file(run.state_dict(), partial / STATE)
        (partial / LOG).write_text(json.dumps(log, indent=1))
    remove_checkpoints(out, but=len(log))


def resume(run: PolicyGradient, out: Path) -> Log:
    """Loads the newest checkpoint into the run; returns its log, which is empty if there is none."""
    updates = [int(found[1]) for path in out.glob(CHECKPOINTS) if (found := _NAME.fullmatch(path.name))]
    if not updates:
        return []
    newest = _path(out, max(updates))
    run.load_state_dict(load_file(newest / STATE))
    return json.loads((newest / LOG).read_text())


def remove_checkpoints(out: Path, but: int | None = None) -> None:
    """All but one, with what a killed run left of others."""
    for path in out.glob(CHECKPOINTS):
        if but is None or path != _path(out, but):
            shutil.rmtree(path)


_NAME = re.compile(r"checkpoint-(\d+)")


def _path(out: Path, updates: int) -> Path:
    return out / f"checkpoint-{updates}"
