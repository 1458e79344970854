"""What a tuning can be told: fields of peft's and TRL's own configurations, in one YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hmr.yaml_file import read_fields

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

    Raises what `hmr.yaml_file.read_fields` raises, and ValueError for a field of a section that is not there or that
    the command itself sets.
    """
    from peft import LoraConfig
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    sections = {"lora": LoraConfig, "sft": SFTConfig, "grpo": GRPOConfig}
    values = read_fields(path, ["label_orders", *sections])
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
