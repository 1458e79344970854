"""What a tuning can be told: fields of peft's and TRL's own configurations, in one YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["STAGES", "TuningSettings", "read_tuning"]

STAGES = ("sft", "grpo")
# set by `rl.critic_tuning.stages`: where it writes, what it resumes, and that no code of a repository is run
OURS = {
    "output_dir", "seed", "resume_from_checkpoint", "max_length", "remove_unused_columns", "reward_weights",
    "model_init_kwargs", "trust_remote_code", "disable_tqdm", "target_modules", "task_type",
}  # fmt: skip


@dataclass(frozen=True)
class TuningSettings:
    """Raises ValueError for a stage that is none."""

    stages: tuple[str, ...] = STAGES
    label_orders: int = 1
    lora: Mapping[str, Any] = field(default_factory=dict)  # peft.LoraConfig
    sft: Mapping[str, Any] = field(default_factory=dict)  # trl.SFTConfig
    grpo: Mapping[str, Any] = field(default_factory=dict)  # trl.GRPOConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or not set(self.stages) <= set(STAGES):
            raise ValueError(
                f"a critic is tuned by {' and '.join(STAGES)}, not by {', '.join(self.stages) or 'nothing'}"
            )


def read_tuning(path: Path, **changes: Any) -> TuningSettings:
    """The settings of a YAML file with the sections `lora`, `sft` and `grpo`.

    Raises ValueError for a section or a field that is not there, and for one that the command itself sets.
    """
    from peft import LoraConfig
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    sections = {"lora": LoraConfig, "sft": SFTConfig, "grpo": GRPOConfig}
    if not isinstance(values, dict) or not set(values) <= {"label_orders", *sections}:
        raise ValueError(f"{path}: allowed are label_orders, {', '.join(sections)}, not {values}")
    for name, config in sections.items():
        values[name] = values.get(name) or {}
        known = {item.name for item in dataclasses.fields(config)} - OURS
        if not isinstance(values[name], dict) or not set(values[name]) <= known:
            unknown = sorted(set(values[name]) - known) if isinstance(values[name], dict) else [values[name]]
            raise ValueError(
                f"{path}: {name} takes the fields of {config.__name__} but for {', '.join(sorted(OURS))}, "
                f"not {', '.join(map(str, unknown))}"
            )
    return TuningSettings(**{**values, **changes})
