"""Where a photograph lies among the prototypes: by the policy encoder's feature of the person's crop, or by CLIP's.

The paper looks prototypes up by CLIP. The policy's own feature is the default because it needs no weights but
those at hand.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float
from torch import nn

from hmr.images.crops import crop_image
from hmr.policy.backbone import TransformersEncoder
from hmr.policy.encoder_cache import EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample
from memory.embed import ClipEmbedder

__all__ = ["ClipSampleEmbedder", "PolicyEmbedder", "load_image_embedder"]

CROP_SCALE = 1.25  # side of the crop over the side of the person's box
CROP_PX = 336  # larger than any CLIP's input, which the model's own processor then makes


class PolicyEmbedder:
    """The embedded default of `agent.context.SampleEmbedder`.

    The feature is of the encoder, which alignment never trains: one memory serves a policy and what it becomes. The
    name carries the encoder's hash: under another encoder the same photograph lies elsewhere.
    """

    def __init__(self, policy: DiffusionPolicy, encoder_cache: EncoderCache | None = None) -> None:
        self.encoder_cache = encoder_cache or EncoderCache(policy)
        self.dim = policy.encoder.pooled_size
        self.name = f"policy-encoder@{_digest(policy.encoder)}"

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        return self.encoder_cache.run_encoder([sample]).vector[0, : self.dim].cpu().numpy()


def _digest(encoder: nn.Module) -> str:
    state = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        state.update(key.encode() + tensor.cpu().numpy().tobytes())
    if isinstance(encoder, TransformersEncoder):
        state.update(encoder.spec.revision.encode())
    return state.hexdigest()[:12]


class ClipSampleEmbedder:
    """CLIP's projected image feature of the person's crop; the model comes by hub name or folder on first use."""

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
    """`policy`, or `clip:NAME` with a CLIP's hub name or folder; `encoder_cache` are the policy's, where somebody shares them.

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
