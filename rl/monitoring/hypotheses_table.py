"""Draws hypotheses during training: the best and the worst of a group by score, and a current sample of the policy.

    OUT/hypotheses-000200.png      one row per image: best and worst of its group, with score / advantage, and
                                   hypothesis 0 of the averaged policy after 200 steps

`meshcritic align` adds it if the training arguments have `table_steps` (`rl.rounds`). Groups hold no pictures and no
body, so other callers must pass the samples and the body of the hypotheses:

    trainer.add_callback(HypothesesTable(trainer, body, samples, groups, "runs/aligned", every=100))

It corresponds to TRL's `log_completions`, which prints prompts, completions and advantages. Left out: the tables of
experiment trackers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, UInt8
from torch import nn
from transformers import TrainerCallback

from common.seeding import derive_generator
from common.storage.files import PathLike, write_bytes
from hmr.body.model import Body
from hmr.images.crops import crop_image, encode_png
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.render.overlay import montage, overlay, panel, score_color, side_view, zoom
from hmr.types import BodyParams, Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.preferences.tensors import GroupTensors
from rl.types import PreferenceGroup

__all__ = ["HypothesesTable"]

CROP_SCALE = 1.35  # of the crop, relative to the box
SIZE = 224  # pixels of a view


@runtime_checkable
class MonitoredTrainer(Protocol):
    """The members of `rl.trainer.GroupPreferenceTrainer` that a table needs."""

    args: GroupPreferenceConfig
    policy: nn.Module
    train_dataset: Any  # `GroupTensors`

    def averaged_weights(self) -> AbstractContextManager[None]: ...


class HypothesesTable(TrainerCallback):
    """Draws the first `rows` groups of `dataset` whose sample is in `samples` (by id): before training, every `every`
    steps, and at the end. `dataset` must be the training set of the trainer, whose advantages are shown.

    body: of the policy. Raises ValueError if the policy was trained with another body, or if there is no such group.
    """

    def __init__(
        self,
        trainer: MonitoredTrainer,
        body: Body,
        samples: Mapping[str, Sample],
        dataset: Dataset,
        out: PathLike,
        every: int = 100,
        rows: int = 4,
    ) -> None:
        found = (row for row, name in enumerate(dataset["sample_id"]) if name in samples)
        chosen = list(islice(found, rows))
        if not chosen:
            raise ValueError(
                "no group of the preference set belongs to a sample given to the table of hypotheses"
            )
        groups = dataset.select(chosen).with_format(None)
        self.groups = [PreferenceGroup.from_row(cast(dict[str, Any], group)) for group in groups]
        self.advantages = cast(GroupTensors, trainer.train_dataset).advantages[chosen]
        self.samples = [samples[group.sample_id] for group in self.groups]
        self.trainer, self.out, self.every = trainer, Path(out), every
        self.policy = cast(DiffusionPolicy, trainer.policy)
        self.policy.require_body(body)
        self.body, self.renderer = body, load_renderer()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._draw(state)

    def _draw(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        with self.trainer.averaged_weights():
            current = [self._sample(sample) for sample in self.samples]
        pictures = [
            picture
            for row in zip(self.groups, self.advantages, self.samples, current, strict=True)
            for picture in self._row(*row)
        ]
        self.out.mkdir(parents=True, exist_ok=True)
        picture = encode_png(montage(pictures, columns=3))
        write_bytes(self.out / f"hypotheses-{state.global_step:06d}.png", picture)

    def _sample(self, sample: Sample) -> Hypotheses:
        generator = derive_generator(self.trainer.args.seed, "table")  # hypothesis 0 starts from zero noise
        return self.policy.sample(self.policy.encode([sample]), 1, generator)[0]

    def _row(
        self,
        group: PreferenceGroup,
        advantages: Float[torch.Tensor, " group"],
        sample: Sample,
        current: Hypotheses,
    ) -> list[UInt8[np.ndarray, "height width 3"]]:
        """The panels of one image. For a group without scores best and worst are its first hypothesis."""
        extremes = [int(advantages.argmax()), int(advantages.argmin())]
        params = BodyParams.cat([group.hypotheses.params[torch.tensor(extremes)], current.params.to("cpu")])
        captions = [*(_caption(group, member, float(advantages[member])) for member in extremes), "now"]
        labels = zip(("+", "-", "0"), (100.0, 0.0, None), captions, strict=True)
        return [
            panel(None, overlaid, side, label, caption, score_color(score))
            for (overlaid, side), (label, score, caption) in zip(
                self._views(sample, params), labels, strict=True
            )
        ]

    @torch.no_grad()
    def _views(self, sample: Sample, params: BodyParams) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each body over the crop of the photograph, and from the side."""
        square = sample.box.square(CROP_SCALE)
        photo, camera = crop_image(sample.image, square, SIZE), sample.camera.crop(square, SIZE)
        posed, faces = self.body(params), self.body.faces.numpy()
        vertices = posed.vertices_cam_m.numpy()
        frame = self.renderer.render(vertices, faces, zoom(camera))
        sides = side_view(vertices, faces, posed.joints_cam_m[:, 0].numpy(), self.renderer, SIZE)
        return [(overlay(photo, frame, index=row), side) for row, side in enumerate(sides)]


def _caption(group: PreferenceGroup, member: int, advantage: float) -> str:
    score = group.scores[member]
    return "no score" if score is None else f"{score:.1f} / {advantage:+.1f}"
