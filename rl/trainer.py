"""Aligns a diffusion policy with scored groups of its own hypotheses, offline, on `transformers.Trainer`.

arXiv 2602.19180, section 3.3, made safe (`rl/losses.py`). For each image of a batch and each of K times t,
one noise eps is shared by the whole group; L_theta and L_ref are the policy's denoising errors there, and
the loss weighs their difference by the group's advantages. One forward serves all B x G x K rows:
`policy(condition, x0, timesteps, noise)` -> errors, so that anything with this forward and
`config.num_train_timesteps` can be aligned.

The reference is not a second model but the old weights of the one submodule that is trained, put in its
place for one forward; with LoRA (`rl.lora`) those are the adapters as they began, whose product is zero.
Averaged weights (EMA) are what is evaluated and saved; a checkpoint also keeps the live and the reference
weights, so that a resumed run takes the same steps. Times and noise are drawn by (seed, step, row), hence the
same for every batch size, number of processes and interruption.

Left out: replay of labelled batches and reward functions; rounds are `rl.rounds`.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from datasets import Dataset
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PrinterCallback, Trainer, TrainerCallback

from rl.config import GroupPreferenceConfig
from rl.groups import Coordinates, GroupTensors, tensors_from_preferences
from rl.lora import Adapters
from rl.losses import LOSSES, log_ratio
from rl.metrics import step_metrics
from rl.seeding import derive_generator

__all__ = ["GroupPreferenceTrainer", "align", "draw_times"]

STATE_NAME = "alignment_state.safetensors"
Policy = TypeVar("Policy", bound=nn.Module)
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
        adapters, trained = _freeze_all_but(model, args)
        super().__init__(
            model, args, None, train_groups, eval_groups, callbacks=callbacks, optimizers=optimizers
        )
        self.loss_is_scaled_for_ga = False  # a mean over one batch: the Trainer divides by their number
        self.remove_callback(PrinterCallback)
        self.add_callback(_FollowWeights(self))
        self.policy, self._adapters = model, adapters
        self.num_train_timesteps: int = cast(Any, model).config.num_train_timesteps
        self.trained = trained
        self.reference = {name: tensor.detach().clone() for name, tensor in trained.items()}
        self.ema = EMAModel(trained.values(), decay=args.ema_decay, foreach=True)
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
        timesteps, noise = self._draw(inputs)
        query = (inputs["condition"], inputs["x0"], timesteps, noise)
        error = model(*query)
        with torch.no_grad():
            reference_error = functional_call(self.accelerator.unwrap_model(model), self.reference, query)
        ratio = log_ratio(error, reference_error, self.args.beta)
        if model.training and self.state.global_step == 0:
            assert not ratio.detach().any(), "policy and reference differ at step 0: is dropout on?"
        settings = self.args.loss_settings()
        for name, value in step_metrics(error, ratio, inputs, settings).items():
            self._metrics[self._prefix][name].append(value)
        loss = LOSSES[self.args.loss_type](ratio, inputs["advantages"], inputs["mask"], settings)
        return (loss, {"error": error}) if return_outputs else loss

    def _draw(
        self, inputs: dict[str, Tensor]
    ) -> tuple[Int[Tensor, "batch steps"], Float[Tensor, "batch steps dim"]]:
        """Times and noise of a batch; evaluation always sees the same ones."""
        moment = self.state.global_step if self.policy.training else "evaluation"
        shares = (self.args.min_timestep, self.args.max_timestep)
        low, high = (round(share * self.num_train_timesteps) for share in shares)
        draws = []
        for row in inputs["row"].tolist():
            generator = derive_generator(self.args.seed, moment, row)
            times = draw_times(self.args.timesteps_per_group, (low, high), generator)
            draws.append((times, torch.randn(len(times), inputs["x0"].shape[-1], generator=generator)))
        times, noise = (torch.stack(column).to(inputs["x0"].device) for column in zip(*draws, strict=True))
        return times, noise

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

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The model with its averaged weights, for the time of the block."""
        self.ema.store(self.trained.values())
        self.ema.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.ema.restore(self.trained.values())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self.averaged_weights():
            super()._save(output_dir, state_dict)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.ema.shadow_params = [tensor.detach().clone() for tensor in self.trained.values()]

    def merge_adapters(self) -> None:
        """After training with LoRA: the policy without adapters, what they learned added to its weights."""
        if self._adapters is not None:
            self._adapters.merge()
            self._adapters = None

    # -- resuming --------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Beside the optimizer, and before `trainer_state.json`, which makes a checkpoint complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            kinds = {"live": self.trained, "reference": self.reference, "average": self._averages()}
            state = {
                f"{kind}/{name}": tensor for kind, some in kinds.items() for name, tensor in some.items()
            }
            save_file(state, Path(output_dir, STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = load_file(Path(resume_from_checkpoint, STATE_NAME))
        with torch.no_grad():
            for name, average in self._averages().items():
                self.trained[name].copy_(state[f"live/{name}"])
                self.reference[name].copy_(state[f"reference/{name}"])
                average.copy_(state[f"average/{name}"])

    def _averages(self) -> dict[str, Tensor]:
        return dict(zip(self.trained, self.ema.shadow_params, strict=True))


class _FollowWeights(TrainerCallback):
    """Steps the average with the optimizer; at the end the model becomes its average."""

    def __init__(self, trainer: GroupPreferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.ema.optimization_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.ema.step(self.trainer.trained.values())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.ema.copy_to(self.trainer.trained.values())


class _Progress(TrainerCallback):
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)


def draw_times(count: int, bounds: tuple[int, int], generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` times in [low, high), one in each equal stratum; neighbours mirror each other's place in
    theirs."""
    low, high = bounds
    place = torch.rand((), generator=generator)
    places = torch.where(torch.arange(count) % 2 == 0, place, 1 - place)
    times = low + (torch.arange(count) + places) / count * (high - low)
    return times.long().clamp(low, high - 1)


def align(
    policy: Policy,
    dataset: Dataset | GroupTensors,
    args: GroupPreferenceConfig,
    progress: Callable[[int], None] | None = None,
) -> Policy:
    """A copy of `policy`, aligned, with the averaged weights and in evaluation mode; `policy` itself is not
    touched.

    `progress` is called with 1 after every step. `args.resume_from_checkpoint` takes an interrupted run up
    again.
    """
    trainer = GroupPreferenceTrainer(
        copy.deepcopy(policy), args, dataset, callbacks=[_Progress(progress)] if progress else None
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.merge_adapters()
    return cast(Policy, trainer.policy.requires_grad_(False).eval())


def _as_tensors(
    policy: nn.Module, dataset: Dataset | GroupTensors, args: GroupPreferenceConfig
) -> GroupTensors:
    if isinstance(dataset, GroupTensors):
        return dataset
    return tensors_from_preferences(
        cast(Coordinates, policy), dataset, args.advantage_clip, args.min_group_std
    )


def _freeze_all_but(
    policy: nn.Module, args: GroupPreferenceConfig
) -> tuple[Adapters | None, dict[str, nn.Parameter]]:
    """The parameters that are trained, by their names in the policy: the submodule's own, or adapters on it."""
    trainable = args.trainable
    children = [name for name, _ in policy.named_modules() if name]
    if trainable not in children:
        raise ValueError(
            f"trainable must name a submodule of the policy, such as {children[:5]}, not {trainable!r}"
        )
    policy.requires_grad_(False)
    submodule = policy.get_submodule(trainable)
    adapters = Adapters(submodule, args.lora_rank, args.seed) if args.lora_rank else None
    if adapters is None:
        submodule.requires_grad_(True)
    return adapters, {name: tensor for name, tensor in policy.named_parameters() if tensor.requires_grad}
