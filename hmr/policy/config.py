"""What a checkpoint of a diffusion policy says in its config.json, and which of it names the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

__all__ = ["DiffusionPolicyConfig", "fingerprint_settings"]

# Settings that shape the answers and leave no trace in the weights: a digest tells each of them that has another value
# than this one. The values are the shipped policy's, for the digest once knew only the first two (off when not told):
# told always, the others would give new names to the policies that figures were published of.
UNSAID: dict[str, Any] = {
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
    """Everything a checkpoint needs to be built again; chosen values live in configs/.

    encoder: "embedded", or "transformers:" and a backbone's hub name or folder (`hmr.policy.backbone`); `backbone` is its
    card, read from there when it is not given.
    head_width: of the regression head's two hidden layers.
    denoiser: "mlp", or "tokens" with a layout of `hmr.policy.denoisers` in `tokens` and its `heads`.
    solver: "ddim" or "dpm++" (`hmr.policy.scheduler`).
    mirror_look: every crop is also seen in the mirror (`hmr.policy.flip`), for twice the cost of seeing.
    noise_temperature: what starting noise is multiplied by; `benchmarks/temperature.py` finds the one at which the
        spread is right on `lab-calibration`.
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
    """Those that a digest must tell apart, as "name=value", in the order of UNSAID."""
    return [
        f"{name}={value}" for name, unsaid in UNSAID.items() if (value := getattr(config, name)) != unsaid
    ]
