"""Pretraining: the policy learns to see and to pose on labelled `lab` scenes, in two stages.

First all together from pixels: one pass of the encoder an image feeds its own heads (keypoints, visibility, mask),
the regression head, and the denoiser at several times at once. Then the encoder rests: encoding an image costs fifty
times what a denoising step on its features does, so features are kept, and the denoiser, with the regression head that
it is compared to, sees them many times over; it starts from the Gaussian that the head's errors on held-out scenes make
(hmr.policy.policy). The losses are in `hmr.pretraining.losses`.

    OUT/made_from.json                        what the run is made of (hmr.pretraining.recipe); another is refused here
    OUT/see, OUT/pose                         the checkpoints of both stages, at which a killed run goes on
    OUT/config.json, OUT/model.safetensors    the policy, EMA weights in float16
    OUT/training.json                         the recipe and the curves; written last: a run that has it is done

Run by transformers.Trainer, so that bf16, resume, accumulation and several processes are its own. Of those the first
draws and writes, all share the folders, and each has noise of its own. Every process sees all features of the second
stage; left out are sharing that work, and sharding a model that fits anywhere.
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

from common.fingerprint import claim_run
from common.resume import has_ended, last_whole_checkpoint
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy, save_compact
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.augmentation import as_floats, augment
from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.pretraining.ema import FILE as EMA_FILE
from hmr.pretraining.ema import EmaCallback
from hmr.pretraining.losses import EncoderAndPoseLoss, Pose
from hmr.pretraining.recipe import PretrainConfig, read_config, run_fingerprint, stage_arguments
from hmr.pretraining.sampler import WeightedRows, rarity_m

__all__ = ["FeatureDataset", "PretrainConfig", "pretrain", "read_config", "run_stage"]

ENCODE_BATCH = 128
FREE = ("mirror_look", "noise_temperature", "solver", "num_inference_steps")  # they change no shape
HISTORY = "training.json"
LEFT = ("see/checkpoint-*", "pose/checkpoint-*", "model.safetensors", HISTORY)
Progress = Callable[[str, int, int], None]


def pretrain(
    config: PretrainConfig, out: Path, cache: Path, workers: int = 2, progress: Progress | None = None
) -> DiffusionPolicy:
    """Make the crops, train, leave the policy in `out`. A killed run goes on at the newest checkpoint of its stage and
    ends where an unbroken one does; a run that is done is read.

    Raises ValueError for values that the policy, its encoder or transformers refuses, and where `out` holds another
    run; FileNotFoundError for a folder that is not there. Both before anything is drawn.
    """
    body, policy = load_body(), _starting_policy(config)
    see = (
        EncoderAndPoseLoss(policy, body, config.losses, config.times_while_seeing, config.resting)
        if config.training
        else None
    )
    for fields in (config.training, config.refining):
        if fields:
            stage_arguments(config, fields, out)
    with PartialState().main_process_first():
        claim_run(out, run_fingerprint(config, policy, PartialState().num_processes), LEFT)
        done = (out / HISTORY).exists()
    if done:
        return load_policy(out)
    with PartialState().main_process_first():  # the others find the crops made
        train_set, test_set = (
            _drawn(config.crops(policy.config, held_out=held_out), cache, workers, progress)
            for held_out in (False, True)
        )
    train_set.mirrored = True
    if config.start_from is None:
        policy.fit_to(body, *train_set.statistics(config.min_std))
    history = {}
    if see is not None:
        history["see and pose"] = run_stage(see, config, config.training, (train_set, test_set), out / "see")
        if config.kept_of_start:
            interpolate_weights(policy, _starting_policy(config), config.kept_of_start)
    if config.refining:
        history["pose"] = _refined(policy, body, config, (train_set, test_set), out / "pose")
    if PartialState().is_main_process:
        _keep(policy, {"config": dataclasses.asdict(config), **history}, out)
    PartialState().wait_for_everyone()
    return load_policy(out)


def _starting_policy(config: PretrainConfig) -> DiffusionPolicy:
    if config.start_from is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # so every process, and every run, begins with the same weights
            return DiffusionPolicy(DiffusionPolicyConfig(**config.policy))
    policy = load_policy(Path(config.start_from)).float()
    for key, value in config.policy.items():
        if key in FREE:
            setattr(policy.config, key, value)
        elif (kept := getattr(policy.config, key)) != value:
            raise ValueError(f"{config.start_from} has {key} {kept}, the experiment says {value}")
    return policy.requires_grad_(True)


@torch.no_grad()
def interpolate_weights(policy: DiffusionPolicy, start: DiffusionPolicy, share: float) -> None:
    """Weights and statistics of `policy` move so far of the way back to those it came from.

    Between both ends lie policies that know the new and have not forgotten the old (WiSE-FT, arXiv 2109.01903).
    """
    old = start.state_dict()
    for name, tensor in policy.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(old[name].to(tensor), share)


def _drawn(wanted: CropCache, cache: Path, workers: int, progress: Progress | None) -> CropDataset:
    report = (lambda done: progress("drawing scenes", done, wanted.count)) if progress else None
    return CropDataset(make_crops(wanted, cache, workers, report))


def _refined(
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
    module = Pose(policy, body, config.losses, config.times_per_image)
    return run_stage(module, config, config.refining, sets, folder)


def _keep(policy: DiffusionPolicy, history: dict[str, Any], out: Path) -> None:
    save_compact(policy, out)
    partial = out / f"{HISTORY}.partial"
    partial.write_text(json.dumps(history, indent=1))
    partial.replace(out / HISTORY)


def run_stage(
    module: Pose,
    config: PretrainConfig,
    training: dict[str, Any],
    sets: tuple[CropDataset | FeatureDataset, CropDataset | FeatureDataset],
    folder: Path,
) -> dict[str, Any]:
    """One stage; the module holds the averaged weights afterwards. Returns the held-out loss and the log."""
    arguments = stage_arguments(config, training, folder)
    ema = EmaCallback(module, config.ema_decay)
    trainer = WeightedTrainer(
        module, arguments, train_dataset=sets[0], eval_dataset=sets[1], callbacks=[ema, SeededNoise()]
    )
    trainer.rows = _drawn_rows(sets[0], config) if config.rarity else None
    checkpoint = last_whole_checkpoint(folder, EMA_FILE)
    if checkpoint is not None and has_ended(Path(checkpoint)):
        trainer.take(Path(checkpoint))
        ema.load(Path(checkpoint), trainer.state.global_step)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    ema.finish()
    _level(module)
    torch.manual_seed(config.seed)  # the held-out loss draws noise: a resumed run draws the same
    return {"held_out": trainer.evaluate(), "log": trainer.state.log_history}


def _level(module: Pose) -> None:
    """Every process goes on with what the first one has: running statistics are of a process's own batches."""
    tensors = list(module.state_dict().values())
    for tensor, first in zip(tensors, cast(list[Tensor], broadcast(tensors)), strict=True):
        tensor.copy_(first)


class SeededNoise(TrainerCallback):
    """Processes draw different noise, for the trainer seeds them all alike; a resumed run has each one's own state."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.process_index and not state.global_step:
            torch.manual_seed(args.seed + args.process_index)


class WeightedTrainer(Trainer):
    """Shows its training rows as `rows` draws them."""

    rows: WeightedRows | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.rows is None else self.rows

    def take(self, checkpoint: Path) -> None:
        """What a run that ended left: weights, step and log."""
        cast(nn.Module, self.model).load_state_dict(load_file(checkpoint / SAFE_WEIGHTS_NAME))
        left = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.global_step, self.state.epoch = left.global_step, left.epoch
        self.state.log_history = left.log_history


def _drawn_rows(rows: CropDataset | FeatureDataset, config: PretrainConfig) -> WeightedRows:
    rare = rarity_m(rows.vectors, load_body(), torch.Generator().manual_seed(config.seed))
    return WeightedRows(rare**config.rarity, config.seed)


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """What a policy's encoder saw of every crop, and what posing is taught there, in memory."""

    KEPT = ("vector", "geometry", "keypoints")

    def __init__(
        self, policy: DiffusionPolicy, crops: Dataset[dict[str, Tensor]], augmented: int | None = None
    ) -> None:
        """`augmented`: a seed, from which every crop becomes one other photograph (hmr.pretraining.augmentation)."""
        generator = None if augmented is None else torch.Generator().manual_seed(augmented)
        batches = []
        for loaded in DataLoader(crops, ENCODE_BATCH):
            batch = as_floats(loaded)
            if generator is not None:
                batch = augment(batch, generator)
            kept = {name: batch[name] for name in self.KEPT}
            batches.append({"features": _features(policy, batch), **kept})
        self.columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def __len__(self) -> int:
        return len(self.columns["vector"])

    @property
    def vectors(self) -> Float[Tensor, "rows 157"]:
        """Every row's truth."""
        return self.columns["vector"]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


@torch.no_grad()
def _features(policy: DiffusionPolicy, batch: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
    with torch.autocast(policy.device.type, torch.bfloat16):  # as the first stage saw, in half the time
        seen = policy.encode_crops(batch["crops"].to(policy.device))
    return policy.seen_features(seen, batch["geometry"].to(policy.device)).cpu()
