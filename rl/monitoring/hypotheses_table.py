"""A table of hypotheses while a policy learns: what the scores liked, what they did not, and what is drawn now.

    OUT/hypotheses-000200.png      a row an image: the best and the worst scored of its group, with score / advantage,
                                   and hypothesis 0 of the averaged policy after 200 steps

`meshcritic align` adds it where training arguments give `table_steps` (`rl.rounds`). Groups hold no pictures, so that
whoever trains without it must give the samples:

    trainer.add_callback(HypothesesTable(trainer, samples, groups, Path("runs/aligned"), every=100))

After TRL's `log_completions`, which prints prompts, completions and advantages. Left out: trackers' own tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, UInt8
from transformers import TrainerCallback

from common.seeding import derive_generator
from hmr.body.model import load_body
from hmr.images.crops import crop_image, encode_png
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.render.overlay import montage, overlay, panel, score_color, side_view, zoom
from hmr.types import BodyParams, Hypotheses, Sample
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer
from rl.types import PreferenceGroup

__all__ = ["HypothesesTable"]

CROP_SCALE = 1.35  # room about the person
SIZE = 224  # pixels a view


class HypothesesTable(TrainerCallback):
    """Draws the first `rows` groups of the set whose sample is among `samples` (by id): before training, every `every`
    steps, and at the end. `dataset` is what the trainer learns from; advantages are the ones that it learns from.

    Raises ValueError if none is.
    """

    def __init__(
        self,
        trainer: GroupPreferenceTrainer,
        samples: Mapping[str, Sample],
        dataset: Dataset,
        out: Path,
        every: int = 100,
        rows: int = 4,
    ) -> None:
        shown = [place for place, name in enumerate(dataset["sample_id"]) if name in samples][:rows]
        if not shown:
            raise ValueError("no group of the set is of one of the samples given to the table of hypotheses")
        groups = dataset.select(shown).with_format(None)
        self.groups = [PreferenceGroup.from_row(cast(dict[str, Any], group)) for group in groups]
        self.advantages = cast(GroupTensors, trainer.train_dataset).advantages[shown]
        self.samples = [samples[group.sample_id] for group in self.groups]
        self.trainer, self.out, self.every = trainer, out, every
        self.policy = cast(DiffusionPolicy, trainer.policy)
        self.body, self.renderer = load_body(), load_renderer()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._draw(state)

    def _draw(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        with self.trainer.averaged_weights():
            now = [self._first(sample) for sample in self.samples]
        pictures = [
            picture
            for group, advantages, sample, first in zip(
                self.groups, self.advantages, self.samples, now, strict=True
            )
            for picture in self._row(group, advantages, sample, first)
        ]
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"hypotheses-{state.global_step:06d}.png"
        partial = path.with_suffix(".partial")
        partial.write_bytes(encode_png(montage(pictures, columns=3)))
        partial.replace(path)

    def _first(self, sample: Sample) -> Hypotheses:
        generator = derive_generator(self.trainer.args.seed, "table")  # hypothesis 0 starts from no noise
        return self.policy.sample(self.policy.encode([sample]), 1, generator)[0]

    def _row(
        self,
        group: PreferenceGroup,
        advantages: Float[torch.Tensor, " group"],
        sample: Sample,
        now: Hypotheses,
    ) -> list[UInt8[np.ndarray, "height width 3"]]:
        """The panels of one image. A group without a score shows its first hypothesis as best and worst."""
        ends = [int(advantages.argmax()), int(advantages.argmin())]
        params = BodyParams.cat([group.hypotheses.params[torch.tensor(ends)], now.params.to("cpu")])
        captions = [*(_told(group, end, float(advantages[end])) for end in ends), "now"]
        marks = zip(("+", "-", "0"), (100.0, 0.0, None), captions, strict=True)
        return [
            panel(None, overlaid, side, label, caption, score_color(score))
            for (overlaid, side), (label, score, caption) in zip(
                self._views(sample, params), marks, strict=True
            )
        ]

    @torch.no_grad()
    def _views(self, sample: Sample, params: BodyParams) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each body over the photo's crop, and from its side."""
        square = sample.box.square(CROP_SCALE)
        photo, camera = crop_image(sample.image, square, SIZE), sample.camera.crop(square, SIZE)
        posed, faces = self.body(params), self.body.faces.numpy()
        vertices = posed.vertices_cam_m.numpy()
        frame = self.renderer.render(vertices, faces, zoom(camera))
        sides = side_view(vertices, faces, posed.joints_cam_m[:, 0].numpy(), self.renderer, SIZE)
        return [(overlay(photo, frame, index=row), side) for row, side in enumerate(sides)]


def _told(group: PreferenceGroup, member: int, advantage: float) -> str:
    score = group.scores[member]
    return "no score" if score is None else f"{score:.1f} / {advantage:+.1f}"
