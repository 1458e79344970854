"""The recipe of the person encoder's training, one YAML file per experiment, and the fingerprint of a run.

Names, types and seeds are checked when a recipe is read; transformers checks its arguments before any scene is drawn.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from common.reading.yaml_fields import checked_fields, fields_of, read_fields
from common.storage.files import PathLike
from common.storage.fingerprint import file_digest
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig
from hmr.pretraining.crop_cache import CropCache
from hmr.pretraining.policy_recipe import FREE_ARGUMENTS, RESERVED_ARGUMENTS
from hmr.synthetic.recipe import RECIPES
from hmr.synthetic.splits import refuse_seed_of_split
from hmr.synthetic.store import folder_fingerprint

__all__ = ["EncoderLossWeights", "EncoderRecipe", "read_encoder_recipe", "run_fingerprint"]

HELD_OUT = 1_000_000  # offset of the held-out scenes' seed from the training scenes'


@dataclass(frozen=True)
class EncoderLossWeights:
    """Weights of the terms of `hmr.pretraining.encoder_training`."""

    keypoints: float = 0.3
    depths: float = 0.3
    visible: float = 0.1
    mask: float = 0.3


@dataclass(frozen=True)
class EncoderRecipe:
    """One experiment; `configs/train_encoder.yaml` continues the shipped checkpoint.

    Raises ValueError for an unknown field of a section, a value that is not allowed, and a seed that draws the scenes
    of a split that is not for training.
    """

    recipe: str = "lab"
    body: str | None = None  # file of an SMPL, SMPL-H or SMPL-X body model in place of the embedded one
    motion: str | None = None  # a folder of AMASS npz files in place of the built-in poses
    backdrops: str | None = None  # a folder of photographs without people in place of painted walls
    start_from: str | None = None  # folder of a checkpoint to continue; keeps its architecture
    scenes: int = 40_000
    held_out: int = 1_000
    seed: int = 1
    frozen_layers: tuple[str, ...] = ()  # of the network: stem, fine, ...
    # After training: weight of the start checkpoint in the interpolation, 1 - alpha in the paper's notation.
    wise_ft_alpha: float = 0.0
    rarity: float = 0.0  # rows are drawn in proportion to this power of the rarity of their pose
    ema_decay: float = 0.999
    encoder: dict[str, Any] = field(default_factory=dict)
    losses: EncoderLossWeights = field(default_factory=EncoderLossWeights)
    training: dict[str, Any] = field(default_factory=dict)  # transformers.TrainingArguments

    def __post_init__(self) -> None:
        checked_fields("encoder", self.encoder, fields_of(PersonEncoderConfig.__init__, {"kwargs", "return"}))
        allowed = fields_of(TrainingArguments, RESERVED_ARGUMENTS)
        text = f"the fields of transformers.TrainingArguments except {', '.join(sorted(RESERVED_ARGUMENTS))}"
        checked_fields("training", self.training, allowed, text)
        for name, least in (("scenes", 1), ("held_out", 1), ("seed", 0), ("rarity", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if not 0 <= self.wise_ft_alpha <= (1 if self.start_from else 0):
            raise ValueError(
                f"wise_ft_alpha must be in [0, 1], and 0 without a checkpoint to start from, not {self.wise_ft_alpha}"
            )
        for seed in (self.seed, self.seed + HELD_OUT):
            refuse_seed_of_split(self.recipe, seed)

    def crops(self, encoder: PersonEncoderConfig, *, held_out: bool = False) -> CropCache:
        """The crops of the training scenes, or of the held-out ones."""
        return CropCache(
            RECIPES[self.recipe],
            self.seed + HELD_OUT if held_out else self.seed,
            self.held_out if held_out else self.scenes,
            encoder.crop_size,
            encoder.crop_scale,
            Path(self.motion) if self.motion else None,
            Path(self.backdrops) if self.backdrops else None,
            Path(self.body) if self.body else None,
        )


def read_encoder_recipe(path: PathLike, **changes: Any) -> EncoderRecipe:
    """The experiment in the file, with `changes`. Raises the errors of `common.reading.yaml_fields.read_fields` and
    `EncoderRecipe`."""
    kinds = typing.get_type_hints(EncoderRecipe)
    values = read_fields(path, set(kinds), ", ".join(sorted(kinds))) | changes
    for section in ("encoder", "losses", "training"):
        values[section] = {} if values.get(section) is None else values[section]
    values = checked_fields(str(path), values, {**kinds, "losses": dict[str, Any]})
    try:
        weights = checked_fields("losses", values.pop("losses"), typing.get_type_hints(EncoderLossWeights))
        frozen_layers = tuple(values.pop("frozen_layers", ()))
        return EncoderRecipe(losses=EncoderLossWeights(**weights), frozen_layers=frozen_layers, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def run_fingerprint(recipe: EncoderRecipe, encoder: PersonEncoder, processes: int) -> dict[str, Any]:
    """Everything that determines the weights of a run that starts with this encoder; folders and the body model are
    identified by content.

    It includes the number of processes, because the batch of a step grows with it.
    """
    fields = dataclasses.asdict(recipe)
    fields["training"] = {name: v for name, v in recipe.training.items() if name not in FREE_ARGUMENTS}
    for name in ("motion", "backdrops"):
        fields[name] = fields[name] and folder_fingerprint(Path(fields[name]))
    fields["body"] = recipe.body and file_digest(Path(recipe.body))
    fields["start_from"] = recipe.start_from and encoder.digest()
    crops = [recipe.crops(encoder.config, held_out=held_out).digest() for held_out in (False, True)]
    return {**fields, "backbone": encoder.config.backbone, "crops": crops, "processes": processes}
