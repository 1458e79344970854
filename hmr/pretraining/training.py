"""Pretraining of the policy on labelled `lab` scenes, in two stages.

The first stage trains everything from pixels: one pass of the encoder per image feeds its heads (keypoints, visibility,
mask), the regression head, and the denoiser at several times at once. In the second stage the encoder is frozen:
encoding an image costs fifty times as much as a denoising step on its features, so the features are stored and used for
many steps of the denoiser and the regression head. The denoiser starts from the Gaussian of the head's errors on
held-out scenes (`hmr.policy.policy`). The losses are in `hmr.pretraining.losses`.

    OUT/made_from.json                        fingerprint (`hmr.pretraining.recipe`); a run with another one is refused
    OUT/see, OUT/pose                         checkpoints of both stages, from which a killed run resumes
    OUT/config.json, OUT/model.safetensors    the policy, EMA weights in float16
    OUT/training.json                         the recipe and the curves; written last, so its presence means finished

transformers.Trainer provides bf16, resuming, accumulation and several processes. All processes share the folders, the
first one draws scenes and writes, and each has its own noise. Every process computes all features of the second stage.
Left out: sharing that work, and sharding the model, which is small.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from common.files import PathLike, write_text
from common.fingerprint import claim_run
from common.resume import has_ended, last_whole_checkpoint
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy, save_compact
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.augmentation import as_floats, augment
from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.pretraining.ema import FILE as EMA_FILE
from hmr.pretraining.ema import EmaCallback
from hmr.pretraining.losses import EncoderAndPoseLoss, PoseLoss
from hmr.pretraining.recipe import PretrainConfig, read_config, run_fingerprint, stage_arguments
from hmr.pretraining.sampler import WeightedRows, rarity_m

__all__ = ["FeatureDataset", "PretrainConfig", "pretrain", "read_config", "run_stage"]

ENCODE_BATCH = 128
CHANGEABLE = ("mirror_look", "noise_temperature", "solver", "num_inference_steps")  # do not change a shape
HISTORY = "training.json"
OUTPUTS = ("see/checkpoint-*", "pose/checkpoint-*", "model.safetensors", HISTORY)
Progress = Callable[[str, int, int], None]


def pretrain(
    config: PretrainConfig,
    out: PathLike,
    cache: PathLike,
    workers: int = 2,
    progress: Progress | None = None,
) -> DiffusionPolicy:
    """Draw the crops under `cache`, train, and save the policy in `out`.

    A killed run resumes from its newest checkpoint, with the same result as an uninterrupted one. The policy of a
    finished run is loaded.

    progress: receives a title, the number of scenes drawn and their total.

    Raises ValueError for values that the policy, its encoder or transformers refuses, and if `out` holds another run;
    FileNotFoundError for a missing folder. Both are raised before anything is drawn.
    """
    out = Path(out)
    body, policy = load_body(), _starting_policy(config)
    times, first_stage = config.first_stage_times_per_image, None
    if config.training:
        first_stage = EncoderAndPoseLoss(policy, body, config.losses, times, config.frozen_layers)
    for fields in (config.training, config.refining):
        if fields:
            stage_arguments(config, fields, out)
    with PartialState().main_process_first():
        claim_run(out, run_fingerprint(config, policy, PartialState().num_processes), OUTPUTS)
        finished = (out / HISTORY).exists()
    if finished:
        return load_policy(out)
    with PartialState().main_process_first():  # the others find the finished crops
        train_set, test_set = (
            _crop_dataset(config.crops(policy.config, held_out=held_out), cache, workers, progress)
            for held_out in (False, True)
        )
    train_set.mirrored = True
    if config.start_from is None:
        policy.fit_to(body, *train_set.statistics(config.min_std))
    history = {}
    if first_stage is not None:
        sets = train_set, test_set
        history["see and pose"] = run_stage(first_stage, config, config.training, sets, out / "see")
        if config.wise_ft_alpha:
            interpolate_weights(policy, _starting_policy(config), config.wise_ft_alpha)
    if config.refining:
        history["pose"] = _refine(policy, body, config, (train_set, test_set), out / "pose")
    if PartialState().is_main_process:
        _save(policy, {"config": dataclasses.asdict(config), **history}, out)
    PartialState().wait_for_everyone()
    return load_policy(out)


def _starting_policy(config: PretrainConfig) -> DiffusionPolicy:
    if config.start_from is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # the same initial weights in every process and run
            return DiffusionPolicy(DiffusionPolicyConfig(**config.policy))
    policy = load_policy(Path(config.start_from)).float()
    for key, value in config.policy.items():
        if key in CHANGEABLE:
            setattr(policy.config, key, value)
        elif (current := getattr(policy.config, key)) != value:
            raise ValueError(f"{config.start_from} has {key} {current}, the recipe has {value}")
    return policy.requires_grad_(True)


@torch.no_grad()
def interpolate_weights(policy: DiffusionPolicy, start: DiffusionPolicy, alpha: float) -> None:
    """Set `policy` to (1 - alpha) policy + alpha start, weights and statistics alike.

    Interpolated policies keep much of both the new and the old training (WiSE-FT, arXiv 2109.01903).
    """
    old = start.state_dict()
    for name, tensor in policy.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(old[name].to(tensor), alpha)


def _crop_dataset(crops: CropCache, cache: PathLike, workers: int, progress: Progress | None) -> CropDataset:
    report = (lambda done: progress("drawing scenes", done, crops.count)) if progress else None
    return CropDataset(make_crops(crops, cache, workers, report))


def _refine(
    policy: DiffusionPolicy,
    body: Body,
    config: PretrainConfig,
    crops: tuple[CropDataset, CropDataset],
    folder: Path,
) -> dict[str, Any]:
    """The second stage."""
    policy.encoder.requires_grad_(False)
    train_set = Subset(crops[0], range(min(config.refining_rows, len(crops[0]))))
    sets = (
        FeatureDataset(policy, train_set, config.seed),
        FeatureDataset(policy, crops[1], config.seed + 1),
    )
    policy.fit_initial_estimate(sets[1].columns["features"], sets[1].columns["vector"])
    module = PoseLoss(policy, body, config.losses, config.times_per_image)
    return run_stage(module, config, config.refining, sets, folder)


def _save(policy: DiffusionPolicy, history: dict[str, Any], out: Path) -> None:
    save_compact(policy, out)
    write_text(out / HISTORY, json.dumps(history, indent=1))


def run_stage(
    module: PoseLoss,
    config: PretrainConfig,
    training: dict[str, Any],
    sets: tuple[CropDataset | FeatureDataset, CropDataset | FeatureDataset],
    folder: Path,
) -> dict[str, Any]:
    """Train one stage; the module ends with the averaged weights. Returns the held-out loss and the log."""
    arguments = stage_arguments(config, training, folder)
    ema = EmaCallback(module, config.ema_decay)
    trainer = WeightedTrainer(
        module, arguments, train_dataset=sets[0], eval_dataset=sets[1], callbacks=[ema, SeededNoise()]
    )
    trainer.rows = _weighted_rows(sets[0], config) if config.rarity else None
    checkpoint = last_whole_checkpoint(folder, EMA_FILE)
    if checkpoint is not None and has_ended(Path(checkpoint)):
        trainer.load_finished(Path(checkpoint))
        ema.load(Path(checkpoint), trainer.state.global_step)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    ema.finish()
    _synchronize(module)
    torch.manual_seed(config.seed)  # the held-out loss draws noise, the same in a resumed run
    return {"held_out": trainer.evaluate(), "log": trainer.state.log_history}


def _synchronize(module: PoseLoss) -> None:
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


class WeightedTrainer(Trainer):
    """Draws its training rows with the sampler `rows`."""

    rows: WeightedRows | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.rows is None else self.rows

    def load_finished(self, checkpoint: Path) -> None:
        """Load weights, step and log of a finished run."""
        cast(nn.Module, self.model).load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME))
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.global_step, self.state.epoch = state.global_step, state.epoch
        self.state.log_history = state.log_history


def _weighted_rows(rows: CropDataset | FeatureDataset, config: PretrainConfig) -> WeightedRows:
    rarity = rarity_m(rows.vectors, load_body(), torch.Generator().manual_seed(config.seed))
    return WeightedRows(rarity**config.rarity, config.seed)


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Encoder features of every crop, and the targets of the pose losses, in memory."""

    TARGETS = ("vector", "geometry", "keypoints")

    def __init__(
        self, policy: DiffusionPolicy, crops: Dataset[dict[str, Tensor]], augmented: int | None = None
    ) -> None:
        """augmented: seed with which every crop is augmented once (`hmr.pretraining.augmentation`); None: no change."""
        generator = None if augmented is None else torch.Generator().manual_seed(augmented)
        batches = []
        for loaded in DataLoader(crops, ENCODE_BATCH):
            batch = as_floats(loaded)
            if generator is not None:
                batch = augment(batch, generator)
            targets = {name: batch[name] for name in self.TARGETS}
            batches.append({"features": _features(policy, batch), **targets})
        self.columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def __len__(self) -> int:
        return len(self.columns["vector"])

    @property
    def vectors(self) -> Float[Tensor, "rows 157"]:
        """Target vectors of all rows."""
        return self.columns["vector"]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


@torch.no_grad()
def _features(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
    with torch.autocast(policy.device.type, torch.bfloat16):  # as in the first stage, in half the time
        output = policy.encode_crops(batch["crops"].to(policy.device))
    return policy.encoder_features(output, batch["geometry"].to(policy.device)).cpu()
