"""What a run told of itself step by step, kept beside the policy that it made: its trainer's folder is gone by then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

__all__ = ["LOG", "KeepLog", "read_log"]

LOG = "log.json"


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


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Lines of `step` and the metrics of `rl.metrics`. Raises FileNotFoundError where no alignment ended."""
    if not (folder / LOG).exists():
        raise FileNotFoundError(f"{folder} has no {LOG}: no alignment ended there")
    return json.loads((folder / LOG).read_text())
