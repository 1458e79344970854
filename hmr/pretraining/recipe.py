"""What a pretraining run can be told, one YAML file an experiment, and what of it shapes the weights.

Names, types and seeds are looked at when a recipe is read; what transformers says of its values is heard before a scene
is drawn.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from common.yaml_fields import checked_fields, read_fields
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.crop_cache import CropCache
from hmr.pretraining.losses import LossWeights
from hmr.synthetic.recipe import RECIPES
from hmr.synthetic.splits import SPLITS
from hmr.synthetic.store import fingerprint

__all__ = ["PretrainConfig", "read_config", "run_fingerprint", "stage_arguments"]

HELD_OUT = 1_000_000  # from the seed of the training scenes to that of the held-out ones
OURS = {
    "output_dir", "seed", "remove_unused_columns", "label_names", "prediction_loss_only", "resume_from_checkpoint",
}  # fmt: skip
# how a run is fed, told of and kept. How often it is evaluated is not among them: that draws noise as training does.
FREE_ARGUMENTS = {
    "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_timeout", "disable_tqdm", "log_level",
    "log_level_replica", "logging_first_step", "logging_steps", "logging_strategy", "report_to", "run_name",
    "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
AT_LEAST = {
    "scenes": 1, "held_out": 1, "seed": 0, "times_per_image": 1, "times_while_seeing": 1, "refining_rows": 1,
    "rarity": 0,
}  # fmt: skip


@dataclass(frozen=True)
class PretrainConfig:
    """One experiment; `configs/pretrain_tiny.yaml` is the shipped checkpoint's.

    Raises ValueError for a field of a section that is not there or has another type, and for a seed that draws the
    scenes of a split that is not for pretraining.
    """

    recipe: str = "lab"
    motion: str | None = None  # a folder of AMASS npz files in place of the built-in poses
    backdrops: str | None = None  # a folder of photographs without people in place of painted walls
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
    kept_of_start: float = 0.0  # weights end this far back towards those gone on from, after the first stage
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

    def __post_init__(self) -> None:
        checked_fields(
            "policy", self.policy, _fields_of(DiffusionPolicyConfig.__init__, {"kwargs", "return"})
        )
        told = f"the fields of transformers.TrainingArguments but for {', '.join(sorted(OURS))}"
        for stage in ("training", "refining"):
            checked_fields(stage, getattr(self, stage), _fields_of(TrainingArguments, OURS), told)
        for name, least in AT_LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if self.min_std <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"min_std must be above 0 and ema_decay in [0, 1), not {self.min_std} and {self.ema_decay}"
            )
        if not 0 <= self.kept_of_start <= (1 if self.start_from else 0):
            raise ValueError(
                f"kept_of_start must be in [0, 1], and 0 where no checkpoint is gone on from, not {self.kept_of_start}"
            )
        _check_scenes(self.recipe, self.seed)

    def crops(self, policy: DiffusionPolicyConfig, *, held_out: bool = False) -> CropCache:
        """Of the scenes to learn from, or of those that nothing is learned from."""
        return CropCache(
            RECIPES[self.recipe],
            self.seed + HELD_OUT if held_out else self.seed,
            self.held_out if held_out else self.scenes,
            policy.crop_size,
            policy.crop_scale,
            Path(self.motion) if self.motion else None,
            Path(self.backdrops) if self.backdrops else None,
        )


def read_config(path: Path, **changes: Any) -> PretrainConfig:
    """The file's experiment, with `changes` made to it. Raises what `common.yaml_fields.read_fields` and `PretrainConfig`
    raise."""
    kinds = typing.get_type_hints(PretrainConfig)
    values = {**read_fields(path, kinds), **changes}
    for section in ("policy", "losses", "training", "refining"):
        values[section] = {} if values.get(section) is None else values[section]
    values = checked_fields(str(path), values, kinds)
    try:
        losses = LossWeights(
            **checked_fields("losses", values.pop("losses"), typing.get_type_hints(LossWeights))
        )
        resting = tuple(values.pop("resting", ()))
        return PretrainConfig(losses=losses, resting=resting, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def stage_arguments(config: PretrainConfig, fields: Mapping[str, Any], folder: Path) -> TrainingArguments:
    """What transformers makes of a stage's fields. Raises ValueError for values that it refuses."""
    return TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        remove_unused_columns=False,
        label_names=["vector"],  # tells Trainer that an evaluation has a loss
        prediction_loss_only=True,
        **{"report_to": "tensorboard", **fields},
    )


def run_fingerprint(config: PretrainConfig, policy: DiffusionPolicy, processes: int) -> dict[str, Any]:
    """What shapes the weights of a run that starts with this policy; folders count by what is in them.

    `max_steps` is among it, whatever the schedule: what a stage ends with is what the next one begins with. So is the
    number of processes, by which a step's batch grows.
    """
    told = dataclasses.asdict(config)
    for stage in ("training", "refining"):
        told[stage] = {name: value for name, value in told[stage].items() if name not in FREE_ARGUMENTS}
    for name in ("motion", "backdrops"):
        told[name] = told[name] and fingerprint(Path(told[name]))
    told["start_from"] = config.start_from and policy.digest()
    crops = [config.crops(policy.config, held_out=held_out).digest() for held_out in (False, True)]
    return {**told, "backbone": policy.config.backbone, "crops": crops, "processes": processes}


def _fields_of(made: Any, but_for: set[str]) -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(made).items() if name not in but_for}


def _check_scenes(recipe: str, seed: int) -> None:
    if recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}; there are {', '.join(RECIPES)}")
    drawn = {(split.recipe.name, split.seed): name for name, split in SPLITS.items() if name != "lab-train"}
    for own in (seed, seed + HELD_OUT):
        if (split := drawn.get((recipe, own))) is not None:
            taken = ", ".join(str(other) for name, other in sorted(drawn) if name == recipe)
            raise ValueError(
                f"seed {own} of {recipe} draws the scenes of {split}, which pretraining must not see; "
                f"any seed but {taken} will do"
            )
