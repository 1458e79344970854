"""Pretraining: the policy learns to see and to pose on labelled `lab` scenes, in two stages.

First all together from pixels: one pass of the encoder an image feeds its own heads (keypoints, visibility, mask),
the regression head, and the denoiser at several times at once. Then the encoder rests: encoding an image costs fifty
times what a denoising step on its features does, so features are kept, and the denoiser, with the regression head that
it is compared to, sees them many times over; it starts from the Gaussian that the head's errors on held-out scenes make
(hmr.policy). The losses are in `hmr.pretrain_losses`.

Run by transformers.Trainer, so that bf16, resume, accumulation and several processes are its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import Trainer, TrainingArguments

from hmr.body import load_body
from hmr.checkpoint import load_policy, save_compact
from hmr.data.augment import as_floats, augment
from hmr.data.crops import CropCache, CropDataset, make_crops
from hmr.data.rare_poses import WeightedRows, rarity_m
from hmr.data.recipe import RECIPES
from hmr.ema import FILE as EMA_FILE
from hmr.ema import EmaCallback
from hmr.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretrain_losses import LossWeights, Pose, SeeAndPose
from hmr.resume import last_whole_checkpoint
from hmr.yaml_file import read_fields

__all__ = ["FeatureDataset", "PretrainConfig", "pretrain", "read_config", "run_stage"]

ENCODE_BATCH = 128
FREE = ("mirror_look", "noise_temperature", "solver", "num_inference_steps")  # they shape no weights
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PretrainConfig:
    """One experiment; `configs/pretrain_tiny.yaml` is the shipped checkpoint's."""

    recipe: str = "lab"
    start_from: str | None = (
        None  # a checkpoint folder to go on from; its architecture and coordinates are kept
    )
    scenes: int = 40_000
    held_out: int = 1_000
    seed: int = 1
    times_per_image: int = 8
    times_while_seeing: int = (
        2  # the same in the first stage, where a picture costs more than a step of denoising
    )
    resting: tuple[
        str, ...
    ] = ()  # parts of the encoder that the first stage leaves as they are: stem, fine ...
    rarity: float = 0.0  # rows are drawn in proportion to this power of how rare their pose is
    min_std: float = 0.05  # of a standardised target, so that joints that hardly move do not amplify noise
    ema_decay: float = 0.999
    policy: dict[str, Any] = field(default_factory=dict)
    losses: LossWeights = field(default_factory=LossWeights)
    training: dict[str, Any] = field(
        default_factory=dict
    )  # transformers.TrainingArguments of the first stage; empty: no such stage
    refining_rows: int = 80_000  # of the crops and their twins, whose features the second stage keeps
    refining: dict[str, Any] = field(default_factory=dict)  # and of the second, likewise


def read_config(path: Path, **changes: Any) -> PretrainConfig:
    """The file's experiment, with `changes` made to it. Raises what `hmr.yaml_file.read_fields` raises."""
    allowed = {item.name for item in dataclasses.fields(PretrainConfig)}
    values = {**read_fields(path, allowed), **changes}
    values["losses"] = LossWeights(**values.get("losses", {}))
    values["resting"] = tuple(values.get("resting", ()))
    return PretrainConfig(**values)


def pretrain(
    config: PretrainConfig, out: Path, cache: Path, workers: int = 2, progress: Progress | None = None
) -> DiffusionPolicy:
    """Make the crops, train, leave the EMA weights in `out`: config.json, model.safetensors (float16), training.json.

    Resumes from the newest checkpoint of its stage under `out`.
    """
    body = load_body()
    policy = _starting_policy(config)
    train_set, test_set = (
        _crops(config, cache, policy, seed, count, workers, progress)
        for seed, count in ((config.seed, config.scenes), (config.seed + 1_000_000, config.held_out))
    )
    train_set.mirrored = True
    if config.start_from is None:
        policy.fit_to(body, *train_set.statistics(config.min_std))
    history = {}
    if config.training:
        module = SeeAndPose(policy, body, config.losses, config.times_while_seeing, config.resting)
        history["see and pose"] = run_stage(
            module, config, config.training, (train_set, test_set), out / "see"
        )
    if config.refining:
        policy.encoder.requires_grad_(False)
        train_set = Subset(train_set, range(min(config.refining_rows, len(train_set))))
        sets = (
            FeatureDataset(policy, train_set, config.seed),
            FeatureDataset(policy, test_set, config.seed + 1),
        )
        policy.fit_guess(sets[1].columns["features"], sets[1].columns["vector"])
        module = Pose(policy, body, config.losses, config.times_per_image)
        history["pose"] = run_stage(module, config, config.refining, sets, out / "pose")
    save_compact(policy, out)
    (out / "training.json").write_text(
        json.dumps({"config": dataclasses.asdict(config), **history}, indent=1)
    )
    return load_policy(out)


def _starting_policy(config: PretrainConfig) -> DiffusionPolicy:
    if config.start_from is None:
        return DiffusionPolicy(DiffusionPolicyConfig(**config.policy))
    policy = load_policy(Path(config.start_from)).float()
    for key, value in config.policy.items():
        if key in FREE:
            setattr(policy.config, key, value)
        elif (kept := getattr(policy.config, key)) != value:
            raise ValueError(f"{config.start_from} has {key} {kept}, the experiment says {value}")
    return policy.requires_grad_(True)


def run_stage(
    module: Pose,
    config: PretrainConfig,
    training: dict[str, Any],
    sets: tuple[CropDataset | FeatureDataset, CropDataset | FeatureDataset],
    folder: Path,
) -> dict[str, Any]:
    """One stage; the module holds the averaged weights afterwards. Returns the held-out loss and the log."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        remove_unused_columns=False,
        label_names=["vector"],  # tells Trainer that an evaluation has a loss
        prediction_loss_only=True,
        **training,
    )
    ema = EmaCallback(module, config.ema_decay)
    trainer = WeighingTrainer(module, arguments, train_dataset=sets[0], eval_dataset=sets[1], callbacks=[ema])
    trainer.rows = _drawn_rows(sets[0], config) if config.rarity else None
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder, EMA_FILE))
    ema.finish()
    return {"held_out": trainer.evaluate(), "log": trainer.state.log_history}


class WeighingTrainer(Trainer):
    """Shows its training rows as `rows` draws them."""

    rows: WeightedRows | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.rows is None else self.rows


def _drawn_rows(rows: CropDataset | FeatureDataset, config: PretrainConfig) -> WeightedRows:
    rare = rarity_m(rows.vectors, load_body(), torch.Generator().manual_seed(config.seed))
    return WeightedRows(rare**config.rarity, config.seed)


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """What a policy's encoder saw of every crop, and what posing is taught there, in memory."""

    KEPT = ("vector", "geometry", "keypoints")

    def __init__(
        self, policy: DiffusionPolicy, crops: Dataset[dict[str, Tensor]], augmented: int | None = None
    ) -> None:
        """`augmented`: a seed, from which every crop becomes one other photograph (hmr.data.augment)."""
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
        seen = policy.look(batch["crops"].to(policy.device))
    return policy.seen_features(seen, batch["geometry"].to(policy.device)).cpu()


def _crops(
    config: PretrainConfig,
    cache: Path,
    policy: DiffusionPolicy,
    seed: int,
    count: int,
    workers: int,
    progress: Progress | None,
) -> CropDataset:
    wanted = CropCache(RECIPES[config.recipe], seed, count, policy.config.crop_size, policy.config.crop_scale)
    report = (lambda done: progress("drawing scenes", done, count)) if progress else None
    return CropDataset(make_crops(wanted, cache, workers, report))
