"""Image embeddings for prototype retrieval: the policy encoder's feature of the person's crop, or CLIP's.

The paper retrieves prototypes by CLIP. The policy's own feature is the default because it needs no other weights.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import nn

from common.fingerprint import weights_digest
from hmr.images.crops import crop_image
from hmr.policy.backbone import TransformersEncoder
from hmr.policy.encoder_cache import EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample
from memory.embed import ClipEmbedder

__all__ = ["ClipSampleEmbedder", "PolicyEmbedder", "load_image_embedder"]

CROP_SCALE = 1.25  # side of the crop, relative to the side of the person's box
CROP_PX = 336  # at least as large as any CLIP's input; the model's processor resizes it


class PolicyEmbedder:
    """The default `agent.context.SampleEmbedder`: the global feature of the policy's encoder.

    Alignment does not train the encoder, so a memory remains valid for the aligned policy. The name contains a hash of
    the encoder, because another encoder gives other embeddings.
    """

    def __init__(self, policy: DiffusionPolicy, encoder_cache: EncoderCache | None = None) -> None:
        self.encoder_cache = encoder_cache or EncoderCache(policy)
        self.dim = policy.encoder.pooled_size
        self.name = f"policy-encoder@{_digest(policy.encoder)}"

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        return self.encoder_cache.run_encoder([sample]).vector[0, : self.dim].cpu().numpy()


def _digest(encoder: nn.Module) -> str:
    revision = [encoder.spec.revision] if isinstance(encoder, TransformersEncoder) else []
    return weights_digest(encoder.state_dict(), after=revision, length=12)


class ClipSampleEmbedder:
    """CLIP's projected image feature of the person's crop. `model` is a hub name or a folder, loaded at first use."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        self._clip = ClipEmbedder(model, device)

    @property
    def name(self) -> str:
        return self._clip.name

    @property
    def dim(self) -> int:
        return self._clip.dim

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        crop = crop_image(sample.image, sample.box.square(CROP_SCALE), CROP_PX)
        return self._clip.embed([crop])[0]


def load_image_embedder(
    spec: str, policy: DiffusionPolicy, encoder_cache: EncoderCache | None = None
) -> PolicyEmbedder | ClipSampleEmbedder:
    """The embedder `policy`, or `clip:NAME` with the hub name or folder of a CLIP model.

    encoder_cache: the policy's, to share its features with a detector.

    Raises ValueError for any other name.
    """
    kind, _, model = spec.partition(":")
    if kind == "policy" and not model:
        return PolicyEmbedder(policy, encoder_cache)
    if kind == "clip" and model:
        return ClipSampleEmbedder(model, str(policy.device))
    raise ValueError(
        f"no image embedder {spec!r}; there are policy and clip:NAME, such as clip:openai/clip-vit-base-patch32"
    )
