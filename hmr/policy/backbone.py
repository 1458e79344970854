"""Any transformers vision backbone as the policy's eyes: frozen features, the embedded encoder's heads on top.

`encoder: transformers:<hub name or folder>` in a policy's config. Plain transformers (ViT, DINOv2, DINOv3) give patch
tokens, hierarchical ones (Swin, ConvNeXt) a grid, ViTPose checkpoints their backbone's. All become a grid of features;
a small neck doubles its resolution and `EncoderHeads` read it as they read the embedded encoder's.

The backbone is frozen and **not part of the checkpoint**: 340 MB of DINOv2-base beside 8 MB of heads would be the same
340 MB in every checkpoint. `BackboneCard` in the config says how to find it again: by name at its commit, or by folder
and the hash of its weights, and it is an error where the weights are others. Its input is what its own processor says:
size, mean, deviation. A portrait input (ViTPose: 256 x 192) sees the crop's middle strip, as in HMR 2.0 (Goel et al.,
ICCV 2023, arXiv 2305.20091), and the grid is zero beside it.

Left out: fine-tuning the backbone, which makes it part of the checkpoint again, and a class token, which not all have;
the global feature is the grid's mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.policy.encoder import EncoderHeads, Seen
from hmr.policy.feature_cache import FeatureCache

__all__ = ["PREFIX", "BackboneCard", "TransformersEncoder", "describe_backbone"]

PREFIX = "transformers:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneCard:
    """What must be known of a backbone to build the heads for it and to find it again."""

    name: str  # on the hub, or a folder
    revision: str  # commit on the hub, or the hash of a folder's weights
    channels: int
    patch: int  # pixels a side
    height: int  # of its input
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def of(values: dict[str, Any]) -> BackboneCard:
        """From what JSON kept of one."""
        return BackboneCard(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def what_it_sees(self) -> str:
        """All that its features depend on, beside the picture: the weights and what they are shown. Not the name: a
        folder may move."""
        return repr((self.revision, self.height, self.width, self.mean, self.std))


def describe_backbone(name: str, revision: str | None = None) -> BackboneCard:
    """Reads the model's and its processor's configs, no weights. Raises ValueError where there is no such model."""
    from transformers import AutoConfig
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        whole = AutoConfig.from_pretrained(name, revision=revision)
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is no vision backbone on the hub or in a folder, with config.json and preprocessor_config.json: "
            f"{error}"
        ) from error
    config = getattr(whole, "backbone_config", None) or whole  # ViTPose's estimator holds its backbone
    sizes = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    height, width = _input_size(processor, config)
    mean, std = processor.get("image_mean", IMAGENET_MEAN), processor.get("image_std", IMAGENET_STD)
    return BackboneCard(
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
    """Same contract as `hmr.policy.encoder.CropEncoder`. The backbone is loaded when it first looks through it.

    cache: features of crops that were seen before; `hmr.policy.checkpoint.load_policy` gives it one. It is neither read nor
    written in training, which recolours crops so that none comes twice, nor under autocast, which rounds.
    """

    def __init__(self, card: BackboneCard, pyramid: int = 96, part_channels: int = 16) -> None:
        super().__init__()
        self.card = card
        self.cache: FeatureCache | None = None
        self._held: list[nn.Module] = []  # a list hides it from the state dict
        self.neck = nn.Sequential(
            nn.Conv2d(card.channels, pyramid, 1),
            nn.GroupNorm(8, pyramid),
            nn.SiLU(),
            nn.Upsample(scale_factor=2.0, mode="bilinear"),
            nn.Conv2d(pyramid, pyramid, 3, 1, 1),
            nn.GroupNorm(8, pyramid),
            nn.SiLU(),
        )
        self._add_heads(card.channels, pyramid, pyramid, part_channels)

    def forward(self, crops: Float[Tensor, "batch 3 side side"]) -> Seen:
        """`crops`: RGB, 0 to 1, of any side divisible by 4; the mask has a quarter of it."""
        grid = self.features(crops).to(self.mask.weight.dtype)
        pyramid = self.neck(grid)
        seen = self._read(grid.mean(dim=(2, 3)), pyramid, pyramid)
        side = crops.shape[-1] // 4
        mask = F.interpolate(seen.mask_logit[:, None], (side, side), mode="bilinear")[:, 0]
        return dataclasses.replace(seen, mask_logit=mask)

    @torch.no_grad()
    def features(self, crops: Float[Tensor, "batch 3 side side"]) -> Float16[Tensor, "batch channels h w"]:
        """The frozen grid, in float16 whether cached or not, so that both say the same."""
        if self.cache is None or self.training or torch.is_autocast_enabled(crops.device.type):
            return self._look(crops).half()
        keys = [self.cache.key(self.card.what_it_sees(), crop) for crop in crops]
        known = [self.cache.get(key) for key in keys]
        missing = [row for row, grid in enumerate(known) if grid is None]
        if missing:
            for row, grid in zip(missing, self._look(crops[missing]).half().cpu(), strict=True):
                self.cache.put(keys[row], grid)
                known[row] = grid
        return torch.stack([grid for grid in known if grid is not None]).to(crops.device)

    def _look(self, crops: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch channels h w"]:
        card = self.card
        longest = max(card.height, card.width)
        pictures = F.interpolate(crops, (longest, longest), mode="bilinear", antialias=True)
        top, left = (longest - card.height) // 2, (longest - card.width) // 2
        pictures = pictures[:, :, top : top + card.height, left : left + card.width]
        mean, std = (
            torch.tensor(values, device=crops.device)[:, None, None] for values in (card.mean, card.std)
        )
        if not self._held:
            self._held.append(_load_backbone(card))
        backbone = self._held[0].to(crops.device)
        return _square(_grid_of(backbone, (pictures - mean) / std, card))


def _load_backbone(card: BackboneCard) -> nn.Module:
    """Frozen, in evaluation mode. Raises ValueError where it is not the network that the heads were trained on."""
    from transformers import AutoConfig, VitPoseForPoseEstimation
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    where: dict[str, Any] = {} if Path(card.name).is_dir() else {"revision": card.revision}
    try:
        config = AutoConfig.from_pretrained(card.name, **where)
        if config.model_type == "vitpose":
            model = VitPoseForPoseEstimation.from_pretrained(card.name, **where).backbone
        else:
            classes: Any = MODEL_MAPPING if type(config) in MODEL_MAPPING else MODEL_FOR_BACKBONE_MAPPING
            model = classes[type(config)].from_pretrained(card.name, **where)
    except OSError as error:
        raise ValueError(f"the backbone {card.name!r} cannot be found again: {error}") from error
    if (found := _revision(card.name, config)) != card.revision:
        raise ValueError(
            f"{card.name!r} is another backbone: it is {found}, the policy knows {card.revision}"
        )
    return model.requires_grad_(False).eval()


def _grid_of(
    backbone: nn.Module, pictures: Float[Tensor, "batch 3 height width"], card: BackboneCard
) -> Float[Tensor, "batch channels rows columns"]:
    """Patch tokens in reading order, without what comes before them (class token, registers)."""
    experts = getattr(backbone.config, "num_experts", 1)  # ViTPose+ has one a data set; the first is COCO
    extra = (
        {"dataset_index": torch.zeros(len(pictures), dtype=torch.long, device=pictures.device)}
        if experts > 1
        else {}
    )
    answer = backbone(pictures, **extra)
    maps = getattr(answer, "feature_maps", None)
    found = answer.last_hidden_state if maps is None else maps[-1]
    if found.ndim == 4:
        return found
    rows, columns = _rows_and_columns(found.shape[1], card)
    return found[:, -rows * columns :].mT.unflatten(-1, (rows, columns))


def _square(grid: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels side side"]:
    """The whole crop's grid, zero where a portrait backbone did not look."""
    rows, columns = grid.shape[-2:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    return F.pad(grid, (left, side - columns - left, top, side - rows - top))


def _rows_and_columns(tokens: int, card: BackboneCard) -> tuple[int, int]:
    """A token a patch, or, where patches were merged (Swin), a grid of the input's proportions without extra tokens."""
    rows, columns = card.height // card.patch, card.width // card.patch
    if rows * columns > tokens:
        rows = round(math.sqrt(tokens * card.height / card.width))
        columns = tokens // rows
        if rows * columns != tokens:
            raise ValueError(f"{card.name!r} gives {tokens} tokens, which are no grid over its input")
    return rows, columns


def _input_size(processor: dict[str, Any], config: Any) -> tuple[int, int]:
    """Height and width, in whole patches, of what the processor would hand on."""
    given = processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")
    if isinstance(given, dict):
        side = given.get("shortest_edge")
        given = (given.get("height", side), given.get("width", side))
    height, width = _pair(given or config.image_size)
    patch = _pair(getattr(config, "patch_size", 1))[0]
    return height // patch * patch, width // patch * patch


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _revision(name: str, config: Any) -> str:
    """The hub's commit, or, of a folder, the hash of its weights."""
    if not Path(name).is_dir():
        return str(config._commit_hash)
    state = hashlib.sha256()
    for path in sorted(Path(name).glob("*.safetensors")):
        state.update(path.name.encode())
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()[:16]
