"""What a run of alignment can be told, beside all that `transformers.TrainingArguments` knows.

Left out: weights of several reward functions, which are settled where scores are made (`rl.preferences.build`): a row holds
one score a hypothesis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, no_type_check

from transformers import TrainingArguments

from rl.advantages import ADVANTAGE_TYPES, AdvantageSettings
from rl.losses import LOSSES, TRUST_REGIONS, LossSettings

__all__ = ["RESERVED", "GroupPreferenceConfig", "field_value", "training_fields"]

CHOICES = {"loss_type": LOSSES, "advantage_type": ADVANTAGE_TYPES, "trust_region": TRUST_REGIONS}
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
RESERVED = ("output_dir", "seed", "use_cpu", "resume_from_checkpoint")  # whoever aligns sets them itself
NO_USE = {  # what a recipe could say in vain, or at the price of its training
    "num_train_epochs": "a run ends at its max_steps, whatever the epochs",
    "dataloader_drop_last": "a set smaller than a batch would train nothing, and a smaller batch is weighed right",
}


@no_type_check  # TrainingArguments turns strings into enums, lists and objects that its own annotations deny
@dataclass
class GroupPreferenceConfig(TrainingArguments):
    """Arguments of `rl.trainer.GroupPreferenceTrainer`. A batch counts images, each with its whole group.

    Raises ValueError for a value outside its range, naming the field, the value and what is allowed.
    """

    output_dir: str | None = field(default="runs/align", metadata={"help": "Where checkpoints are written."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images a step and device."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Images an evaluation batch."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Decay of the learning rate; without one alignment drifts."}
    )
    warmup_steps: float = field(
        default=0.05,
        metadata={"help": "Steps of linear warm-up, or below 1 their share of all steps, rounded down."},
    )
    max_steps: int = field(default=400, metadata={"help": "Optimizer steps."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logged means."})
    save_steps: float = field(default=200, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    seed: int = field(default=0, metadata={"help": "Seeds the order of images, the times and the noise."})
    disable_tqdm: bool | None = field(
        default=True, metadata={"help": "Whether transformers' own bar is off."}
    )
    dataloader_pin_memory: bool = field(
        default=False,
        metadata={"help": "Pinned memory; of no use on a CPU, the tested default."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "All that is trained is used in every step; there is nothing to find."},
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Buffers are frozen; copying them would spoil a graph of two forward passes."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the loss reads columns that forward does not."}
    )
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Trackers that the metrics are sent to, none by default."}
    )

    loss_type: str = field(default="clip", metadata={"help": f"One of {', '.join(LOSSES)} (rl/losses.py)."})
    beta: float = field(
        default=10.0, metadata={"help": "Scale of the log ratio r = -beta (L_theta - L_ref)."}
    )
    epsilon: float = field(
        default=0.2, metadata={"help": "`clip` lets a hypothesis go once r has moved this far."}
    )
    temperature: float = field(
        default=0.3, metadata={"help": "`weighted`: softmax temperature over the advantages of a group."}
    )
    penalty: float = field(default=1.0, metadata={"help": "`quadratic`: weight of r^2 / 2."})
    trust_region: str = field(
        default="absolute",
        metadata={
            "help": "`relative` divides the difference of errors by the group's mean L_ref(t), so that beta and "
            "epsilon mean the same at all times; `absolute` does not."
        },
    )
    timesteps_per_group: int = field(
        default=2, metadata={"help": "Diffusion times a group and step, stratified and antithetic in pairs."}
    )
    min_timestep: float = field(
        default=0.0, metadata={"help": "Lower end of the times, as a share of the diffusion's length."}
    )
    max_timestep: float = field(default=1.0, metadata={"help": "Upper end of the times, the same share."})
    advantage_type: str = field(
        default="group",
        metadata={
            "help": "What centred scores are divided by: the `group`'s std, the std within all groups (`batch`), or "
            "nothing (`none`, for scores that are advantages already: those of an agent, 0 to 100, would nearly all "
            "be clamped)."
        },
    )
    advantage_clip: float = field(default=5.0, metadata={"help": "Advantages are clamped to +- this."})
    diversity_weight: float = field(
        default=0.0,
        metadata={
            "help": "Added to the advantages: this times the standardised distance from the group's mean."
        },
    )
    spread_neutral: bool = field(
        default=False,
        metadata={
            "help": "Take out of the advantages what the distance from the group's mean explains of them, so that "
            "better ones pull the mean and leave the spread, to first order."
        },
    )
    min_group_std: float = field(
        default=0.1,
        metadata={
            "help": "Groups whose scores' std is below this share of the median group's are masked: "
            "standardising them would amplify the scorer's noise."
        },
    )
    spread_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the penalty on lost spread (rl/spread.py), in a group's predictions at high noise."
        },
    )
    spread_floor: float = field(
        default=1.0, metadata={"help": "Share of the reference's spread below which that penalty begins."}
    )
    replay_weight: float = field(
        default=0.0, metadata={"help": "Weight of the denoising loss on labelled lab scenes (rl/replay.py)."}
    )
    replay_per_image: int = field(
        default=4, metadata={"help": "Labelled scenes drawn for each image of a batch, when there is replay."}
    )
    replay_file: str | None = field(
        default=None, metadata={"help": "What `Replay.save` wrote; `meshcritic align` makes it by itself."}
    )
    trainable: str = field(
        default="denoiser", metadata={"help": "Submodule of the policy that is trained; the rest is frozen."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of LoRA adapters on it; 0 trains the submodule itself."}
    )
    ema_decay: float = field(
        default=0.995,
        metadata={
            "help": "Decay of the averaged weights, the ones evaluated and saved, after a warm-up of "
            "(1 + step) / (10 + step); 0 keeps the last weights."
        },
    )

    spread_steps: int = field(
        default=100,
        metadata={
            "help": "Steps between two looks at the spread of what the averaged policy samples; 0 for none."
        },
    )
    spread_images: int = field(
        default=16, metadata={"help": "Training images, the first ones, that are looked at."}
    )
    table_steps: int = field(
        default=0,
        metadata={
            "help": "Steps between two pictures of what the scores liked, what they did not and what is drawn now "
            "(rl/monitoring/hypotheses_table.py); 0 for none. Who aligns must have the photographs, as `meshcritic align` does."
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
                "timesteps need 0 <= min_timestep < max_timestep <= 1, "
                f"not {self.min_timestep} and {self.max_timestep}"
            )
        if self.replay_weight and not self.replay_file:
            raise ValueError("replay_weight needs a replay_file, written by rl.replay.Replay.save")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """A share is rounded down, where transformers rounds up: the first step of a warm-up has rate 0, and a round of
        one step would learn nothing."""
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


def training_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `GroupPreferenceConfig` as a recipe gives them, numbers as numbers: YAML takes 1e-4 for a string.

    Raises ValueError for a field that is unknown, reserved or of no use, and for a value that is not of its field's
    kind.
    """
    fields = {item.name: item for item in dataclasses.fields(GroupPreferenceConfig)}
    if reserved := sorted(set(given) & set(RESERVED)):
        raise ValueError(
            f"{', '.join(reserved)} cannot be set by a recipe: seed and folder are those of the run, the device is the "
            f"policy's; allowed are the other fields of rl/config.py and of TrainingArguments"
        )
    if unknown := sorted(set(given) - set(fields)):
        raise ValueError(
            f"unknown {', '.join(unknown)}; allowed are the fields of rl/config.py and of TrainingArguments"
        )
    taken = {name: field_value(fields[name], value) for name, value in given.items()}
    for name, reason in NO_USE.items():
        if taken.get(name):
            raise ValueError(f"{name} cannot be set by a recipe: {reason}")
    return taken


def field_value(item: dataclasses.Field[Any], value: Any, words: bool = True) -> Any:
    """The value as its field's kind, numbers as numbers. Kinds that are neither number, switch nor word are left to
    whoever takes them; without `words` those are too.

    Raises ValueError for a value of another kind.
    """
    told = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
    kind, _, rest = told.partition(" | ")
    if rest not in ("", "None") or (value is None and rest == "None"):
        return value
    if kind in ("int", "float"):
        return _number(item.name, value, whole=kind == "int")
    if kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{item.name} takes true or false, not {value!r}")
    if words and told == "str" and not isinstance(value, str):
        raise ValueError(f"{item.name} takes a word, not {value!r}")
    return value


def _number(name: str, value: Any, whole: bool) -> int | float:
    wanted = "a whole number" if whole else "a number"
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} takes {wanted}, not {value!r}") from None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        raise ValueError(f"{name} takes {wanted}, not {value!r}")
    return int(number) if whole else number if isinstance(value, str) else value
