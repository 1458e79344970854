"""Detectors trained on photographs, from transformers: a person detector ("finder"), a pose estimator and a segmenter.

| part      | default                                        | any model of                                        |
|-----------|------------------------------------------------|-----------------------------------------------------|
| finder    | RT-DETR (Zhao et al., arXiv 2304.08069)        | AutoModelForObjectDetection with a class `person`   |
| pose      | ViTPose (Xu et al., arXiv 2204.12484)          | VitPoseForPoseEstimation, ViTPose+ too, 17 keypoints |
| segmenter | Mask2Former (Cheng et al., arXiv 2112.01527)   | AutoModelForUniversalSegmentation: Mask2Former,     |
|           |                                                | MaskFormer, EoMT, with a class `person`             |

A detection has the points that COCO annotates (`hmr.detection.keypoints.sets`) and the mask.

Only safetensors are loaded, never a pickle. Left out: OneFormer, which needs a task as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForUniversalSegmentation,
    PreTrainedModel,
    VitPoseForPoseEstimation,
)

from common.hub import hub_access
from common.storage.fingerprint import digest, weights_digest
from hmr.detection.keypoints.sets import COCO
from hmr.images.crops import crop_image
from hmr.types import Box, Detection, Sample

__all__ = ["TransformersDetector", "load_transformers_detector"]

DEFAULT_MODELS = (
    "PekingU/rtdetr_r50vd_coco_o365",
    "usyd-community/vitpose-base-simple",
    "facebook/mask2former-swin-tiny-coco-instance",
)
MIN_SCORE = 0.5  # of a person's box
MASK_SCALE = 1.2  # of the person's box, for the input of the segmenter
MASK_CROP_PX = 384


@dataclass(frozen=True)
class _Part:
    """A model with its image processor."""

    model: PreTrainedModel
    processor: Any
    person: int | None = None  # index of the class `person`

    def predict(self, image: UInt8[np.ndarray, "height width 3"]) -> Any:
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        return self.model(**inputs)


class TransformersDetector:
    """See the module. `name` contains the names of the models, and is part of fingerprints."""

    def __init__(self, name: str, finder: _Part, pose: _Part, segmenter: _Part) -> None:
        self.name, self.finder, self.pose, self.segmenter = name, finder, pose, segmenter

    def digest(self) -> str:
        parts = (self.finder, self.pose, self.segmenter)
        return digest(*(weights_digest(part.model.state_dict()) for part in parts))

    @torch.no_grad()
    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Boxes of people by decreasing score."""
        output = self.finder.predict(image)
        (found,) = self.finder.processor.post_process_object_detection(
            output, threshold=MIN_SCORE, target_sizes=[image.shape[:2]]
        )
        people = found["labels"] == self.finder.person
        scores, corners = found["scores"][people], found["boxes"][people]
        boxes = [corners[index].tolist() for index in scores.argsort(descending=True)]
        return [Box(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes if x1 > x0 and y1 > y0]

    @torch.no_grad()
    def detect(self, sample: Sample) -> Detection:
        keypoints_px, confidence = self._keypoints(sample)
        square = sample.box.square(MASK_SCALE)
        return COCO.detection(
            keypoints_px, confidence, sample.box,
            mask=self._mask(sample, square), mask_box=square, person_confidence=_of_person(confidence),
        )  # fmt: skip

    def _keypoints(self, sample: Sample) -> tuple[Float[Tensor, "17 2"], Float[Tensor, "17"]]:
        box = sample.box
        corner_and_size = [[[box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]]]
        experts = getattr(self.pose.model.config.backbone_config, "num_experts", 1)
        # of ViTPose+; 0 is COCO
        device = self.pose.model.device
        chosen = {"dataset_index": torch.zeros(1, dtype=torch.long, device=device)} if experts > 1 else {}
        inputs = self.pose.processor(images=sample.image, boxes=corner_and_size, return_tensors="pt")
        output = self.pose.model(**inputs.to(device), **chosen)
        ((person,),) = self.pose.processor.post_process_pose_estimation(output, boxes=corner_and_size)
        return person["keypoints"].float(), person["scores"].float().clamp(0, 1)

    def _mask(self, sample: Sample, square: Box) -> Float[np.ndarray, "size size"]:
        """The mask of the query with the highest person probability times overlap with the box."""
        output = self.segmenter.predict(crop_image(sample.image, square, MASK_CROP_PX))
        person = output.class_queries_logits[0].softmax(dim=-1)[:, self.segmenter.person]
        masks = output.masks_queries_logits[0].sigmoid()
        inside = _box_mask(sample.box, square, masks.shape[-1]).to(masks.device)
        overlap = (masks * inside).sum(dim=(1, 2)) / torch.maximum(masks, inside).sum(dim=(1, 2))
        best = int((person * overlap).argmax())
        return (person[best] * masks[best]).float().cpu().numpy()


def _of_person(confidence: Float[Tensor, "17"]) -> float:
    """That there is a person: the mean over the better half of the keypoints, as half of a person may be hidden."""
    return float(confidence.sort().values[len(confidence) // 2 :].mean())


def _box_mask(box: Box, square: Box, size: int) -> Float[Tensor, "size size"]:
    centers = (torch.arange(size) + 0.5) / size * square.side
    columns = (centers + square.x0 > box.x0) & (centers + square.x0 < box.x1)
    rows = (centers + square.y0 > box.y0) & (centers + square.y0 < box.y1)
    return (rows[:, None] & columns[None]).float()


def load_transformers_detector(models: str = "", device: str = "cpu") -> TransformersDetector:
    """`FINDER,POSE,SEGMENTER`: hub names or local folders; a missing or empty one is the default.

    Raises ValueError, which names the model, if one cannot be loaded, has no class `person`, or does not have COCO's 17
    keypoints.
    """
    given = [name.strip() for name in models.split(",")]
    if len(given) > len(DEFAULT_MODELS):
        raise ValueError(
            f"a transformers detector has three parts, FINDER,POSE,SEGMENTER, not {len(given)}: {models}"
        )
    given += [""] * (len(DEFAULT_MODELS) - len(given))
    names = [name or default for name, default in zip(given, DEFAULT_MODELS, strict=True)]
    finder = _load(AutoModelForObjectDetection, names[0], device)
    pose = _load(VitPoseForPoseEstimation, names[1], device)
    segmenter = _load(AutoModelForUniversalSegmentation, names[2], device)
    if pose.model.config.num_labels != len(COCO):
        raise ValueError(f"{names[1]} has {pose.model.config.num_labels} keypoints, not COCO's {len(COCO)}")
    return TransformersDetector(
        f"transformers:{','.join(names)}",
        _Part(finder.model, finder.processor, _person_class(names[0], finder.model)),
        pose,
        _Part(segmenter.model, segmenter.processor, _person_class(names[2], segmenter.model)),
    )


def _load(kind: Any, name: str, device: str) -> _Part:
    try:
        with hub_access(name):
            processor = AutoImageProcessor.from_pretrained(name)
            model = kind.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"the detector's model {name} cannot be loaded as {kind.__name__}: {reason}"
        ) from error
    return _Part(model.eval().requires_grad_(False).to(device), processor)


def _person_class(name: str, model: PreTrainedModel) -> int:
    classes = model.config.id2label or {}
    for number, label in classes.items():
        if label.lower() == "person":
            return int(number)
    raise ValueError(
        f"{name} has no class `person`; its classes are {', '.join([*classes.values()][:8])} ..."
    )
