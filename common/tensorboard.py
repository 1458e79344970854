"""Where a trainer's TensorBoard files go."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer
from transformers.integrations.integration_utils import TensorBoardCallback

__all__ = ["tensorboard_into"]


def tensorboard_into(trainer: Trainer, folder: Path) -> None:
    """TensorBoard files, if requested, go into `folder`, unless TENSORBOARD_LOGGING_DIR is set.

    Without this, transformers writes them under the trainer's output folder, but those of an evaluation without a
    training before it into ./runs.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder)
