"""The network of the embedded detector as a checkpoint of its own: crops of people -> joints, depths and a mask.

It is trained on rendered people (`hmr.pretraining.encoder_training`), and reads them well; on photographs use another
detector (`hmr.detection.blazepose`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from common.reading.pretrained import load_whole
from common.storage.files import PathLike
from common.storage.fingerprint import weights_digest
from hmr.detection.backbone import PREFIX, BackboneSpec, TransformersEncoder, describe_backbone
from hmr.detection.encoder import CropEncoder, EncoderOutput
from hmr.detection.feature_cache import default_cache
from hmr.detection.flip import flip_test
from hmr.images.crops import crop_image
from hmr.types import Box, Sample

__all__ = ["PersonEncoder", "PersonEncoderConfig", "load_encoder"]

LIMITS = {"crop_size": (16, 4_096), "crop_scale": (0.5, 4.0)}  # of numbers in a config
SHIPPED_ENCODER = Path(__file__).parents[1] / "assets" / "encoder"


class PersonEncoderConfig(PretrainedConfig):
    """encoder: "embedded", or "transformers:" and the hub name or folder of a backbone (`hmr.detection.backbone`).
    backbone: fields of its `BackboneSpec`; read from the hub or folder if None.
    flip_test: average with the mirror image (`hmr.detection.flip`), at twice the cost.
    """

    model_type = "meshcritic_person_encoder"

    def __init__(
        self,
        crop_size: int = 128,
        crop_scale: float = 1.2,
        encoder_widths: Sequence[int] = (64, 128, 256),
        encoder: str = "embedded",
        backbone: dict[str, Any] | None = None,
        flip_test: bool = False,
        **kwargs: Any,
    ) -> None:
        self.crop_size = crop_size
        self.crop_scale = crop_scale
        self.encoder_widths = list(encoder_widths)
        self.encoder = encoder
        self.backbone = backbone
        self.flip_test = flip_test
        super().__init__(**kwargs)


class PersonEncoder(PreTrainedModel):
    """Written by `save_pretrained`; `load_encoder` reads it."""

    config_class = PersonEncoderConfig
    base_model_prefix = ""
    main_input_name = "crops"
    config: PersonEncoderConfig

    def __init__(self, config: PersonEncoderConfig) -> None:
        super().__init__(config)
        self.network = _new_network(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: transformers' default would overwrite the initialisation of the layers."""

    def crop_box(self, box: Box) -> Box:
        return box.square(self.config.crop_scale)

    def crops(self, samples: Sequence[Sample]) -> Float[Tensor, "batch 3 side side"]:
        """The network's input, RGB from 0 to 1."""
        size = self.config.crop_size
        pixels = np.stack([crop_image(s.image, self.crop_box(s.box), size) for s in samples])
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 255

    def forward(self, crops: Float[Tensor, "batch 3 side side"]) -> EncoderOutput:
        """Always in evaluation mode, so that batch statistics do not change."""
        network = self.network.eval()
        return flip_test(network, crops) if self.config.flip_test else network(crops)

    @torch.no_grad()
    def run_encoder(self, samples: Sequence[Sample]) -> EncoderOutput:
        return self(self.crops(samples))

    def digest(self) -> str:
        """Content hash of the weights and of the settings that shape an answer."""
        settings = [
            f"{name}={getattr(self.config, name)}" for name in ("crop_size", "crop_scale", "flip_test")
        ]
        if isinstance(self.network, TransformersEncoder):
            settings.append(self.network.spec.fingerprint())
        return weights_digest(self.state_dict(), after=settings)


def _new_network(config: PersonEncoderConfig) -> CropEncoder | TransformersEncoder:
    if config.encoder == "embedded":
        fine, middle, coarse = config.encoder_widths
        return CropEncoder((fine, middle, coarse))
    if not config.encoder.startswith(PREFIX):
        raise ValueError(f"no encoder is called {config.encoder!r}; there are embedded, {PREFIX}NAME")
    if config.backbone is None:
        config.backbone = dataclasses.asdict(describe_backbone(config.encoder.removeprefix(PREFIX)))
    return TransformersEncoder(BackboneSpec.from_dict(config.backbone))


def load_encoder(folder: PathLike | None = None, device: str = "cpu") -> PersonEncoder:
    """The encoder in a folder (default: the shipped one), frozen, in evaluation mode, in float32. Features of a
    transformers backbone are cached on disk (`hmr.detection.feature_cache.default_cache`).

    Raises FileNotFoundError or ValueError, which name the folder, if no encoder can be read from it.
    """
    encoder = load_whole(PersonEncoder, Path(folder or SHIPPED_ENCODER), "encoder", LIMITS)
    if isinstance(encoder.network, TransformersEncoder):
        encoder.network.cache = default_cache()
    encoder.to(torch.device(device))  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides the signature)
    return encoder.requires_grad_(False).eval()
