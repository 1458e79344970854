"""A transformers vision backbone as the policy's encoder: frozen features with the embedded encoder's heads on top.

Selected by `encoder: transformers:<hub name or folder>` in a policy's config. Plain transformers (ViT, DINOv2, DINOv3)
give patch tokens, hierarchical ones (Swin, ConvNeXt) a grid, and of a ViTPose checkpoint the backbone is used. Each
becomes a grid of features; a small neck doubles its resolution, and `EncoderHeads` is applied to the result.

The backbone is frozen and **not part of the checkpoint**: 340 MB of DINOv2-base would be stored again with every 8 MB
of heads. `BackboneSpec` in the config identifies it: by name and commit, or by folder and hash of its weights; other
weights are an error. Its input size, mean and deviation are those of its own processor. A portrait input (ViTPose:
256 x 192) covers the crop's middle strip, as in HMR 2.0 (Goel et al., ICCV 2023, arXiv 2305.20091); the grid is zero
beside it.

Left out: fine-tuning the backbone, which would make it part of the checkpoint, and the class token, which not all
backbones have; the global feature is the mean of the grid.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16
from torch import Tensor, nn
from torch.nn import functional as F

from common.hub import hub_access
from common.reading.untrusted_files import reason_in_a_line
from common.storage.fingerprint import digest, file_digest
from hmr.detection.encoder import EncoderHeads, EncoderOutput
from hmr.detection.feature_cache import FeatureCache

__all__ = ["PREFIX", "BackboneSpec", "TransformersEncoder", "describe_backbone"]

PREFIX = "transformers:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """Everything needed to build heads for a backbone and to load the same backbone again."""

    name: str  # hub name or folder
    revision: str  # commit on the hub, or hash of the weights in the folder
    channels: int
    patch: int  # side in pixels
    height: int  # of the input
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def from_dict(values: dict[str, Any]) -> BackboneSpec:
        """From a dict as JSON returns it, with lists in place of tuples."""
        return BackboneSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def fingerprint(self) -> str:
        """Everything that the features depend on except the image. The name is left out, because a folder may move."""
        return repr((self.revision, self.height, self.width, self.mean, self.std))


def describe_backbone(name: str, revision: str | None = None) -> BackboneSpec:
    """Read the configs of the model and its processor, not the weights. Raises ValueError if there is no such model."""
    from transformers import AutoConfig
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        with hub_access(name):
            whole = AutoConfig.from_pretrained(name, revision=revision)
            processor, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is not a vision backbone on the hub, or a folder with config.json and preprocessor_config.json: "
            f"{reason_in_a_line(error)}"
        ) from error
    config = getattr(whole, "backbone_config", None) or whole  # of ViTPose
    sizes = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    height, width = _input_size(processor, config)
    mean, std = processor.get("image_mean", IMAGENET_MEAN), processor.get("image_std", IMAGENET_STD)
    return BackboneSpec(
        name=name,
        revision=_revision(name, whole),
        channels=int(sizes[-1]),
        patch=int(_pair(getattr(config, "patch_size", 32))[0]),
        height=height,
        width=width,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )


class TransformersEncoder(EncoderHeads):
    """Same contract as `hmr.detection.encoder.CropEncoder`. The backbone is loaded at the first forward pass.

    cache: features of crops from earlier passes, set by `hmr.policy.checkpoint.load_policy`. It is not used in
        training, where augmentation makes every crop different, nor under autocast, which rounds the features.
    """

    def __init__(self, spec: BackboneSpec, pyramid: int = 96, part_channels: int = 16) -> None:
        super().__init__()
        self.spec = spec
        self.cache: FeatureCache | None = None
        self._backbone: list[nn.Module] = []  # empty until loaded; a list keeps it out of the state dict
        self.neck = nn.Sequential(
            nn.Conv2d(spec.channels, pyramid, 1),
            nn.GroupNorm(8, pyramid),
            nn.SiLU(),
            nn.Upsample(scale_factor=2.0, mode="bilinear"),
            nn.Conv2d(pyramid, pyramid, 3, 1, 1),
            nn.GroupNorm(8, pyramid),
            nn.SiLU(),
        )
        self._add_heads(spec.channels, pyramid, pyramid, part_channels)

    def forward(self, crops: Float[Tensor, "batch 3 side side"]) -> EncoderOutput:
        """`crops`: RGB, 0 to 1, any side divisible by 4; the side of the mask is a quarter of it."""
        grid = self.features(crops).to(self.mask.weight.dtype)
        pyramid = self.neck(grid)
        output = self._apply_heads(grid.mean(dim=(2, 3)), pyramid, pyramid)
        side = crops.shape[-1] // 4
        mask = F.interpolate(output.mask_logit[:, None], (side, side), mode="bilinear")[:, 0]
        return dataclasses.replace(output, mask_logit=mask)

    @torch.no_grad()
    def features(self, crops: Float[Tensor, "batch 3 side side"]) -> Float16[Tensor, "batch channels h w"]:
        """The frozen grid, in float16 whether cached or not, so that both give the same result."""
        if self.cache is None or self.training or torch.is_autocast_enabled(crops.device.type):
            return self._run_backbone(crops).half()
        keys = [self.cache.key(self.spec.fingerprint(), crop) for crop in crops]
        known = [self.cache.get(key) for key in keys]
        missing = [row for row, grid in enumerate(known) if grid is None]
        if missing:
            for row, grid in zip(missing, self._run_backbone(crops[missing]).half().cpu(), strict=True):
                self.cache.put(keys[row], grid)
                known[row] = grid
        return torch.stack([grid for grid in known if grid is not None]).to(crops.device)

    def _run_backbone(self, crops: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch channels h w"]:
        spec = self.spec
        longest = max(spec.height, spec.width)
        inputs = F.interpolate(crops, (longest, longest), mode="bilinear", antialias=True)
        top, left = (longest - spec.height) // 2, (longest - spec.width) // 2
        inputs = inputs[:, :, top : top + spec.height, left : left + spec.width]
        mean, std = (
            torch.tensor(values, device=crops.device)[:, None, None] for values in (spec.mean, spec.std)
        )
        if not self._backbone:
            self._backbone.append(_load_backbone(spec))
        backbone = self._backbone[0].to(crops.device)
        return _pad_to_square(_grid_of(backbone, (inputs - mean) / std, spec))


def _load_backbone(spec: BackboneSpec) -> nn.Module:
    """Frozen, in evaluation mode. Raises ValueError if it is not the network that the heads were trained on."""
    from transformers import AutoConfig, VitPoseForPoseEstimation
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    revision: dict[str, Any] = {} if Path(spec.name).is_dir() else {"revision": spec.revision}
    try:
        with hub_access(spec.name):
            config = AutoConfig.from_pretrained(spec.name, **revision)
            if config.model_type == "vitpose":
                model = VitPoseForPoseEstimation.from_pretrained(
                    spec.name, use_safetensors=True, **revision
                ).backbone
            else:
                classes: Any = MODEL_MAPPING if type(config) in MODEL_MAPPING else MODEL_FOR_BACKBONE_MAPPING
                model = classes[type(config)].from_pretrained(spec.name, use_safetensors=True, **revision)
    except OSError as error:
        raise ValueError(f"the backbone {spec.name!r} cannot be loaded: {reason_in_a_line(error)}") from error
    if (found := _revision(spec.name, config)) != spec.revision:
        raise ValueError(
            f"{spec.name!r} is another backbone: its revision is {found}, the policy was trained with {spec.revision}"
        )
    return model.requires_grad_(False).eval()


def _grid_of(
    backbone: nn.Module, inputs: Float[Tensor, "batch 3 height width"], spec: BackboneSpec
) -> Float[Tensor, "batch channels rows columns"]:
    """Patch tokens in reading order, without the tokens before them (class token, registers)."""
    experts = getattr(backbone.config, "num_experts", 1)  # ViTPose+ has one per data set; the first is COCO
    extra = (
        {"dataset_index": torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)}
        if experts > 1
        else {}
    )
    output = backbone(inputs, **extra)
    maps = getattr(output, "feature_maps", None)
    features = output.last_hidden_state if maps is None else maps[-1]
    if features.ndim == 4:
        return features
    rows, columns = _rows_and_columns(features.shape[1], spec)
    return features[:, -rows * columns :].mT.unflatten(-1, (rows, columns))


def _pad_to_square(
    grid: Float[Tensor, "batch channels rows columns"],
) -> Float[Tensor, "batch channels side side"]:
    """The grid of the whole crop: zero outside the input of a portrait backbone."""
    rows, columns = grid.shape[-2:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    return F.pad(grid, (left, side - columns - left, top, side - rows - top))


def _rows_and_columns(tokens: int, spec: BackboneSpec) -> tuple[int, int]:
    """One token per patch, or, if patches are merged (Swin), a grid of the input's proportions without extra tokens."""
    rows, columns = spec.height // spec.patch, spec.width // spec.patch
    if rows * columns > tokens:
        rows = round(math.sqrt(tokens * spec.height / spec.width))
        columns = tokens // rows
        if rows * columns != tokens:
            raise ValueError(f"{spec.name!r} gives {tokens} tokens, which do not form a grid over its input")
    return rows, columns


def _input_size(processor: dict[str, Any], config: Any) -> tuple[int, int]:
    """Height and width of the processor's output, rounded down to whole patches."""
    size = processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        size = (size.get("height", side), size.get("width", side))
    height, width = _pair(size or config.image_size)
    patch = _pair(getattr(config, "patch_size", 1))[0]
    return height // patch * patch, width // patch * patch


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _revision(name: str, config: Any) -> str:
    """The commit on the hub, or the hash of the weights in a folder."""
    if not Path(name).is_dir():
        return str(config._commit_hash)
    files = sorted(Path(name).glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"the backbone {name!r} has no weights in safetensors files, the only ones that are read"
        )
    return digest(*(part for file in files for part in (file.name, bytes.fromhex(file_digest(file, 64)))))
