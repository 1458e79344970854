"""Aligns a diffusion policy offline with scored groups of its own hypotheses, on `transformers.Trainer`.

The method is arXiv 2602.19180, section 3.3, with bounded losses (`rl/losses.py`). For each image of a batch and each of
K times t, one noise eps is shared by the whole group. L_theta and L_ref are the denoising errors of the policy and of
the reference there, and the loss weights their difference by the advantages of the group. One forward pass serves all
B x G x K rows: `policy(condition, x0, timesteps, noise)` -> errors. Any module with this forward and with
`config.num_train_timesteps` can be aligned.

The reference is not a second model: the initial weights of the trained submodule are swapped in for one forward pass
(`rl.trained_weights`). With LoRA (arXiv 2106.09685, by peft) those are the initial adapters, whose product is zero;
after training the adapters are merged into the weights. The averaged weights (EMA) are evaluated and saved. A
checkpoint also holds the live and the reference weights, so that a resumed run takes the same steps. Times and noise
are drawn by (seed, step, row), so they do not depend on the batch size, the number of processes or an interruption. The
loss of a step is the mean over all its images, however they are divided.

The loss `resample` (`rl.imitation`) needs no reference, and can train the initial estimate too.

Two terms can be added, replay (`rl.labels.body_labels`) and a penalty on lost spread (`rl.spread`); each costs a
forward pass. Under FSDP `train` and `save_model` work, but not the spread callback, the spread penalty and LoRA. Left
out: reward functions (`rl.preferences.build` calls them), rounds (`rl.rounds`), DeepSpeed.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from common.finite_callback import FiniteWeights
from common.seeding import derive_generator
from hmr.policy.policy import DiffusionPolicy
from rl.config import RESAMPLE, GroupPreferenceConfig, check_loss_of_search
from rl.imitation import Imitation
from rl.labels.body_labels import BodyLabels
from rl.losses import LOSSES, log_ratio
from rl.monitoring.metrics import step_metrics
from rl.monitoring.spread_callback import SpreadCallback
from rl.preferences.tensors import GroupTensors, tensors_from_preferences
from rl.spread import HIGH_NOISE, X0Prediction, lost_spread, spread_ratio
from rl.trained_weights import TrainedWeights, freeze_all_but
from rl.types import ORIGIN

__all__ = [
    "CallbackFactory", "GroupPreferenceTrainer", "align", "draw_times", "draw_times_and_noise",
]  # fmt: skip

STATE_NAME = "alignment_state.safetensors"
Policy = TypeVar("Policy", bound=nn.Module)
ForwardInputs = tuple[Tensor, Tensor, Tensor, Tensor]  # condition, x0, timesteps, noise
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]


class GroupPreferenceTrainer(Trainer):
    """Trains `model` in place; after `train()` it holds the averaged weights.

    Datasets are rows of `load_preferences`, whose tensors are held in files without names in `args.output_dir`, 14 KB
    per image (G = 20) and process, or `GroupTensors`. Like every `transformers.Trainer`, it seeds the global
    generators with `args.seed` when it is created. Raises ValueError if the policy has no submodule `args.trainable`,
    or if no group of the training set has two different scores.
    """

    args: GroupPreferenceConfig

    def __init__(
        self,
        model: nn.Module,
        args: GroupPreferenceConfig,
        train_dataset: Dataset | GroupTensors,
        eval_dataset: Dataset | GroupTensors | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
    ) -> None:
        train_groups = _as_tensors(model, train_dataset, args)
        if not train_groups.mask.any():
            raise ValueError("there is nothing to learn: no group has two different scores")
        eval_groups = None if eval_dataset is None else _as_tensors(model, eval_dataset, args)
        adapters = freeze_all_but(model, args)
        super().__init__(
            model, args, None, train_groups, eval_groups, callbacks=callbacks, optimizers=optimizers
        )
        if self.is_deepspeed_enabled or (self.is_fsdp_enabled and (args.spread_weight or adapters)):
            raise ValueError("DeepSpeed is not supported, nor spread_weight or lora_rank under FSDP")
        self.loss_is_scaled_for_ga = True  # by `_get_num_items_in_batch`
        self.remove_callback(PrinterCallback)
        self.add_callback(FiniteWeights())
        self.add_callback(_EmaCallback(self))
        self.policy, self._adapters = model, adapters
        self.num_train_timesteps: int = cast(Any, model).config.num_train_timesteps
        self.weights = TrainedWeights(model, args.ema_decay)
        self.imitation = Imitation(model, args) if args.loss_type == RESAMPLE else None
        self.replay = _load_replay(model, args)
        self.prediction = X0Prediction(model) if args.spread_weight else None
        has_bodies = isinstance(model, DiffusionPolicy) and isinstance(train_dataset, Dataset)
        if args.spread_steps and has_bodies and not self.is_fsdp_enabled:
            policy, dataset = cast(DiffusionPolicy, model), cast(Dataset, train_dataset)
            self.add_callback(SpreadCallback(policy, dataset, args, self.averaged_weights, self.record))
        self._metrics = {prefix: defaultdict[str, list[Tensor]](list) for prefix in ("", "eval_")}

    # -- the step --------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch; with `return_outputs` also the errors of the policy, which `resample` has none of."""
        forward_inputs = self._forward_inputs(inputs)
        if self.imitation is not None:
            loss, terms = self.imitation.loss(inputs, self._generators(inputs, "drawn"), *forward_inputs[2:])
            self.record(terms)
            loss = self._scaled(loss, len(inputs["row"]), num_items_in_batch)
            return (loss, {}) if return_outputs else loss
        with torch.no_grad(), self.weights.as_reference():
            reference_error, reference_x0 = model(*forward_inputs), self._predicted_x0(inputs)
        error = model(*forward_inputs)
        if model.training and not error.requires_grad:
            raise ValueError(
                f"the loss does not depend on trainable {self.args.trainable!r}, so it cannot be trained"
            )
        ratio = log_ratio(error, reference_error, self.args.beta, self.args.trust_region)
        if model.training and self.state.global_step == 0:
            assert not ratio.detach().any(), "policy and reference differ at step 0: is dropout on?"
        settings = self.args.loss_settings()
        self.record(step_metrics(error, reference_error, ratio, inputs, settings))
        loss = LOSSES[self.args.loss_type](ratio, inputs["advantages"], inputs["mask"], settings)
        loss = loss + self._replay_loss(model, inputs) + self._spread_loss(inputs, reference_x0)
        loss = self._scaled(loss, len(error), num_items_in_batch)
        return (loss, {"error": error}) if return_outputs else loss

    def _scaled(self, loss: Tensor, images: int, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Processes are averaged, accumulated batches are added up."""
        if num_items_in_batch is None:
            return loss
        return loss * images * self.accelerator.num_processes / num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Number of images of one optimizer step, over all processes and accumulated batches."""
        images = torch.tensor(sum(len(batch["row"]) for batch in batch_samples), device=device)
        return cast(Tensor, self.accelerator.gather(images)).sum()

    def _forward_inputs(self, inputs: dict[str, Tensor]) -> ForwardInputs:
        shares = (self.args.min_timestep, self.args.max_timestep)
        times_and_noise = self._draw(self._generators(inputs), self.args.timesteps_per_group, shares)
        return inputs["condition"], inputs["x0"], *times_and_noise

    def _replay_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor | float:
        if self.replay is None:
            return 0.0
        generators = [
            generator
            for number in range(self.args.replay_per_image)
            for generator in self._generators(inputs, "replay", number)
        ]
        replay = self.replay.to(inputs["x0"].device)
        scenes = replay.draw(generators)
        times_and_noise = self._draw(generators, self.args.timesteps_per_group, (0.0, 1.0))
        error = model(replay.condition[scenes], replay.x0[scenes, None], *times_and_noise).float().mean()
        self.record({"denoise_loss/replay": error})
        return self.args.replay_weight * error

    def _predicted_x0(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Estimates of x_0 for the groups of a batch at high noise; None without a spread penalty."""
        if self.prediction is None:
            return None
        times_and_noise = self._draw(self._generators(inputs, "spread"), 1, HIGH_NOISE)
        return self.prediction(inputs["condition"], inputs["x0"], *times_and_noise)

    def _spread_loss(self, inputs: dict[str, Tensor], reference_x0: Tensor | None) -> Tensor | float:
        predicted_x0 = self._predicted_x0(inputs)
        if predicted_x0 is None or reference_x0 is None:
            return 0.0
        ratio = spread_ratio(predicted_x0, reference_x0)
        self.record({"spread_kept": ratio.mean()})
        return self.args.spread_weight * lost_spread(ratio, self.args.spread_floor)

    def _generators(self, inputs: dict[str, Tensor], *purpose: str | int) -> list[torch.Generator]:
        """One per image of a batch; every evaluation uses the same ones."""
        step = self.state.global_step if self.policy.training else "evaluation"
        return [derive_generator(self.args.seed, *purpose, step, row) for row in inputs["row"].tolist()]

    def _draw(
        self, generators: list[torch.Generator], count: int, shares: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        low, high = (round(share * self.num_train_timesteps) for share in shares)
        dim = cast(GroupTensors, self.train_dataset).x0.shape[-1]
        times, noise = draw_times_and_noise(generators, count, (low, high), dim)
        return times.to(self.args.device), noise.to(self.args.device)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def record(self, metrics: dict[str, Tensor], prefix: Literal["", "eval_"] | None = None) -> None:
        """Add scalars whose mean goes into the next log line, of training ("") or of evaluation ("eval_")."""
        recorded = self._metrics[self._prefix if prefix is None else prefix]
        for name, value in metrics.items():
            recorded[name].append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the recorded means to `logs` in place, so that the choice of the best checkpoint can use them."""
        for name, values in self._metrics[self._prefix].items():
            mean = cast(Tensor, self.accelerator.gather(torch.stack(values).nanmean())).nanmean()
            if not mean.isnan():
                logs[self._prefix + name] = mean.item()
        self._metrics[self._prefix].clear()
        super().log(logs, start_time)

    @property
    def _prefix(self) -> Literal["", "eval_"]:
        return "" if self.policy.training else "eval_"

    # -- averaged weights ------------------------------------------------------------------------------------

    def averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the model has its averaged weights."""
        return self.weights.as_average()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.averaged_weights():
            super().save_model(output_dir, _internal_call)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.weights.reset_average()

    def merge_adapters(self) -> None:
        """After training with LoRA: add the adapters to the weights of the policy and remove them."""
        for adapted in self._adapters:
            adapted.merge_and_unload()
        self._adapters = []

    # -- resuming --------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Also saves the three copies of the weights, before `trainer_state.json` marks the checkpoint as complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.weights.state_dict()
        if self.args.should_save:
            save_file(state, Path(output_dir, STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.weights.sync_parameters()
        self.weights.load_state_dict(load_file(Path(resume_from_checkpoint, STATE_NAME)))


class _EmaCallback(TrainerCallback):
    """Updates the average after each optimizer step and copies it to the model at the end."""

    def __init__(self, trainer: GroupPreferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.sync_parameters()
        self.trainer.weights.ema.optimization_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.copy_average_to_policy()


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Callable[[int], None]) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(1)


CallbackFactory = Callable[[GroupPreferenceTrainer], TrainerCallback]


def align(
    policy: Policy,
    dataset: Dataset | GroupTensors,
    args: GroupPreferenceConfig,
    progress: Callable[[int], None] | None = None,
    callbacks: Sequence[CallbackFactory] = (),
) -> Policy:
    """An aligned copy of `policy`, with the averaged weights and in evaluation mode; `policy` itself does not change.

    `progress` is called with 1 after every step. Each of `callbacks` is called with the trainer and returns a callback
    for it. `args.resume_from_checkpoint` continues an interrupted run.
    """
    trainer = GroupPreferenceTrainer(
        copy.deepcopy(policy), args, dataset, callbacks=[_ProgressCallback(progress)] if progress else None
    )
    for callback in callbacks:
        trainer.add_callback(callback(trainer))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.merge_adapters()
    aligned = cast(Policy, trainer.policy.requires_grad_(False).eval())
    if isinstance(dataset, Dataset):
        del trainer
        gc.collect()  # the trainer and its callbacks refer to each other; the files of the tensors go with them
    return aligned


def draw_times(count: int, bounds: tuple[int, int], generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` times in [low, high), one in each stratum of equal width. They are antithetic: neighbouring strata use
    the positions u and 1 - u."""
    low, high = bounds
    u = torch.rand((), generator=generator)
    positions = torch.where(torch.arange(count) % 2 == 0, u, 1 - u)
    times = low + (torch.arange(count) + positions) / count * (high - low)
    return times.long().clamp(low, high - 1)


def draw_times_and_noise(
    generators: Sequence[torch.Generator], count: int, bounds: tuple[int, int], dim: int
) -> tuple[Int[Tensor, "batch {count}"], Float[Tensor, "batch {count} {dim}"]]:
    """`count` times (`draw_times`) and as many noise vectors of `dim` numbers from each generator."""
    times = [draw_times(count, bounds, generator) for generator in generators]
    noise = [torch.randn(count, dim, generator=generator) for generator in generators]
    return torch.stack(times), torch.stack(noise)


def _as_tensors(
    policy: nn.Module, dataset: Dataset | GroupTensors, args: GroupPreferenceConfig
) -> GroupTensors:
    if isinstance(dataset, GroupTensors):
        return dataset
    if ORIGIN in dataset.column_names:
        check_loss_of_search(args.loss_type)
    return tensors_from_preferences(policy, dataset, args.advantage_settings(), args.output_dir)


def _load_replay(policy: nn.Module, args: GroupPreferenceConfig) -> BodyLabels | None:
    if not args.replay_weight:
        return None
    replay = BodyLabels.load(Path(cast(str, args.replay_file)))
    if isinstance(policy, DiffusionPolicy) and replay.estimate_digest != (
        own := policy.initial_estimate_digest()
    ):
        raise ValueError(
            f"{args.replay_file} was made by a policy with the initial estimate {replay.estimate_digest}, but this "
            f"policy has {own}"
        )
    return replay
