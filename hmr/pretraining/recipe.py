"""The recipe of a pretraining run, one YAML file per experiment, and the fingerprint of what determines its weights.

Names, types and seeds are checked when a recipe is read; transformers checks its arguments before any scene is drawn.
"""

from __future__ import annotations

import dataclasses
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from common.files import PathLike
from common.yaml_fields import checked_fields, read_fields
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.crop_cache import CropCache
from hmr.pretraining.losses import LossWeights
from hmr.synthetic.recipe import RECIPES
from hmr.synthetic.splits import SPLITS
from hmr.synthetic.store import folder_fingerprint

__all__ = ["PretrainConfig", "read_config", "run_fingerprint", "stage_arguments"]

HELD_OUT = 1_000_000  # offset of the held-out scenes' seed from the training scenes'
RESERVED_ARGUMENTS = {  # of TrainingArguments, set here
    "output_dir", "seed", "remove_unused_columns", "label_names", "prediction_loss_only", "resume_from_checkpoint",
}  # fmt: skip
# Arguments that do not change the weights. Those of evaluation are not among them: it draws noise, as training does.
FREE_ARGUMENTS = {
    "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_timeout", "disable_tqdm", "log_level",
    "log_level_replica", "logging_first_step", "logging_steps", "logging_strategy", "report_to", "run_name",
    "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
AT_LEAST = {
    "scenes": 1, "held_out": 1, "seed": 0, "times_per_image": 1, "first_stage_times_per_image": 1,
    "refining_rows": 1, "rarity": 0,
}  # fmt: skip
# Still read from recipes, and the names under which fingerprints record these fields.
FORMER_NAMES = {
    "first_stage_times_per_image": "times_while_seeing",
    "frozen_layers": "resting",
    "wise_ft_alpha": "kept_of_start",
}


@dataclass(frozen=True)
class PretrainConfig:
    """One experiment; `configs/pretrain_tiny.yaml` is the recipe of the shipped checkpoint.

    Raises ValueError for an unknown field of a section, a value of another type, and a seed that draws the scenes of a
    split that is not for pretraining.
    """

    recipe: str = "lab"
    motion: str | None = None  # a folder of AMASS npz files in place of the built-in poses
    backdrops: str | None = None  # a folder of photographs without people in place of painted walls
    start_from: str | None = None  # folder of a checkpoint to continue; keeps its architecture and statistics
    scenes: int = 40_000
    held_out: int = 1_000
    seed: int = 1
    times_per_image: int = 8  # diffusion times per image and step, in the second stage
    first_stage_times_per_image: int = 2  # in the first stage, where encoding an image dominates the cost
    frozen_layers: tuple[str, ...] = ()  # of the encoder, in the first stage: stem, fine, ...
    # After the first stage: weight of the start checkpoint in the interpolation, 1 - alpha in the paper's notation.
    wise_ft_alpha: float = 0.0
    rarity: float = 0.0  # rows are drawn in proportion to this power of the rarity of their pose
    min_std: float = 0.05  # of a standardised target, so that joints that hardly move do not amplify noise
    ema_decay: float = 0.999
    policy: dict[str, Any] = field(default_factory=dict)
    losses: LossWeights = field(default_factory=LossWeights)
    training: dict[str, Any] = field(default_factory=dict)  # arguments of the first stage; empty: none
    refining_rows: int = 80_000  # of crops and mirror images, whose features the second stage uses
    refining: dict[str, Any] = field(default_factory=dict)  # the same for the second stage

    def __post_init__(self) -> None:
        checked_fields(
            "policy", self.policy, _fields_of(DiffusionPolicyConfig.__init__, {"kwargs", "return"})
        )
        allowed = _fields_of(TrainingArguments, RESERVED_ARGUMENTS)
        text = f"the fields of transformers.TrainingArguments except {', '.join(sorted(RESERVED_ARGUMENTS))}"
        for stage in ("training", "refining"):
            checked_fields(stage, getattr(self, stage), allowed, text)
        for name, least in AT_LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if self.min_std <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"min_std must be above 0 and ema_decay in [0, 1), not {self.min_std} and {self.ema_decay}"
            )
        if not 0 <= self.wise_ft_alpha <= (1 if self.start_from else 0):
            raise ValueError(
                f"wise_ft_alpha must be in [0, 1], and 0 without a checkpoint to start from, not {self.wise_ft_alpha}"
            )
        _check_scenes(self.recipe, self.seed)

    def crops(self, policy: DiffusionPolicyConfig, *, held_out: bool = False) -> CropCache:
        """The crops of the training scenes, or of the held-out ones."""
        return CropCache(
            RECIPES[self.recipe],
            self.seed + HELD_OUT if held_out else self.seed,
            self.held_out if held_out else self.scenes,
            policy.crop_size,
            policy.crop_scale,
            Path(self.motion) if self.motion else None,
            Path(self.backdrops) if self.backdrops else None,
        )


def read_config(path: PathLike, **changes: Any) -> PretrainConfig:
    """The experiment in the file, with `changes`.

    A former name of a field is accepted with a DeprecationWarning. Raises the errors of
    `common.yaml_fields.read_fields` and `PretrainConfig`.
    """
    kinds = typing.get_type_hints(PretrainConfig)
    values = read_fields(path, {*kinds, *FORMER_NAMES.values()}, ", ".join(sorted(kinds)))
    for name, former in FORMER_NAMES.items():
        if former in values:
            warnings.warn(f"{path}: {former} is now called {name}", DeprecationWarning, stacklevel=2)
            values.setdefault(name, values.pop(former))
    values |= changes
    for section in ("policy", "losses", "training", "refining"):
        values[section] = {} if values.get(section) is None else values[section]
    values = checked_fields(str(path), values, kinds)
    try:
        losses = LossWeights(
            **checked_fields("losses", values.pop("losses"), typing.get_type_hints(LossWeights))
        )
        frozen_layers = tuple(values.pop("frozen_layers", ()))
        return PretrainConfig(losses=losses, frozen_layers=frozen_layers, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def stage_arguments(config: PretrainConfig, fields: Mapping[str, Any], folder: Path) -> TrainingArguments:
    """The TrainingArguments of a stage. Raises ValueError for values that transformers refuses."""
    return TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        remove_unused_columns=False,
        label_names=["vector"],  # makes Trainer compute a loss in evaluation
        prediction_loss_only=True,
        **{"report_to": "tensorboard", **fields},
    )


def run_fingerprint(config: PretrainConfig, policy: DiffusionPolicy, processes: int) -> dict[str, Any]:
    """Everything that determines the weights of a run that starts with this policy; folders are identified by content.

    It includes `max_steps` for every schedule, because a stage starts with the result of the one before, and the number
    of processes, because the batch of a step grows with it.
    """
    fields = dataclasses.asdict(config)
    for stage in ("training", "refining"):
        fields[stage] = {name: value for name, value in fields[stage].items() if name not in FREE_ARGUMENTS}
    for name in ("motion", "backdrops"):
        fields[name] = fields[name] and folder_fingerprint(Path(fields[name]))
    fields["start_from"] = config.start_from and policy.digest()
    recorded = {FORMER_NAMES.get(name, name): value for name, value in fields.items()}
    crops = [config.crops(policy.config, held_out=held_out).digest() for held_out in (False, True)]
    return {**recorded, "backbone": policy.config.backbone, "crops": crops, "processes": processes}


def _fields_of(signature: Any, exclude: set[str]) -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(signature).items() if name not in exclude}


def _check_scenes(recipe: str, seed: int) -> None:
    if recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}; there are {', '.join(RECIPES)}")
    reserved = {
        (split.recipe.name, split.seed): name for name, split in SPLITS.items() if name != "lab-train"
    }
    for scene_seed in (seed, seed + HELD_OUT):
        if (split := reserved.get((recipe, scene_seed))) is not None:
            taken = ", ".join(str(other) for name, other in sorted(reserved) if name == recipe)
            raise ValueError(
                f"seed {scene_seed} of {recipe} draws the scenes of {split}, which pretraining must not use; "
                f"choose a seed other than {taken}"
            )
