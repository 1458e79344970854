"""Rendered people as the embedded detector's encoder reads them: the policy's training data with its true errors.

The errors of a network about a pose are not independent of the pose: what it does not know it fills in from the people
it has seen, position and depth alike. The simulation (`hmr.synthetic.detector_noise`) has no such model, so a part of
each training batch comes from here. The encoder must not have been trained on the same scenes.

Each reading is used twice, the second time mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.storage.files import PathLike, atomic_path
from hmr.detection.encoder import EncoderOutput
from hmr.detection.person_encoder import PersonEncoder
from hmr.policy.condition import PointEstimates, condition_of, unpack_points
from hmr.policy.parametrization import ROTATION_SIZE, box_features
from hmr.pretraining.crop_cache import CropCache, CropDataset, Progress, counting, make_crops
from hmr.pretraining.simulation import SimulatedPeople
from hmr.synthetic.recipe import RECIPES
from hmr.synthetic.splits import refuse_seed_of_split
from hmr.types import NUM_BETAS, NUM_JOINTS, NUM_POINTS, OTHER_POINT, OTHER_SIDE

__all__ = ["RenderedRecipe", "mirrored", "read_crops", "read_rendered_people"]

BATCH = 64


@dataclass(frozen=True)
class RenderedRecipe:
    """Which scenes are rendered and how large a part of each batch they are; without scenes, all people are simulated.

    Raises ValueError for an unknown recipe of scenes, the seed of a split that is not for training, and a value that
    is not allowed.
    """

    scenes: dict[str, int] = field(default_factory=dict)  # their number, by the name of their recipe
    seed: int = 9  # of the scenes
    share: float = 0.3  # of a batch
    encoder: str | None = None  # folder; None: the shipped one

    def __post_init__(self) -> None:
        for name, count in self.scenes.items():
            refuse_seed_of_split(name, self.seed)
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"the number of {name} scenes must be at least 1, not {count!r}")
        if not 0 < self.share <= 1 or self.seed < 0:
            raise ValueError("share must be above 0 and at most 1, and seed at least 0")

    def crops(self, encoder: PersonEncoder, body: str | None = None) -> list[CropCache]:
        """body: file of the body model that people are drawn with; None: the embedded one."""
        size, scale = encoder.config.crop_size, encoder.config.crop_scale
        file = Path(body) if body else None
        return [
            CropCache(RECIPES[name], self.seed, count, size, scale, body=file)
            for name, count in self.scenes.items()
        ]


def read_rendered_people(
    recipe: RenderedRecipe,
    encoder: PersonEncoder,
    cache: PathLike,
    workers: int = 1,
    progress: Progress | None = None,
    body: str | None = None,
) -> SimulatedPeople:
    """The people of the recipe's scenes as `encoder` reads them, followed by their mirror images.

    Scenes and readings are kept under `cache`; only one process may call this at a time. progress: receives a title,
    the number of scenes done and their total. body: file of the body model that people are drawn with; None: the
    embedded one.
    """
    parts = [read_crops(crops, encoder, cache, workers, progress) for crops in recipe.crops(encoder, body)]
    people = SimulatedPeople.cat(parts)
    return SimulatedPeople.cat([people, mirrored(people)])


def read_crops(
    crops: CropCache,
    encoder: PersonEncoder,
    cache: PathLike,
    workers: int = 1,
    progress: Progress | None = None,
) -> SimulatedPeople:
    """The people of rendered scenes as `encoder` reads them. Scenes and readings are kept under `cache`."""
    folder = make_crops(crops, cache, workers, counting(progress, "drawing scenes", crops.count))
    path = folder / f"read-by-{encoder.digest()}.safetensors"
    if not path.exists():
        features = _features(CropDataset(folder), encoder, counting(progress, "reading scenes", crops.count))
        with atomic_path(path) as partial:
            save_file({"features": features}, partial)
    targets = CropDataset(folder).targets
    columns = [targets[name] for name in ("vector", "geometry", "keypoints", "visible")]
    return SimulatedPeople(load_file(path)["features"], *columns)


@torch.no_grad()
def _features(
    crops: CropDataset, encoder: PersonEncoder, report: Callable[[int], None] | None
) -> Float[Tensor, "people features"]:
    rows = []
    for start in range(0, len(crops), BATCH):
        batch = torch.tensor(crops.crops[start : start + BATCH])
        output = encoder(batch.to(encoder.device).permute(0, 3, 1, 2).float() / 255)
        box = box_features(crops.targets["geometry"][start : start + BATCH])
        rows.append(condition_of(_points(output), box))
        if report is not None:
            report(start + len(batch))
    return torch.cat(rows)


def _points(output: EncoderOutput) -> PointEstimates:
    """The encoder's joints; surface points are not observed."""

    def all_points(
        joints: Float[Tensor, "batch 24 *rest"], missing: float
    ) -> Float[Tensor, "batch 41 *rest"]:
        full = torch.full((len(joints), NUM_POINTS, *joints.shape[2:]), missing)
        full[:, :NUM_JOINTS] = joints.cpu()
        return full

    return PointEstimates.from_sigma(
        all_points(output.keypoints, 0.0),
        all_points(output.log_sigma.exp(), torch.inf),
        all_points(output.visible_logit.sigmoid(), 0.0),
        all_points(output.depth_m, 0.0),
        all_points(output.depth_log_sigma.exp(), torch.inf),
    )


def mirrored(people: SimulatedPeople) -> SimulatedPeople:
    """The mirror image of each person: x is negated, and left and right points and joints change places."""
    flip = torch.tensor([-1.0, 1.0])
    points = unpack_points(people.features)
    swapped = PointEstimates(
        *(getattr(points, column.name)[:, OTHER_POINT] for column in dataclasses.fields(PointEstimates))
    )
    geometry = people.geometry.clone()
    width = geometry[:, 3]
    geometry[:, 1], geometry[:, 5] = width - geometry[:, 1], width - geometry[:, 5]
    return SimulatedPeople(
        condition_of(dataclasses.replace(swapped, position=swapped.position * flip), box_features(geometry)),
        _mirrored_vector(people.vector),
        geometry,
        people.keypoints[:, OTHER_SIDE] * flip,
        people.visible[:, OTHER_SIDE],
    )


def _mirrored_vector(vector: Float[Tensor, "people 157"]) -> Float[Tensor, "people 157"]:
    """M R M of each rotation, M = diag(-1, 1, 1); the shape is taken to be symmetric."""
    columns = vector[:, :ROTATION_SIZE].unflatten(-1, (NUM_JOINTS, 3, 2))[:, OTHER_SIDE]
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])
    pelvis = vector[:, ROTATION_SIZE + NUM_BETAS :] * torch.tensor([1.0, -1.0, 1.0])
    betas = vector[:, ROTATION_SIZE : ROTATION_SIZE + NUM_BETAS]
    return torch.cat([(columns * signs).flatten(1), betas, pelvis], dim=-1)
