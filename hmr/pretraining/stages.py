"""One stage of training: transformers.Trainer with an average of the weights, resumed from its newest checkpoint.

transformers.Trainer provides resuming, accumulation and several processes. Each process has its own noise, and all end
with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from common.finite_callback import FiniteWeights
from common.storage.resume import has_ended, last_whole_checkpoint
from common.tensorboard import tensorboard_into
from hmr.pretraining.ema import FILE as EMA_FILE
from hmr.pretraining.ema import EmaCallback

__all__ = ["Stage", "run_stage", "stage_arguments"]

TENSORBOARD = "tensorboard"
Rows = Dataset[dict[str, Tensor]]


def stage_arguments(fields: Mapping[str, Any], folder: Path, seed: int, label: str) -> TrainingArguments:
    """The TrainingArguments of a stage. Raises ValueError for values that transformers refuses.

    label: name of a column of the rows; it makes Trainer compute a loss in evaluation.
    """
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        remove_unused_columns=False,
        label_names=[label],
        prediction_loss_only=True,
        **{"report_to": "tensorboard", **fields},
    )


@dataclass(frozen=True)
class Stage:
    """A module whose forward returns a dict with "loss", and its rows."""

    module: nn.Module
    train_rows: Rows
    held_out_rows: Rows
    ema_decay: float
    sampler: Sampler[int] | None = None  # None: transformers' own
    collate: Callable[[list[Any]], dict[str, Tensor]] | None = None


def run_stage(stage: Stage, arguments: TrainingArguments) -> dict[str, Any]:
    """Train; the module ends with the averaged weights. Returns the held-out loss and the log.

    The log is that of an unbroken run: without the last line of a training, which transformers writes after the last
    checkpoint, and whose mean loss leaves out what a killed run had done.
    """
    folder, module = Path(str(arguments.output_dir)), stage.module
    ema = EmaCallback(module, stage.ema_decay)
    trainer = _StageTrainer(
        module,
        arguments,
        stage.collate,
        train_dataset=stage.train_rows,
        eval_dataset=stage.held_out_rows,
        callbacks=[FiniteWeights(), ema, SeededNoise()],
    )
    trainer.rows = stage.sampler
    tensorboard_into(trainer, folder / TENSORBOARD)
    checkpoint = last_whole_checkpoint(folder, EMA_FILE)
    if checkpoint is not None and has_ended(Path(checkpoint)):
        trainer.load_finished(Path(checkpoint))
        ema.load(Path(checkpoint), trainer.state.global_step)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    ema.finish()
    _synchronize(module)
    torch.manual_seed(arguments.seed)  # the held-out loss draws noise, the same in a resumed run
    held_out = trainer.evaluate()
    return {
        "held_out": held_out,
        "log": [line for line in trainer.state.log_history if "train_loss" not in line],
    }


def _synchronize(module: nn.Module) -> None:
    """Copy the first process's tensors to all: running statistics depend on a process's own batches."""
    tensors = list(module.state_dict().values())
    for tensor, first in zip(tensors, cast(list[Tensor], broadcast(tensors)), strict=True):
        tensor.copy_(first)


class SeededNoise(TrainerCallback):
    """Gives each process its own noise, as the trainer seeds them all alike; a resumed run restores their states."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.process_index and not state.global_step:
            torch.manual_seed(args.seed + args.process_index)


class _StageTrainer(Trainer):
    """Draws its training rows with the sampler `rows`."""

    rows: Sampler[int] | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.rows is None else self.rows

    def load_finished(self, checkpoint: Path) -> None:
        """Load weights, step and log of a finished run."""
        cast(nn.Module, self.model).load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME))
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.global_step, self.state.epoch = state.global_step, state.epoch
        self.state.log_history = state.log_history
