"""Image embeddings for prototype retrieval: the embedded encoder's feature of the person's crop, or CLIP's.

The paper retrieves prototypes by CLIP. The embedded encoder's feature is the default because it needs no other weights.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from hmr.detection.encoder_cache import EncoderCache
from hmr.detection.person_encoder import load_encoder
from hmr.images.crops import crop_image
from hmr.types import Sample
from memory.vectors.embed import ClipEmbedder

__all__ = ["ClipSampleEmbedder", "EncoderEmbedder", "load_image_embedder"]

CROP_SCALE = 1.25  # side of the crop, relative to the side of the person's box
CROP_PX = 336  # at least as large as any CLIP's input; the model's processor resizes it


class EncoderEmbedder:
    """The default `agent.context.SampleEmbedder`: the global feature of a person encoder.

    The name contains a hash of the encoder, because another encoder gives other embeddings.
    """

    def __init__(self, encoder_cache: EncoderCache) -> None:
        self.encoder_cache = encoder_cache
        encoder = encoder_cache.encoder
        self.dim = encoder.network.pooled_size
        self.name = f"encoder@{encoder.digest()[:12]}"

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        return self.encoder_cache.run_encoder([sample]).vector[0, : self.dim].cpu().numpy()


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
    spec: str, encoder_cache: EncoderCache | None = None, device: str = "cpu"
) -> EncoderEmbedder | ClipSampleEmbedder:
    """The embedder `embedded`, or `clip:NAME` with the hub name or folder of a CLIP model.

    encoder_cache: of an encoder that is already loaded; None: the shipped one.

    Raises ValueError for any other name.
    """
    kind, _, model = spec.partition(":")
    if kind == "embedded" and not model:
        return EncoderEmbedder(encoder_cache or EncoderCache(load_encoder(device=device)))
    if kind == "clip" and model:
        return ClipSampleEmbedder(model, device)
    raise ValueError(
        f"no image embedder {spec!r}; there are embedded and clip:NAME, such as clip:openai/clip-vit-base-patch32"
    )
