"""The log of an alignment, saved beside the aligned policy because the folder of the trainer is deleted at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from common.storage.files import PathLike, write_text
from common.tensorboard import tensorboard_into

__all__ = ["LOG", "Log", "LogCallback", "log_callback", "read_logs"]

LOG = "log.json"
TENSORBOARD = "tensorboard"
Log = list[dict[str, Any]]


def log_callback(trainer: Trainer, folder: Path, run: str) -> LogCallback:
    """The callback for a trainer. TensorBoard files, if requested, also go into `folder`, one subfolder per run, unless
    TENSORBOARD_LOGGING_DIR is set."""
    tensorboard_into(trainer, folder / TENSORBOARD / run)
    return LogCallback(folder)


class LogCallback(TrainerCallback):
    """Writes the log history into `folder` at the end of training, including the lines before a resume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / LOG, json.dumps(list(map(_of_whole_run, state.log_history)), indent=1))


def _of_whole_run(line: dict[str, Any]) -> dict[str, Any]:
    """Without the mean loss of the last line, in which transformers leaves out what a killed run had done."""
    return {name: value for name, value in line.items() if name != "train_loss"}


def read_logs(folder: PathLike, name: str = "") -> dict[str, Log]:
    """The log of the alignment in `folder`, or the log of each of its rounds; lines hold `step` and the metrics of
    `rl.monitoring.metrics`. Empty if there is no log."""
    folder = Path(folder)
    if (folder / LOG).exists():
        return {name: _read(folder / LOG)}
    rounds = {int(path.parts[-3].rpartition("-")[2]): path for path in folder.glob(f"round-*/policy/{LOG}")}
    return {f"{name}, round {number}".removeprefix(", "): _read(rounds[number]) for number in sorted(rounds)}


def _read(path: Path) -> Log:
    return json.loads(path.read_text())
