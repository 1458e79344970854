"""Training of the person encoder (`hmr.detection.person_encoder`) on labelled `lab` scenes, from pixels.

| term          | compared quantities                                           | weight                  |
|---------------|---------------------------------------------------------------|-------------------------|
| keypoints     | Laplace likelihood of the 2D joints inside the crop           | `keypoints`             |
| depths        | the same for their depths behind the pelvis, metres           | `depths`                |
| visible, mask | binary cross-entropy                                          | `visible`, `mask`       |

    OUT/made_from.json                        fingerprint (`hmr.pretraining.encoder_recipe`); another run is refused
    OUT/checkpoint-*                          checkpoints, from which a killed run resumes
    OUT/config.json, OUT/model.safetensors    the encoder, EMA weights in float16
    OUT/training.json                         the recipe and the curves; written last, so its presence means finished

All processes of a run share the folders; the first one draws scenes and writes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from accelerate import PartialState
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from common.reading.pretrained import save_compact
from common.storage.files import PathLike, write_text
from common.storage.fingerprint import claim_run
from hmr.body.model import load_body
from hmr.detection.encoder import EncoderOutput
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig, load_encoder
from hmr.pretraining.augmentation import as_floats, augment
from hmr.pretraining.crop_cache import CropCache, CropDataset, Progress, counting, make_crops
from hmr.pretraining.encoder_recipe import EncoderRecipe, run_fingerprint
from hmr.pretraining.losses import weighted
from hmr.pretraining.sampler import WeightedRows, rarity_m
from hmr.pretraining.stages import Stage, run_stage, stage_arguments

__all__ = ["EncoderLoss", "interpolate_weights", "train_encoder"]

CHANGEABLE = ("flip_test",)  # does not change a shape
HISTORY = "training.json"
OUTPUTS = ("checkpoint-*", "model.safetensors", HISTORY)
LABEL = "keypoints"


def train_encoder(
    recipe: EncoderRecipe, out: PathLike, cache: PathLike, workers: int = 2, progress: Progress | None = None
) -> PersonEncoder:
    """Draw the crops under `cache`, train, and save the encoder in `out`.

    A killed run resumes from its newest checkpoint, with the same result as an uninterrupted one. The encoder of a
    finished run is loaded.

    progress: receives a title, the number of scenes drawn and their total.

    Raises ValueError for values that the encoder or transformers refuses, and if `out` holds another run;
    FileNotFoundError for a missing folder or body model. Both are raised before anything is drawn.
    """
    load_body(recipe.body)  # a file that is no body model is refused before the folder is claimed
    out, encoder = Path(out), _starting_encoder(recipe)
    module = EncoderLoss(encoder, recipe)
    arguments = stage_arguments(recipe.training, out, recipe.seed, LABEL)
    with PartialState().main_process_first():
        claim_run(out, run_fingerprint(recipe, encoder, PartialState().num_processes), OUTPUTS)
        finished = (out / HISTORY).exists()
    if finished:
        return load_encoder(out)
    with PartialState().main_process_first():  # the others find the finished crops
        train_rows, held_out = (
            _crop_dataset(recipe.crops(encoder.config, held_out=rows), cache, workers, progress)
            for rows in (False, True)
        )
    train_rows.mirrored = True
    history = run_stage(
        Stage(module, train_rows, held_out, recipe.ema_decay, _sampler(train_rows, recipe)), arguments
    )
    if recipe.wise_ft_alpha:
        interpolate_weights(encoder, _starting_encoder(recipe), recipe.wise_ft_alpha)
    if PartialState().is_main_process:
        save_compact(encoder, out)
        write_text(
            out / HISTORY, json.dumps({"recipe": dataclasses.asdict(recipe), "encoder": history}, indent=1)
        )
    PartialState().wait_for_everyone()
    return load_encoder(out)


def _starting_encoder(recipe: EncoderRecipe) -> PersonEncoder:
    if recipe.start_from is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # the same initial weights in every process and run
            return PersonEncoder(PersonEncoderConfig(**recipe.encoder))
    encoder = load_encoder(Path(recipe.start_from)).float()
    for key, value in recipe.encoder.items():
        if key in CHANGEABLE:
            setattr(encoder.config, key, value)
        elif (current := getattr(encoder.config, key)) != value:
            raise ValueError(f"{recipe.start_from} has {key} {current}, the recipe has {value}")
    return encoder.requires_grad_(True)


@torch.no_grad()
def interpolate_weights(encoder: nn.Module, start: nn.Module, alpha: float) -> None:
    """Set `encoder` to (1 - alpha) encoder + alpha start, weights and statistics alike.

    Interpolated networks keep much of both the new and the old training (WiSE-FT, arXiv 2109.01903).
    """
    old = start.state_dict()
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(old[name].to(tensor), alpha)


def _crop_dataset(crops: CropCache, cache: PathLike, workers: int, progress: Progress | None) -> CropDataset:
    report = counting(progress, "drawing scenes", crops.count)
    return CropDataset(make_crops(crops, cache, workers, report))


def _sampler(rows: CropDataset, recipe: EncoderRecipe) -> WeightedRows | None:
    if not recipe.rarity:
        return None
    rarity = rarity_m(rows.poses_m, torch.Generator().manual_seed(recipe.seed))
    return WeightedRows(rarity**recipe.rarity, recipe.seed)


class EncoderLoss(nn.Module):
    """The losses of the encoder's heads, with augmentation in training, as a module for transformers.Trainer.

    Raises ValueError if the network has no child of the name of a frozen layer.
    """

    def __init__(self, encoder: PersonEncoder, recipe: EncoderRecipe) -> None:
        super().__init__()
        self.network, self.weights = encoder.network, recipe.losses
        names = [name for name, _ in self.network.named_children()]
        if unknown := [name for name in recipe.frozen_layers if name not in names]:
            raise ValueError(f"the encoder has no layer {unknown[0]!r} to freeze; it has {', '.join(names)}")
        # a tuple, which nn.Module does not register a second time
        self._frozen = tuple(self.network.get_submodule(name) for name in recipe.frozen_layers)
        for layer in self._frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> EncoderLoss:
        super().train(mode)
        for layer in self._frozen:  # batch statistics included
            layer.eval()
        return self

    def forward(
        self,
        crops: UInt8[Tensor, "batch side side 3"],
        keypoints: Float[Tensor, "batch 24 2"],
        depth_m: Float[Tensor, "batch 24"],
        visible: Bool[Tensor, "batch 24"],
        mask: UInt8[Tensor, "batch mask mask"],
    ) -> dict[str, Tensor]:
        rows = as_floats(
            {"crops": crops, "mask": mask, "keypoints": keypoints, "depth_m": depth_m, "visible": visible}
        )
        if self.training:
            with torch.no_grad(), torch.autocast(crops.device.type, enabled=False):
                rows = augment(rows)
        return weighted(_terms(self.network(rows["crops"]), rows), self.weights)


def _terms(output: EncoderOutput, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    keypoints = rows["keypoints"]
    inside = (keypoints.abs() <= 1).all(dim=-1).float()
    return {
        "keypoints": _laplace_nll(output.keypoints - keypoints, output.log_sigma, inside),
        "depths": _laplace_nll((output.depth_m - rows["depth_m"])[..., None], output.depth_log_sigma, inside),
        "visible": F.binary_cross_entropy_with_logits(output.visible_logit, rows["visible"].float()),
        "mask": F.binary_cross_entropy_with_logits(output.mask_logit, rows["mask"]),
    }


def _laplace_nll(
    error: Float[Tensor, "batch 24 size"],
    log_sigma: Float[Tensor, "batch 24"],
    counted: Float[Tensor, "batch 24"],
) -> Float[Tensor, ""]:
    """Negative log likelihood under a Laplace distribution of standard deviation sigma, so of scale sigma / sqrt(2)."""
    scale = log_sigma.exp() / 2**0.5
    distance = error.abs().sum(dim=-1)
    # the last term keeps a gradient where sigma is large
    loss = distance / scale + error.shape[-1] * scale.log() + distance
    return (loss * counted).sum() / counted.sum().clamp_min(1)
