"""The sizes of a demo: enough to see the loop turn in a quarter of an hour on two cores, not to settle a question."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.yaml_fields import read_fields

__all__ = ["DemoSettings", "read_settings"]


@dataclass(frozen=True)
class DemoSettings:
    """`configs/demo.yaml` holds the values of `make demo`; a scene set is named by its seed alone."""

    calibration_images: int = 128  # half are explored, a quarter admits rules (hmr.synthetic.splits)
    train_images: int = 160
    test_images: int = 64
    group_size: int = 20
    num_samples: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    backend: str = "embedded"
    shown_cases: int = 6
    alignment: dict[str, Any] = field(default_factory=dict)  # rl.config.GroupPreferenceConfig

    def __post_init__(self) -> None:
        for name in ("calibration_images", "train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.seeds:
            raise ValueError("seeds must name at least one seed")


def read_settings(path: Path) -> DemoSettings:
    """Raises what `common.yaml_fields.read_fields` raises."""
    values = read_fields(path, [item.name for item in dataclasses.fields(DemoSettings)])
    if "seeds" in values:
        values["seeds"] = tuple(values["seeds"])
    return DemoSettings(**values)
