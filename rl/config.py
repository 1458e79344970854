"""The arguments of alignment: `transformers.TrainingArguments` with fields for the loss, the advantages and the spread.

Left out: weights of reward functions. They are set where groups are scored (`rl.scorers.rewards`), because a row holds
one score per hypothesis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, no_type_check

from transformers import TrainingArguments

from common.reading.yaml_fields import shown
from rl.advantages import ADVANTAGE_TYPES, AdvantageSettings
from rl.losses import LOSSES, TRUST_REGIONS, LossSettings

__all__ = [
    "HUB", "LOSS_TYPES", "RESAMPLE", "RESERVED", "GroupPreferenceConfig", "check_loss_of_search", "field_value",
    "training_fields",
]  # fmt: skip

RESAMPLE = "resample"  # the loss of `rl.imitation`, which is no function of the log ratio
LOSS_TYPES = (*LOSSES, RESAMPLE)
CHOICES = {"loss_type": LOSS_TYPES, "advantage_type": ADVANTAGE_TYPES, "trust_region": TRUST_REGIONS}
POSITIVE = (
    "beta",
    "epsilon",
    "temperature",
    "penalty",
    "advantage_clip",
    "timesteps_per_group",
    "replay_per_image",
    "spread_images",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
NOT_NEGATIVE = (
    "learning_rate",
    "spread_weight",
    "spread_floor",
    "replay_weight",
    "spread_steps",
    "table_steps",
    "lora_rank",
)
RESERVED = ("output_dir", "seed", "use_cpu", "resume_from_checkpoint")  # set by the caller of the trainer
HUB = (  # an untrusted recipe must not upload weights, nor may a token be in a file
    "hub_model_id", "hub_token", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision", "push_to_hub",
    "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
)  # fmt: skip
UNSUPPORTED = {  # fields without an effect, or with a harmful one
    "num_train_epochs": "a run ends at max_steps, whatever the number of epochs",
    "dataloader_drop_last": "a set smaller than a batch would train nothing; smaller batches are weighted correctly",
    **dict.fromkeys(HUB, "nothing is uploaded"),
}


@no_type_check  # TrainingArguments converts strings into enums, lists and objects, against its own annotations
@dataclass
class GroupPreferenceConfig(TrainingArguments):
    """Arguments of `rl.trainer.GroupPreferenceTrainer`. Batch sizes count images, each with its whole group.

    Raises ValueError for a value outside its range, naming the field, the value and what is allowed.
    """

    output_dir: str | None = field(default="runs/align", metadata={"help": "Where checkpoints are written."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per step and device."})
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Images per evaluation batch and device."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Schedule of the learning rate; without decay the policy drifts."}
    )
    warmup_steps: float = field(
        default=0.05,
        metadata={"help": "Steps of linear warm-up; below 1 a share of all steps, rounded down."},
    )
    max_steps: int = field(default=400, metadata={"help": "Optimizer steps."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between log lines."})
    save_steps: float = field(default=200, metadata={"help": "Steps between checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    seed: int = field(default=0, metadata={"help": "Seeds the order of images, the times and the noise."})
    disable_tqdm: bool | None = field(
        default=True, metadata={"help": "Disable the progress bar of transformers."}
    )
    dataloader_pin_memory: bool = field(
        default=False,
        metadata={"help": "Pinned memory; it has no use on a CPU."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Off, because every step uses all trained parameters."},
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={
            "help": "Off, because buffers are frozen and copying them breaks a graph of two forward passes."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be off: the loss reads columns that forward does not take."}
    )
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Experiment trackers that receive the metrics."}
    )

    loss_type: str = field(
        default="clip", metadata={"help": f"One of {', '.join(LOSS_TYPES)} (rl/losses.py, rl/imitation.py)."}
    )
    beta: float = field(
        default=10.0, metadata={"help": "Scale of the log ratio r = -beta (L_theta - L_ref)."}
    )
    epsilon: float = field(
        default=0.2, metadata={"help": "`clip`: |r| beyond which a hypothesis has no gradient."}
    )
    temperature: float = field(
        default=0.3,
        metadata={"help": "`weighted`, `resample`: softmax temperature over the advantages of a group."},
    )
    penalty: float = field(default=1.0, metadata={"help": "`quadratic`: weight of r^2 / 2."})
    trust_region: str = field(
        default="absolute",
        metadata={
            "help": "`relative` divides the difference of errors by the mean L_ref(t) of the group, so that beta and "
            "epsilon have the same effect at all times; `absolute` does not."
        },
    )
    timesteps_per_group: int = field(
        default=2, metadata={"help": "Diffusion times per group and step, stratified and antithetic."}
    )
    min_timestep: float = field(
        default=0.0, metadata={"help": "Lower end of the times, as a share of the diffusion's length."}
    )
    max_timestep: float = field(default=1.0, metadata={"help": "Upper end of the times, the same share."})
    advantage_type: str = field(
        default="group",
        metadata={
            "help": "Divisor of the centred scores: the std of the `group`, the std within all groups (`batch`), or 1 "
            "(`none`, for scores that are already advantages; most scores of 0 to 100 would be clamped)."
        },
    )
    advantage_clip: float = field(default=5.0, metadata={"help": "Advantages are clamped to +- this."})
    diversity_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the standardised distance from the group's mean, added to the advantages."
        },
    )
    spread_neutral: bool = field(
        default=False,
        metadata={
            "help": "Remove from the advantages their correlation with the distance from the group's mean, so that "
            "alignment does not change the spread, to first order."
        },
    )
    min_group_std: float = field(
        default=0.1,
        metadata={
            "help": "Groups whose std of scores is below this share of the median std are masked, because "
            "standardising them would amplify the noise of the scorer."
        },
    )
    spread_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the penalty on lost spread (rl/spread.py)."},
    )
    spread_floor: float = field(
        default=1.0, metadata={"help": "Share of the reference's spread below which the penalty applies."}
    )
    replay_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the denoising loss on labelled lab scenes (rl/labels/body_labels.py)."},
    )
    replay_per_image: int = field(
        default=4, metadata={"help": "Labelled scenes drawn for each image of a batch, when there is replay."}
    )
    replay_file: str | None = field(
        default=None,
        metadata={
            "help": "A file written by `rl.labels.body_labels.BodyLabels.save`; `meshcritic align` creates it."
        },
    )
    trainable: str = field(
        default="denoiser", metadata={"help": "Submodule of the policy that is trained; the rest is frozen."}
    )
    train_estimate: bool = field(
        default=False, metadata={"help": "`resample`: train the initial estimate as well as `trainable`."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of LoRA adapters on what is trained; 0 trains all its weights."}
    )
    ema_decay: float = field(
        default=0.995,
        metadata={
            "help": "Decay of the averaged weights, which are evaluated and saved, after a warm-up of "
            "(1 + step) / (10 + step); 0 keeps the last weights."
        },
    )

    spread_steps: int = field(
        default=100,
        metadata={
            "help": "Steps between measurements of the spread of the averaged policy's samples; 0 for none."
        },
    )
    spread_images: int = field(
        default=16, metadata={"help": "Number of training images for that measurement, the first ones."}
    )
    table_steps: int = field(
        default=0,
        metadata={
            "help": "Steps between pictures of the best, the worst and a current hypothesis "
            "(rl/monitoring/hypotheses_table.py); 0 for none. It needs the photographs, as `meshcritic align` has them."
        },
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            setattr(self, item.name, field_value(item, getattr(self, item.name)))
        super().__post_init__()
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.min_timestep < self.max_timestep <= 1:
            raise ValueError(
                "0 <= min_timestep < max_timestep <= 1 is required, "
                f"not {self.min_timestep} and {self.max_timestep}"
            )
        if self.train_estimate and self.loss_type != RESAMPLE:
            raise ValueError(f"train_estimate needs loss_type {RESAMPLE}, not {self.loss_type}")
        if self.replay_weight and not self.replay_file:
            raise ValueError(
                "replay_weight needs a replay_file, written by rl.labels.body_labels.BodyLabels.save"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Rounds a share down, where transformers rounds up: the first step of a warm-up has rate 0, so a round of one
        step would train nothing."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        # .29 x 100 is 28.999...
        return math.floor(round(num_training_steps * self.warmup_steps, 6))

    def loss_settings(self) -> LossSettings:
        return LossSettings(self.beta, self.epsilon, self.temperature, self.penalty, self.trust_region)

    def advantage_settings(self) -> AdvantageSettings:
        return AdvantageSettings(
            self.advantage_type,
            self.advantage_clip,
            self.min_group_std,
            self.diversity_weight,
            self.spread_neutral,
        )


def check_loss_of_search(loss_type: str) -> None:
    """Raises ValueError for a loss that compares the likelihood of a hypothesis with the reference's: the reference has
    not sampled the hypotheses of a search, so their ratio says nothing about the gain."""
    if loss_type != RESAMPLE:
        raise ValueError(
            f"groups of a search need loss_type {RESAMPLE}, not {loss_type}: every other loss takes the hypotheses for "
            "samples of the policy"
        )


def training_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, with strings converted to numbers, because YAML reads 1e-4 as a string.

    Raises ValueError for a field that is unknown, reserved or unsupported, and for a value of the wrong type.
    """
    fields = {item.name: item for item in dataclasses.fields(GroupPreferenceConfig)}
    if reserved := sorted(set(given) & set(RESERVED)):
        raise ValueError(
            f"{', '.join(reserved)} cannot be set by a recipe: the run sets seed and folder, the policy the device; "
            "allowed are the other fields of rl/config.py and of TrainingArguments"
        )
    if unknown := sorted(set(given) - set(fields)):
        raise ValueError(
            f"unknown {', '.join(unknown)}; allowed are the fields of rl/config.py and of TrainingArguments"
        )
    values = {name: field_value(fields[name], value) for name, value in given.items()}
    for name, reason in UNSUPPORTED.items():
        if values.get(name):
            raise ValueError(f"{name} cannot be set by a recipe: {reason}")
    return values


def field_value(item: dataclasses.Field[Any], value: Any, check_strings: bool = True) -> Any:
    """The value converted to the type of its field, if that is int, float, bool or (with `check_strings`) str. Values
    of other types are returned unchanged. Raises ValueError for a value of the wrong type.
    """
    annotation = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
    kind, _, rest = annotation.partition(" | ")
    if rest not in ("", "None") or (value is None and rest == "None"):
        return value
    if kind in ("int", "float"):
        return _number(item.name, value, whole=kind == "int")
    if kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{item.name} takes true or false, not {value!r}")
    if check_strings and annotation == "str" and not isinstance(value, str):
        raise ValueError(f"{item.name} takes a string, not {value!r}")
    return value


def _number(name: str, value: Any, whole: bool) -> int | float:
    wanted = "a whole number" if whole else "a number"
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} takes {wanted}, not {shown(value)}") from None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        raise ValueError(f"{name} takes {wanted}, not {shown(value)}")
    return int(number) if whole else number if isinstance(value, str) else value
