"""The config.json of a diffusion policy, and the settings in it that are part of the policy's digest."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

__all__ = ["DiffusionPolicyConfig", "fingerprint_settings"]

# Settings that change the output but not the weights; each one that differs from the value here is part of the digest.
DIGEST_DEFAULTS: dict[str, Any] = {
    "noise_temperature": 1.0,
    "crop_scale": 1.2,
    "num_train_timesteps": 1000,
    "num_inference_steps": 10,
    "solver": "dpm++",
    "heads": 8,
}


class DiffusionPolicyConfig(PretrainedConfig):
    """Everything needed to build a policy for its weights; the values of the experiments are in configs/.

    crop_scale: side of the square that positions are relative to, in sides of the person's box.
    appearance_size: length of an image encoder's vector, a further input; 0: detections alone.
    head_width, head_depth: width and number of blocks of the regression head.
    denoiser: "mlp", or "tokens" with a layout of `hmr.policy.denoisers` in `tokens` and its `heads`.
    solver: "ddim" or "dpm++" (`hmr.policy.scheduler`).
    detector: the detector that the policy was trained for and uses if no other is given: "embedded" or "simulated".
    noise_temperature: factor of the starting noise; `benchmarks/temperature.py` finds the one with the right spread on
        `lab-calibration`.
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
        super().__init__(**kwargs)


def fingerprint_settings(config: DiffusionPolicyConfig) -> list[str]:
    """Settings of the digest, as "name=value", in the order of DIGEST_DEFAULTS."""
    return [
        f"{name}={value}"
        for name, default in DIGEST_DEFAULTS.items()
        if (value := getattr(config, name)) != default
    ]
