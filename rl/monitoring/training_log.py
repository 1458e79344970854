"""What a run told of itself step by step, kept beside the policy that it made: its trainer's folder is gone by then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

__all__ = ["LOG", "KeepLog", "Log", "keep_log", "read_logs"]

LOG = "log.json"
TENSORBOARD = "tensorboard"
RENAMED = {
    "clip_ratio/region": "clip_ratio/region_mean"
}  # in logs of before: curves of old runs are drawn too
Log = list[dict[str, Any]]


def keep_log(trainer: Trainer, folder: Path, run: str) -> KeepLog:
    """The callback for a trainer; TensorBoard's files, where they are asked for, lie in `folder` as well, a run by
    itself (TENSORBOARD_LOGGING_DIR, where it is set, is where they go instead)."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder / TENSORBOARD / run)
    return KeepLog(folder)


class KeepLog(TrainerCallback):
    """Writes every line of the log into `folder` at the end of training, those of before a kill included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{LOG}.partial"
            partial.write_text(json.dumps(state.log_history, indent=1))
            partial.replace(self.folder / LOG)


def read_logs(folder: Path, name: str = "") -> dict[str, Log]:
    """Lines of `step` and the metrics of `rl.monitoring.metrics`: of the alignment in `folder`, or of each of its rounds; empty
    where none left a log."""
    if (folder / LOG).exists():
        return {name: _read(folder / LOG)}
    rounds = {int(path.parts[-3].rpartition("-")[2]): path for path in folder.glob(f"round-*/policy/{LOG}")}
    return {f"{name}, round {number}".removeprefix(", "): _read(rounds[number]) for number in sorted(rounds)}


def _read(path: Path) -> Log:
    lines: Log = json.loads(path.read_text())
    return [{RENAMED.get(name, name): value for name, value in line.items()} for line in lines]
