"""The config.json of a diffusion policy, and the settings in it that are part of the policy's digest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from common.reading.yaml_fields import check_limits
from hmr.policy.scheduler import SOLVERS

__all__ = ["LIMITS", "STARTS", "DiffusionPolicyConfig", "SamplingSettings", "fingerprint_settings"]

STARTS = ("unit", "distribution")

# The least and the largest value of each number that is accepted in a config.
LIMITS = {
    "crop_scale": (0.5, 4.0),
    "appearance_size": (0, 65_536),
    "width": (8, 16_384),
    "depth": (1, 256),
    "head_width": (1, 16_384),
    "head_depth": (0, 256),
    "heads": (1, 256),
    "num_train_timesteps": (2, 100_000),
    "num_inference_steps": (1, 1_000),
    "noise_temperature": (0.0, 10.0),
    "start_time": (0.001, 1.0),
    "alignment": (0.0, 1.0),
}

# Settings that change the output but not the weights; each one that differs from the value here is part of the digest.
DIGEST_DEFAULTS: dict[str, Any] = {
    "noise_temperature": 1.0,
    "crop_scale": 1.2,
    "num_train_timesteps": 1000,
    "num_inference_steps": 10,
    "solver": "dpm++",
    "heads": 8,
    "start": "unit",
    "start_time": 0.33,
    "alignment": 0.0,
}


class DiffusionPolicyConfig(PretrainedConfig):
    """Everything needed to build a policy for its weights; the values of the experiments are in configs/.

    crop_scale: side of the square that positions are relative to, in sides of the person's box.
    appearance_size: length of an image encoder's vector, a further input; 0: detections alone.
    head_width, head_depth: width and number of blocks of the regression head.
    denoiser: "mlp", or "tokens" with a layout of `hmr.policy.denoisers` in `tokens` and its `heads`.
    solver: "ddim" or "dpm++" (`hmr.policy.scheduler`).
    detector: the detector that the policy was trained for and uses if no other is given: "embedded" or "simulated".
    noise_temperature: factor of the starting noise; `benchmarks.policy.temperature` finds the one with the right spread
        on `lab-calibration`.
    start: "unit" noise, or the "distribution" of x_t about the initial estimate at `start_time`, a share of the
        schedule (`hmr.policy.distribution_alignment`).
    alignment: strength of the alignment with the detection's distribution, from 0 (none) to 1.
    """

    model_type = "meshcritic_detection_policy"

    def __init__(
        self,
        crop_scale: float = 1.2,
        appearance_size: int = 0,
        width: int = 384,
        depth: int = 4,
        head_width: int = 512,
        head_depth: int = 4,
        num_train_timesteps: int = 1000,
        num_inference_steps: int = 10,
        denoiser: str = "mlp",
        tokens: str = "joints",
        heads: int = 8,
        solver: str = "dpm++",
        noise_temperature: float = 1.0,
        detector: str = "embedded",
        start: str = "unit",
        start_time: float = 0.33,
        alignment: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.crop_scale = crop_scale
        self.appearance_size = appearance_size
        self.width = width
        self.depth = depth
        self.head_width = head_width
        self.head_depth = head_depth
        self.num_train_timesteps = num_train_timesteps
        self.num_inference_steps = num_inference_steps
        self.denoiser = denoiser
        self.tokens = tokens
        self.heads = heads
        self.solver = solver
        self.noise_temperature = noise_temperature
        self.detector = detector
        self.start = start
        self.start_time = start_time
        self.alignment = alignment
        super().__init__(**kwargs)


@dataclass(frozen=True)
class SamplingSettings:
    """The settings of a policy's config that may be changed without training again."""

    solver: str
    num_inference_steps: int
    noise_temperature: float
    start: str
    start_time: float
    alignment: float

    @staticmethod
    def of(config: DiffusionPolicyConfig) -> SamplingSettings:
        """The settings in a config. Raises ValueError for one that is not allowed."""
        names = [field.name for field in dataclasses.fields(SamplingSettings)]
        settings = SamplingSettings(**{name: getattr(config, name) for name in names})
        settings.check()
        return settings

    def check(self) -> None:
        """Raises ValueError for a value that is not allowed. An unknown solver is refused by `new_solver` too."""
        for name, allowed in (("solver", SOLVERS), ("start", STARTS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        check_limits(vars(self), LIMITS)

    def apply_to(self, config: DiffusionPolicyConfig) -> None:
        """Set them in a config. Raises ValueError, before anything is set, for a value that is not allowed."""
        self.check()
        for name, value in dataclasses.asdict(self).items():
            setattr(config, name, value)


def fingerprint_settings(config: DiffusionPolicyConfig) -> list[str]:
    """Settings of the digest, as "name=value", in the order of DIGEST_DEFAULTS."""
    return [
        f"{name}={value}"
        for name, default in DIGEST_DEFAULTS.items()
        if (value := getattr(config, name)) != default
    ]
