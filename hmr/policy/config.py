"""The config.json of a diffusion policy, and the settings in it that are part of the policy's digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

__all__ = ["DiffusionPolicyConfig", "fingerprint_settings"]

# Settings that change the output but not the weights. Each one that differs from the value here is part of the digest.
# Only the first two were in the first version of the digest; the values of the others are the shipped policy's, so that
# the digests of published policies did not change.
DIGEST_DEFAULTS: dict[str, Any] = {
    "mirror_look": False,
    "noise_temperature": 1.0,
    "crop_size": 128,
    "crop_scale": 1.2,
    "num_train_timesteps": 1000,
    "num_inference_steps": 10,
    "solver": "dpm++",
    "heads": 8,
}


class DiffusionPolicyConfig(PretrainedConfig):
    """Everything needed to build a policy for its weights; the values of the experiments are in configs/.

    encoder: "embedded", or "transformers:" and the hub name or folder of a backbone (`hmr.policy.backbone`).
    backbone: fields of its `BackboneSpec`; read from the hub or folder if None.
    head_width: width of the two hidden layers of the regression head.
    denoiser: "mlp", or "tokens" with a layout of `hmr.policy.denoisers` in `tokens` and its `heads`.
    solver: "ddim" or "dpm++" (`hmr.policy.scheduler`).
    mirror_look: flip test (`hmr.policy.flip`): the encoder also sees the mirror image, at twice its cost.
    noise_temperature: factor of the starting noise; `benchmarks/temperature.py` finds the one with the right spread on
        `lab-calibration`.
    """

    model_type = "meshcritic_diffusion_policy"

    def __init__(
        self,
        crop_size: int = 128,
        crop_scale: float = 1.2,
        encoder_widths: Sequence[int] = (64, 128, 256),
        width: int = 384,
        depth: int = 4,
        head_width: int = 640,
        num_train_timesteps: int = 1000,
        num_inference_steps: int = 8,
        denoiser: str = "mlp",
        tokens: str = "joints",
        heads: int = 8,
        solver: str = "ddim",
        encoder: str = "embedded",
        backbone: dict[str, Any] | None = None,
        mirror_look: bool = False,
        noise_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.crop_size = crop_size
        self.crop_scale = crop_scale
        self.encoder_widths = list(encoder_widths)
        self.width = width
        self.depth = depth
        self.head_width = head_width
        self.num_train_timesteps = num_train_timesteps
        self.num_inference_steps = num_inference_steps
        self.denoiser = denoiser
        self.tokens = tokens
        self.heads = heads
        self.solver = solver
        self.encoder = encoder
        self.backbone = backbone
        self.mirror_look = mirror_look
        self.noise_temperature = noise_temperature
        super().__init__(**kwargs)


def fingerprint_settings(config: DiffusionPolicyConfig) -> list[str]:
    """Settings of the digest, as "name=value", in the order of DIGEST_DEFAULTS."""
    return [
        f"{name}={value}"
        for name, default in DIGEST_DEFAULTS.items()
        if (value := getattr(config, name)) != default
    ]
