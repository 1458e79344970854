"""Aligns a diffusion policy with scored groups of its own hypotheses, offline, on `transformers.Trainer`.

arXiv 2602.19180, section 3.3, made safe (`rl/losses.py`). For each image of a batch and each of K times t,
one noise eps is shared by the whole group; L_theta and L_ref are the policy's denoising errors there, and
the loss weighs their difference by the group's advantages. One forward serves all B x G x K rows:
`policy(condition, x0, timesteps, noise)` -> errors, so that anything with this forward and
`config.num_train_timesteps` can be aligned.

The reference is not a second model but the old weights of the one submodule that is trained, put in its
place for one forward (`rl.reference`); with LoRA (`rl.lora`) those are the adapters as they began, whose product is zero.
Averaged weights (EMA) are what is evaluated and saved; a checkpoint also keeps the live and the reference
weights, so that a resumed run takes the same steps. Times and noise are drawn by (seed, step, row), hence the
same for every batch size, number of processes and interruption; a step's loss is the mean over all its images,
however they are divided.

Two terms may be added, replay (`rl.replay`) and a floor under the spread (`rl.spread`); each costs a forward pass.
FSDP shards the policy under the trainer's eyes (`rl.reference`): `train` and `save_model` work, watching the spread, the
floor under it and LoRA do not. Left out: reward functions, which `rl.preferences.build` calls; rounds, which are `rl.rounds`;
DeepSpeed.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from common.seeding import derive_generator
from hmr.policy.policy import DiffusionPolicy
from rl.config import GroupPreferenceConfig
from rl.lora import Adapters
from rl.losses import LOSSES, log_ratio
from rl.monitoring.metrics import step_metrics
from rl.monitoring.spread_callback import SpreadMonitor
from rl.noise import draw_times_and_noise
from rl.preferences.tensors import GroupTensors, features_of, tensors_from_preferences
from rl.reference import TrainedWeights
from rl.replay import Replay
from rl.scorers.hmr_scorer import encoder_digest
from rl.spread import HIGH_NOISE, X0Prediction, lost_spread, spread_kept

__all__ = ["GroupPreferenceTrainer", "Watch", "align", "check_trainable"]

STATE_NAME = "alignment_state.safetensors"
Policy = TypeVar("Policy", bound=nn.Module)
Query = tuple[Tensor, Tensor, Tensor, Tensor]  # condition, x0, timesteps and noise of a policy's forward
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]


class GroupPreferenceTrainer(Trainer):
    """`model` is trained in place; after `train()` it holds the averaged weights.

    Datasets are rows of `load_preferences`, or `GroupTensors`. Like every `transformers.Trainer`, it seeds
    the global generators with `args.seed` when it is made. Raises ValueError if the policy has no submodule
    `args.trainable` or if no group of the training set has anything to teach.
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
            raise ValueError("no group can teach anything: every score is missing or equal to its neighbours")
        eval_groups = None if eval_dataset is None else _as_tensors(model, eval_dataset, args)
        adapters = _freeze_all_but(model, args)
        super().__init__(
            model, args, None, train_groups, eval_groups, callbacks=callbacks, optimizers=optimizers
        )
        if self.is_deepspeed_enabled or (self.is_fsdp_enabled and (args.spread_weight or adapters)):
            raise ValueError("DeepSpeed is not supported, nor spread_weight or lora_rank under FSDP")
        self.loss_is_scaled_for_ga = True  # by `_get_num_items_in_batch`
        self.remove_callback(PrinterCallback)
        self.add_callback(_FollowWeights(self))
        self.policy, self._adapters = model, adapters
        self.num_train_timesteps: int = cast(Any, model).config.num_train_timesteps
        self.weights = TrainedWeights(model, args.ema_decay)
        self.replay = _load_replay(model, args)
        self.prediction = X0Prediction(model) if args.spread_weight else None
        watch = None if self.is_fsdp_enabled else _spread_watch(model, train_dataset, args)
        if watch is not None:
            self.add_callback(_SpreadCallback(self, watch))
        self._metrics: dict[str, dict[str, list[Tensor]]] = {
            "": defaultdict(list),
            "eval_": defaultdict(list),
        }

    # -- the step --------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch, and under `return_outputs` the errors of the policy as well."""
        query = self._query(inputs)
        with torch.no_grad(), self.weights.as_reference():
            reference_error, before = model(*query), self._predictions(inputs)
        error = model(*query)
        if model.training and not error.requires_grad:
            raise ValueError(
                f"the loss does not depend on trainable {self.args.trainable!r}: it would learn nothing"
            )
        ratio = log_ratio(error, reference_error, self.args.beta, self.args.trust_region)
        if model.training and self.state.global_step == 0:
            assert not ratio.detach().any(), "policy and reference differ at step 0: is dropout on?"
        settings = self.args.loss_settings()
        self.note(step_metrics(error, reference_error, ratio, inputs, settings))
        loss = LOSSES[self.args.loss_type](ratio, inputs["advantages"], inputs["mask"], settings)
        loss = loss + self._replay_term(model, inputs) + self._spread_term(inputs, before)
        if num_items_in_batch is not None:  # processes and accumulated batches are averaged and added up
            loss = loss * len(error) * self.accelerator.num_processes / num_items_in_batch
        return (loss, {"error": error}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Images of one optimizer step, over all processes and accumulated batches: the loss is a mean over them."""
        images = torch.tensor(sum(len(batch["row"]) for batch in batch_samples), device=device)
        return cast(Tensor, self.accelerator.gather(images)).sum()

    def _query(self, inputs: dict[str, Tensor]) -> Query:
        shares = (self.args.min_timestep, self.args.max_timestep)
        times_and_noise = self._draw(self._generators(inputs), self.args.timesteps_per_group, shares)
        return inputs["condition"], inputs["x0"], *times_and_noise

    def _replay_term(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor | float:
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
        self.note({"denoise_loss/replay": error})
        return self.args.replay_weight * error

    def _predictions(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Of the batch's groups at high noise; None where nothing is asked of them."""
        if self.prediction is None:
            return None
        times_and_noise = self._draw(self._generators(inputs, "spread"), 1, HIGH_NOISE)
        return self.prediction(inputs["condition"], inputs["x0"], *times_and_noise)

    def _spread_term(self, inputs: dict[str, Tensor], before: Tensor | None) -> Tensor | float:
        predictions = self._predictions(inputs)
        if predictions is None or before is None:
            return 0.0
        kept = spread_kept(predictions, before)
        self.note({"spread_kept": kept.mean()})
        return self.args.spread_weight * lost_spread(kept, self.args.spread_floor)

    def _generators(self, inputs: dict[str, Tensor], *purpose: str | int) -> list[torch.Generator]:
        """One for each image of a batch; evaluation always sees the same draws."""
        moment = self.state.global_step if self.policy.training else "evaluation"
        return [derive_generator(self.args.seed, *purpose, moment, row) for row in inputs["row"].tolist()]

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

    def note(self, metrics: dict[str, Tensor], prefix: Literal["", "eval_"] | None = None) -> None:
        """Scalars that the next line of the log, of training or of evaluation, tells the mean of."""
        noted = self._metrics[self._prefix if prefix is None else prefix]
        for name, value in metrics.items():
            noted[name].append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last call, in place, where the choice of the best checkpoint sees them."""
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
        """The model with its averaged weights, for the time of the block."""
        return self.weights.as_average()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.averaged_weights():
            super().save_model(output_dir, _internal_call)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.weights.average_is_live()

    def merge_adapters(self) -> None:
        """After training with LoRA: the policy without adapters, what they learned added to its weights."""
        if self._adapters is not None:
            self._adapters.merge()
            self._adapters = None

    # -- resuming --------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Beside the optimizer, and before `trainer_state.json`, which makes a checkpoint complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.weights.state()
        if self.args.should_save:
            save_file(state, Path(output_dir, STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.weights.follow()
        self.weights.load(load_file(Path(resume_from_checkpoint, STATE_NAME)))


class _FollowWeights(TrainerCallback):
    """Steps the average with the optimizer; at the end the model becomes its average."""

    def __init__(self, trainer: GroupPreferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.follow()
        self.trainer.weights.ema.optimization_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.weights.settle()


class _SpreadCallback(TrainerCallback):
    """Notes how wide the averaged policy's samples lie, first of all the base's."""

    def __init__(self, trainer: GroupPreferenceTrainer, watch: SpreadMonitor) -> None:
        self.trainer, self.watch = trainer, watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._look()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.spread_steps == 0:
            self._look()

    def _look(self) -> None:
        with self.trainer.averaged_weights():
            self.trainer.note(self.watch.measure(), "")


class _Progress(TrainerCallback):
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)


Watch = Callable[[GroupPreferenceTrainer], TrainerCallback]


def align(
    policy: Policy,
    dataset: Dataset | GroupTensors,
    args: GroupPreferenceConfig,
    progress: Callable[[int], None] | None = None,
    watches: Sequence[Watch] = (),
) -> Policy:
    """A copy of `policy`, aligned, with the averaged weights and in evaluation mode; `policy` itself is not
    touched.

    `progress` is called with 1 after every step; each of `watches` makes a callback of the trainer.
    `args.resume_from_checkpoint` takes an interrupted run up again.
    """
    trainer = GroupPreferenceTrainer(
        copy.deepcopy(policy), args, dataset, callbacks=[_Progress(progress)] if progress else None
    )
    for watch in watches:
        trainer.add_callback(watch(trainer))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.merge_adapters()
    return cast(Policy, trainer.policy.requires_grad_(False).eval())


def _as_tensors(
    policy: nn.Module, dataset: Dataset | GroupTensors, args: GroupPreferenceConfig
) -> GroupTensors:
    if isinstance(dataset, GroupTensors):
        return dataset
    return tensors_from_preferences(policy, dataset, args.advantage_settings())


def _load_replay(policy: nn.Module, args: GroupPreferenceConfig) -> Replay | None:
    if not args.replay_weight:
        return None
    replay = Replay.load(Path(cast(str, args.replay_file)))
    if isinstance(policy, DiffusionPolicy) and replay.eyes != (eyes := encoder_digest(policy)):
        raise ValueError(
            f"{args.replay_file} holds what the encoder {replay.eyes} saw; this policy's is {eyes}"
        )
    return replay


def _spread_watch(
    policy: nn.Module, dataset: Dataset | GroupTensors, args: GroupPreferenceConfig
) -> SpreadMonitor | None:
    """None where the policy cannot be watched, or where the set does not say where its crops lay."""
    if not (args.spread_steps and isinstance(policy, DiffusionPolicy) and isinstance(dataset, Dataset)):
        return None
    shown = dataset.select(range(min(args.spread_images, len(dataset))))
    return SpreadMonitor(policy, features_of(shown), len(dataset[0]["scores"]), args.seed)


def check_trainable(policy: nn.Module, trainable: str) -> None:
    """Raises ValueError unless it names a submodule that the loss reaches: groups hold what the encoder saw and the
    regression head guessed, so that of a `DiffusionPolicy` only the denoiser learns."""
    children = [name for name, _ in policy.named_modules() if name]
    if isinstance(policy, DiffusionPolicy):
        children = [name for name in children if name.partition(".")[0] == "denoiser"]
    if trainable not in children:
        raise ValueError(
            f"trainable must name a submodule of the policy that learns, such as {children[:5]}, not {trainable!r}"
        )


def _freeze_all_but(policy: nn.Module, args: GroupPreferenceConfig) -> Adapters | None:
    """Leaves gradients to what is trained alone: the submodule's own parameters, or adapters on it."""
    check_trainable(policy, args.trainable)
    policy.requires_grad_(False)
    submodule = policy.get_submodule(args.trainable)
    adapters = Adapters(submodule, args.lora_rank, args.seed) if args.lora_rank else None
    if adapters is None:
        submodule.requires_grad_(True)
    return adapters
