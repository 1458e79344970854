"""What a run told of itself step by step, kept beside the policy that it made: its trainer's folder is gone by then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

__all__ = ["LOG", "KeepLog", "Log", "read_logs"]

LOG = "log.json"
Log = list[dict[str, Any]]


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
    """Lines of `step` and the metrics of `rl.metrics`: of the alignment in `folder`, or of each of its rounds; empty
    where none left a log."""
    if (folder / LOG).exists():
        return {name: json.loads((folder / LOG).read_text())}
    rounds = {int(path.parts[-3].rpartition("-")[2]): path for path in folder.glob(f"round-*/policy/{LOG}")}
    return {
        f"{name}, round {number}".removeprefix(", "): json.loads(rounds[number].read_text())
        for number in sorted(rounds)
    }
