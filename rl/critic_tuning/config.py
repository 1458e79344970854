"""Settings of critic tuning: fields of the configurations of peft and TRL, in one YAML file.

TRL checks its fields when a stage starts, the second stage after the first has been trained. So all configurations are
also built when the file is read; `rl.critic_tuning.preflight` runs a step with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.reading.yaml_fields import read_fields
from common.storage.files import PathLike
from rl.config import HUB, field_value

__all__ = ["STAGES", "TuningSettings", "lora_config", "read_tuning", "stage_config"]

STAGES = ("sft", "grpo")
# set by this module and by `rl.critic_tuning.stages`
RESERVED = {
    "output_dir", "seed", "resume_from_checkpoint", "max_length", "remove_unused_columns", "reward_weights",
    "model_init_kwargs", "trust_remote_code", "disable_tqdm", "target_modules", "task_type", *HUB,
}  # fmt: skip


@dataclass(frozen=True)
class TuningSettings:
    """Raises ValueError for an unknown stage, and for `label_orders` below 1."""

    stages: tuple[str, ...] = STAGES
    label_orders: int = 1
    lora: Mapping[str, Any] = field(default_factory=dict)  # peft.LoraConfig
    sft: Mapping[str, Any] = field(default_factory=dict)  # trl.SFTConfig
    grpo: Mapping[str, Any] = field(default_factory=dict)  # trl.GRPOConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or not set(self.stages) <= set(STAGES):
            raise ValueError(
                f"stages must be some of {', '.join(STAGES)}, not {', '.join(self.stages) or 'none'}"
            )
        if self.label_orders < 1:
            raise ValueError(f"label_orders must be at least 1, not {self.label_orders}")


def read_tuning(path: PathLike, **changes: Any) -> TuningSettings:
    """The settings of a YAML file with the sections `lora`, `sft` and `grpo`.

    Raises what `common.reading.yaml_fields.read_fields` raises, and ValueError for an unknown or reserved field of a
    section, for a value of the wrong type, and for settings that TRL or peft rejects.
    """
    path = Path(path)
    from peft import LoraConfig
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    sections = {"lora": LoraConfig, "sft": SFTConfig, "grpo": GRPOConfig}
    values = read_fields(path, ["label_orders", *sections])
    for name, config in sections.items():
        values[name] = _section(path, name, config, values.get(name) or {})
    if "label_orders" in values:
        (item,) = (item for item in dataclasses.fields(TuningSettings) if item.name == "label_orders")
        values["label_orders"] = field_value(item, values["label_orders"])
    settings = TuningSettings(**{**values, **changes})
    for name in sections:
        _build(path, name, settings)
    return settings


def _section(path: Path, name: str, config: type, given: Any) -> dict[str, Any]:
    """The fields of a section, with strings converted to numbers, because YAML reads 1e-4 as a string."""
    known = {item.name: item for item in dataclasses.fields(config) if item.name not in RESERVED}
    if not isinstance(given, dict) or not set(given) <= set(known):
        unknown = sorted(map(str, set(given) - set(known))) if isinstance(given, dict) else [given]
        raise ValueError(
            f"{path}: {name} takes the fields of {config.__name__} except {', '.join(sorted(RESERVED))}, "
            f"not {', '.join(map(str, unknown))}"
        )
    try:
        # strings are not checked: TRL annotates scale_rewards as str and documents it as bool
        return {key: field_value(known[key], value, check_strings=False) for key, value in given.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from error


def _build(path: Path, name: str, settings: TuningSettings) -> None:
    from transformers import Trainer
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    try:
        if name == "lora":
            lora_config(settings, [])
            return
        config = stage_config(name, settings, Path("unused"))
        if config.eval_strategy != "no" or config.eval_on_start or config.save_strategy == "best":
            raise ValueError(
                "no question is held out, so eval_strategy must be no, eval_on_start false, and save_strategy not best"
            )
        Trainer.get_optimizer_cls_and_kwargs(config)
        for tracker in get_reporting_integration_callbacks(config.report_to):
            tracker()  # raises if its package is not installed
    except (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path}: {name}: {' '.join(str(error).split())}") from error


def stage_config(name: str, settings: TuningSettings, work: Path) -> Any:
    """The `SFTConfig` or `GRPOConfig` of a stage that writes to `work`. Raises what TRL raises."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    gpu = torch.cuda.is_available()
    arguments = {
        "output_dir": str(work),
        "seed": settings.seed,
        "use_cpu": not gpu,
        "bf16": gpu,
        "dataloader_pin_memory": gpu,
        "activation_checkpointing": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_total_limit": 1,
    }
    if name == "sft":
        # truncating a question would remove pictures
        return SFTConfig(**{**arguments, "max_length": None, **settings.sft})
    return GRPOConfig(**{**arguments, "reward_weights": [1.0, 0.0], **settings.grpo})


def lora_config(settings: TuningSettings, targets: list[str]) -> Any:
    """peft's `LoraConfig` for an adapter on these layers."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **settings.lora)
