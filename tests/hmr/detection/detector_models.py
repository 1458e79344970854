"""Tiny models of the real classes with random weights, saved as the hub would hold them: no network is needed."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SwinConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

__all__ = ["save_finder", "save_pose", "save_segmenter"]

CLASSES = {0: "chair", 1: "person"}


def _save(folder: Path, build, processor) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_finder(folder: Path, classes: dict[int, str] = CLASSES) -> Path:
    config = RTDetrConfig(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=32,
        d_model=32,
        encoder_ffn_dim=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        feat_strides=[8, 16, 32],
        decoder_in_channels=[32, 32, 32],
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        decoder_n_points=2,
        num_queries=12,
        num_denoising=0,
        id2label=classes,
        label2id={label: number for number, label in classes.items()},
    )

    def build() -> RTDetrForObjectDetection:
        """Untrained, but sure that all it sees is its second class."""
        model = RTDetrForObjectDetection(config)
        for head in model.model.decoder.class_embed:
            torch.nn.init.constant_(head.bias, -4.0)
            head.bias.data[1] = 4.0
        return model

    return _save(
        folder,
        build,
        RTDetrImageProcessorPil(size={"height": 64, "width": 64}),
    )


def save_pose(folder: Path, experts: int = 1, keypoints: int = 17) -> Path:
    config = VitPoseConfig(
        backbone_config=VitPoseBackboneConfig(
            image_size=[64, 48],
            patch_size=[16, 16],
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_experts=experts,
            part_features=8 if experts > 1 else 0,
            out_indices=[1],
        ),
        id2label={number: f"keypoint {number}" for number in range(keypoints)},
        label2id={f"keypoint {number}": number for number in range(keypoints)},
    )
    return _save(
        folder,
        lambda: VitPoseForPoseEstimation(config),
        VitPoseImageProcessorPil(size={"height": 64, "width": 48}),
    )


def save_segmenter(folder: Path) -> Path:
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        id2label=CLASSES,
        label2id={label: number for number, label in CLASSES.items()},
    )
    return _save(
        folder,
        lambda: Mask2FormerForUniversalSegmentation(config),
        Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}),
    )


def save_detector(folder: Path) -> str:
    """All three; what `hmr.detection.embedded.load_detector` is asked for them."""
    saved = save_finder(folder / "finder"), save_pose(folder / "pose"), save_segmenter(folder / "segmenter")
    return f"transformers:{','.join(map(str, saved))}"
