"""The recipe of a policy's pretraining, one YAML file per experiment, and the fingerprint of a run.

Names, types and values are checked when a recipe is read; transformers checks its arguments before anything is drawn.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from common.reading.yaml_fields import checked_fields, fields_of, read_fields
from common.storage.files import PathLike
from common.storage.fingerprint import file_digest
from hmr.detection.person_encoder import load_encoder
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.losses import LossWeights
from hmr.pretraining.rendered_people import RenderedRecipe
from hmr.pretraining.simulation import PeopleRecipe
from hmr.synthetic.detector_noise import PROFILES
from hmr.synthetic.store import folder_fingerprint

__all__ = ["PolicyRecipe", "read_policy_recipe", "run_fingerprint"]

RESERVED_ARGUMENTS = {  # of TrainingArguments, set here
    "output_dir", "seed", "remove_unused_columns", "label_names", "prediction_loss_only", "resume_from_checkpoint",
    "num_train_epochs", "train_sampling_strategy",
    # an untrusted recipe must not upload weights, nor may a token be in a file
    "hub_model_id", "hub_token", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision", "push_to_hub",
}  # fmt: skip
# Arguments that do not change the weights. Those of evaluation are not among them: it draws noise, as training does.
FREE_ARGUMENTS = {
    "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_timeout", "disable_tqdm", "log_level",
    "log_level_replica", "logging_first_step", "logging_steps", "logging_strategy", "report_to", "run_name",
    "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
SECTIONS = {"people": PeopleRecipe, "rendered": RenderedRecipe, "losses": LossWeights}
STAGES = ("estimate", "denoiser")


@dataclass(frozen=True)
class PolicyRecipe:
    """One experiment; `configs/pretrain_policy.yaml` is the recipe of the shipped checkpoint.

    The number of people is `max_steps` times the batch size of a stage: each simulated one is drawn once.

    Raises ValueError for an unknown field of a section and a value that is not allowed.
    """

    body: str | None = None  # file of an SMPL, SMPL-H or SMPL-X body model in place of the embedded one
    motion: str | None = None  # a folder of AMASS npz files in place of the built-in poses
    start_from: str | None = None  # folder of a checkpoint to continue; keeps its architecture and statistics
    seed: int = 1
    pool: int = 400_000  # poses that people are combined from
    held_out: int = 20_000  # people, for the error of the initial estimate and the held-out losses
    detectors: tuple[str, ...] = tuple(PROFILES)  # simulated ones, in proportion to their shares
    times_per_person: int = 4  # diffusion times per person and step
    min_std: float = 0.05  # of a standardised target, so that joints that hardly move do not amplify noise
    ema_decay: float = 0.9995
    people: PeopleRecipe = field(default_factory=PeopleRecipe)
    rendered: RenderedRecipe = field(default_factory=RenderedRecipe)
    policy: dict[str, Any] = field(default_factory=dict)
    losses: LossWeights = field(default_factory=LossWeights)
    estimate: dict[str, Any] = field(
        default_factory=dict
    )  # arguments of the regression head's stage; empty: none
    denoiser: dict[str, Any] = field(default_factory=dict)  # the same for the denoiser

    def __post_init__(self) -> None:
        checked_fields("policy", self.policy, fields_of(DiffusionPolicyConfig.__init__, {"kwargs", "return"}))
        allowed = fields_of(TrainingArguments, RESERVED_ARGUMENTS)
        text = f"the fields of transformers.TrainingArguments except {', '.join(sorted(RESERVED_ARGUMENTS))}"
        for stage in STAGES:
            checked_fields(stage, getattr(self, stage), allowed, text)
        for name in ("pool", "held_out", "times_per_person"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if unknown := [name for name in self.detectors if name not in PROFILES]:
            raise ValueError(
                f"no simulated detector is called {unknown[0]!r}; there are {', '.join(PROFILES)}"
            )
        if not self.detectors or self.min_std <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError("detectors must not be empty, min_std must be above 0 and ema_decay in [0, 1)")


def read_policy_recipe(path: PathLike, **changes: Any) -> PolicyRecipe:
    """The experiment in the file, with `changes`. Raises the errors of `common.reading.yaml_fields.read_fields` and
    `PolicyRecipe`."""
    kinds = typing.get_type_hints(PolicyRecipe)
    values = read_fields(path, set(kinds), ", ".join(sorted(kinds))) | changes
    for name in (*SECTIONS, "policy", *STAGES):
        values[name] = {} if values.get(name) is None else values[name]
    values = checked_fields(str(path), values, {**kinds, **dict.fromkeys(SECTIONS, dict[str, Any])})
    try:
        for name, kind in SECTIONS.items():
            values[name] = kind(**_tuples(checked_fields(name, values[name], typing.get_type_hints(kind))))
        return PolicyRecipe(**_tuples(values))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def run_fingerprint(recipe: PolicyRecipe, policy: DiffusionPolicy, processes: int) -> dict[str, Any]:
    """Everything that determines the weights of a run that starts with this policy; folders and the body model are
    identified by content.

    It includes `max_steps` for every schedule, because a stage starts with the result of the one before, and the number
    of processes, because the batch of a step grows with it.
    """
    fields = dataclasses.asdict(recipe)
    for stage in STAGES:
        fields[stage] = {name: value for name, value in fields[stage].items() if name not in FREE_ARGUMENTS}
    if recipe.rendered.scenes:
        encoder = load_encoder(recipe.rendered.encoder)
        fields["rendered"]["encoder"] = encoder.digest()
        fields["rendered"]["crops"] = [
            crops.digest() for crops in recipe.rendered.crops(encoder, recipe.body)
        ]
    fields["body"] = recipe.body and file_digest(Path(recipe.body))
    fields["motion"] = recipe.motion and folder_fingerprint(Path(recipe.motion))
    fields["start_from"] = recipe.start_from and policy.digest()
    return {**fields, "processes": processes}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    """A list of YAML as the tuple that a frozen dataclass holds, lists inside it too."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
