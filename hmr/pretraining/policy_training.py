"""Pretraining of the policy on simulated detections (`hmr.pretraining.simulation`) and, if the recipe has any, on
rendered people as the embedded detector reads them (`hmr.pretraining.rendered_people`), in two stages.

The first stage trains the regression head, the second the denoiser, about the Gaussian of the head's errors on people
that it was not trained on (`hmr.policy.policy`). Simulated people are drawn on the fly, each once; batch k of a stage
depends only on the seed, the stage and k, so a resumed run sees the same people as an uninterrupted one.

    OUT/made_from.json                        fingerprint (`hmr.pretraining.policy_recipe`); another run is refused
    OUT/estimate, OUT/denoiser                checkpoints of both stages, from which a killed run resumes
    OUT/config.json, OUT/model.safetensors    the policy, EMA weights in float16
    OUT/training.json                         the recipe and the curves; written last, so its presence means finished
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import TrainingArguments

from common.reading.pretrained import save_compact
from common.seeding import derive_seed
from common.storage.files import PathLike, write_text
from common.storage.fingerprint import claim_run
from hmr.body.model import load_body
from hmr.body.surface_points import BodyPoints
from hmr.detection.person_encoder import load_encoder
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.crop_cache import Progress
from hmr.pretraining.losses import DenoiserLoss, RegressionLoss
from hmr.pretraining.policy_recipe import STAGES, PolicyRecipe, run_fingerprint
from hmr.pretraining.rendered_people import read_rendered_people
from hmr.pretraining.simulation import SimulatedPeople, draw_poses, simulate
from hmr.pretraining.stages import Stage, run_stage, stage_arguments
from hmr.synthetic.amass import load_amass
from hmr.synthetic.poses import PoseBatch

__all__ = ["pretrain_policy"]

CHANGEABLE = ("noise_temperature", "solver", "num_inference_steps", "detector")  # do not change a shape
HISTORY = "training.json"
OUTPUTS = (*(f"{stage}/checkpoint-*" for stage in STAGES), "model.safetensors", HISTORY)
LABEL = "vector"
HELD_OUT = "held out"  # in place of a stage's name
HELD_OUT_SCENES = 0.05  # of the rendered people


def pretrain_policy(
    recipe: PolicyRecipe, out: PathLike, cache: PathLike, workers: int = 2, progress: Progress | None = None
) -> DiffusionPolicy:
    """Read the rendered people, kept under `cache`, train, and save the policy in `out`.

    A killed run resumes from its newest checkpoint, with the same result as an uninterrupted one. The policy of a
    finished run is loaded.

    progress: receives a title, the number of scenes done and their total.

    Raises ValueError for values that the policy or transformers refuses, for a checkpoint that was trained with another
    body, and if `out` holds another run; FileNotFoundError for a missing folder or body model. Both are raised before
    anything is drawn.
    """
    out = Path(out)
    policy = _starting_policy(recipe)
    arguments = {
        stage: stage_arguments(getattr(recipe, stage), out / stage, recipe.seed, LABEL)
        for stage in STAGES
        if getattr(recipe, stage)
    }
    with PartialState().main_process_first():
        claim_run(out, run_fingerprint(recipe, policy, PartialState().num_processes), OUTPUTS)
        finished = (out / HISTORY).exists()
    if finished:
        return load_policy(out)
    rendered = None
    if recipe.rendered.scenes:
        with PartialState().main_process_first():  # the others find the finished readings
            encoder = load_encoder(recipe.rendered.encoder)
            rendered = read_rendered_people(recipe.rendered, encoder, cache, workers, progress, recipe.body)
    people = _People(recipe, policy.feedback.points, rendered)
    held_out = people.draw(HELD_OUT, 0, recipe.held_out)
    if recipe.start_from is None:
        mean, std = held_out.vector.mean(dim=0), held_out.vector.std(dim=0)
        policy.fit_to(load_body(recipe.body), mean, std.clamp_min(recipe.min_std))
    history = {stage: _run(stage, policy, recipe, arguments[stage], people, held_out) for stage in arguments}
    if PartialState().is_main_process:
        save_compact(policy, out)
        write_text(out / HISTORY, json.dumps({"recipe": dataclasses.asdict(recipe), **history}, indent=1))
    PartialState().wait_for_everyone()
    return load_policy(out)


def _starting_policy(recipe: PolicyRecipe) -> DiffusionPolicy:
    if recipe.start_from is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # the same initial weights in every process and run
            policy = DiffusionPolicy(DiffusionPolicyConfig(**recipe.policy))
        policy.feedback.fit_to(load_body(recipe.body))
        return policy
    policy = load_policy(Path(recipe.start_from)).float()
    policy.require_body(load_body(recipe.body))
    for key, value in recipe.policy.items():
        if key in CHANGEABLE:
            setattr(policy.config, key, value)
        elif (current := getattr(policy.config, key)) != value:
            raise ValueError(f"{recipe.start_from} has {key} {current}, the recipe has {value}")
    return policy.requires_grad_(True)


def _run(
    stage: str,
    policy: DiffusionPolicy,
    recipe: PolicyRecipe,
    arguments: TrainingArguments,
    people: _People,
    held_out: SimulatedPeople,
) -> dict[str, Any]:
    policy.requires_grad_(False)
    if stage == "estimate":
        policy.regressor.requires_grad_(True)
        module = RegressionLoss(policy, recipe.losses)
    else:
        policy.fit_initial_estimate(held_out.features, held_out.vector)
        policy.denoiser.requires_grad_(True)
        module = DenoiserLoss(policy, recipe.losses, recipe.times_per_person)
    count = arguments.max_steps * arguments.train_batch_size * arguments.gradient_accumulation_steps
    rows = DrawnPeople(people, stage, count * PartialState().num_processes, arguments.train_batch_size)
    held_out_rows = _Held(held_out)
    return run_stage(
        Stage(module, rows, held_out_rows, recipe.ema_decay, SequentialSampler(rows), _single), arguments
    )


class _People:
    """Draws people of a recipe; the poses they are combined from are drawn at first use, in each worker."""

    def __init__(self, recipe: PolicyRecipe, points: BodyPoints, rendered: SimulatedPeople | None) -> None:
        self.recipe, self.points, self.rendered = recipe, points, rendered
        self._pool: PoseBatch | None = None

    @property
    def pool(self) -> PoseBatch:
        if self._pool is None:
            if self.recipe.motion:
                self._pool = load_amass(self.recipe.motion).poses()
            else:
                generator = torch.Generator().manual_seed(derive_seed(self.recipe.seed, "pool"))
                self._pool = draw_poses(self.recipe.pool, generator, self.recipe.people)
        return self._pool

    @torch.no_grad()
    def draw(self, stage: str, batch: int, count: int) -> SimulatedPeople:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, stage, str(batch)))
        rendered = round(recipe.rendered.share * count) if self.rendered is not None else 0
        parts = [] if self.rendered is None else [self._rendered(self.rendered, stage, rendered, generator)]
        if rendered < count:
            parts.append(
                simulate(count - rendered, self.points, generator, recipe.people, self.pool, recipe.detectors)
            )
        return SimulatedPeople.cat(parts)

    def _rendered(
        self, rendered: SimulatedPeople, stage: str, count: int, generator: torch.Generator
    ) -> SimulatedPeople:
        """Drawn with replacement from the scenes of training, or from those that are held out; a scene and its mirror
        image, half the rows later, are on the same side."""
        scenes = len(rendered) // 2
        held_out = max(round(HELD_OUT_SCENES * scenes), 1)
        first, last = (0, held_out) if stage == HELD_OUT else (held_out, scenes)
        rows = torch.randint(first, last, (count,), generator=generator)
        return rendered[rows + scenes * torch.randint(2, (count,), generator=generator)]


class DrawnPeople(Dataset[Any]):
    """Batches of new people. Rows are asked for in order, a batch at once."""

    def __init__(self, people: _People, stage: str, count: int, batch_size: int) -> None:
        self.people, self.stage, self.count, self.batch_size = people, stage, count, batch_size

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        people = self.people.draw(self.stage, rows[0] // self.batch_size, len(rows))
        return [_columns(people, slice(None))]


class _Held(Dataset[Any]):
    def __init__(self, people: SimulatedPeople) -> None:
        self.people = people

    def __len__(self) -> int:
        return len(self.people)

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        return [_columns(self.people, torch.tensor(rows))]


def _columns(people: SimulatedPeople, rows: slice | Tensor) -> dict[str, Tensor]:
    return {name: getattr(people, name)[rows] for name in ("features", "vector", "geometry", "keypoints")}


def _single(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    (batch,) = batches
    return batch
