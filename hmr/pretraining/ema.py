"""Exponential moving average of trainable weights (diffusers' EMAModel) as a callback of transformers.Trainer.

The weights of a denoiser vary from step to step; their average is evaluated and saved, as in ScoreHypo, ADHMR and most
diffusion work. The average is stored in the trainer's checkpoints, so that a resumed run gives the same result as an
uninterrupted one. All processes take the same steps and have the same average; the first one writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from common.storage.files import atomic_path

__all__ = ["FILE", "EmaCallback"]

FILE = "ema.safetensors"


class EmaCallback(TrainerCallback):
    """Averages the trainable parameters of `model`, not its buffers: running statistics are averages already."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.ema = EMAModel(self.parameters, decay=decay, foreach=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            self.load(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", state.global_step)
        self.ema.to(self.parameters[0].device)

    def load(self, checkpoint: Path, steps: int) -> None:
        """Load the average that was saved in `checkpoint` after `steps` steps."""
        saved = load_file(checkpoint / FILE)
        with torch.no_grad():
            for index, shadow in enumerate(self.ema.shadow_params):
                shadow.copy_(saved[str(index)])
        self.ema.optimization_step = steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.ema.step(self.parameters)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        with atomic_path(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FILE) as partial:
            save_file({str(index): shadow for index, shadow in enumerate(self.ema.shadow_params)}, partial)

    def finish(self) -> None:
        """Replace the parameters by their average."""
        self.ema.copy_to(self.parameters)
