"""Pretraining of the policy on simulated detections: its losses on one batch, and a whole run in miniature."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from common.reading.pretrained import save_compact
from hmr.body.model import Body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.pretraining.losses import DenoiserLoss, LossWeights, RegressionLoss, joints_of, reproject
from hmr.pretraining.policy_recipe import PolicyRecipe
from hmr.pretraining.policy_training import _starting_policy, pretrain_policy
from hmr.pretraining.simulation import PeopleRecipe, SimulatedPeople, simulate

SHAPE = {"width": 32, "depth": 1, "head_width": 32, "head_depth": 1}
STAGE = {
    "max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip
COLUMNS = ("features", "vector", "geometry", "keypoints")


@pytest.fixture
def people(tiny_policy: DiffusionPolicy) -> SimulatedPeople:
    generator = torch.Generator().manual_seed(0)
    return simulate(32, tiny_policy.feedback.points, generator, PeopleRecipe(known_focal=1.0))


def columns(people: SimulatedPeople) -> dict[str, torch.Tensor]:
    return {name: getattr(people, name) for name in COLUMNS}


def test_joints_of_a_vector_are_those_of_the_body(
    tiny_policy: DiffusionPolicy, people: SimulatedPeople, body: Body
) -> None:
    x0 = ((people.vector - tiny_policy.mean) / tiny_policy.std)[:, None]
    features = Features(tiny_policy.condition(people.features), people.geometry)
    expected = torch.cat([body.joints(group.params) for group in tiny_policy.hypotheses(x0, features)])
    torch.testing.assert_close(
        joints_of(tiny_policy, people.vector), expected - expected[:, :1], rtol=0, atol=1e-4
    )


def test_the_truth_reprojects_onto_its_keypoints(
    tiny_policy: DiffusionPolicy, people: SimulatedPeople
) -> None:
    """For people whose focal length is known."""
    reprojected = reproject(people.vector, joints_of(tiny_policy, people.vector), people.geometry)
    torch.testing.assert_close(reprojected, people.keypoints, rtol=0, atol=2e-3)


@pytest.mark.parametrize("stage", ["estimate", "denoiser"])
def test_a_stage_trains_its_part_alone_and_lowers_its_loss(
    tiny_policy: DiffusionPolicy, people: SimulatedPeople, stage: str
) -> None:
    part = tiny_policy.regressor if stage == "estimate" else tiny_policy.denoiser
    part.requires_grad_(True)
    weights = LossWeights()
    module = (
        RegressionLoss(tiny_policy, weights) if stage == "estimate" else DenoiserLoss(tiny_policy, weights, 2)
    )
    optimizer = torch.optim.Adam(part.parameters(), 3e-3)
    losses = []
    with torch.random.fork_rng():
        for _ in range(10):
            torch.manual_seed(0)
            loss = module(**columns(people))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = {name for name, value in tiny_policy.named_parameters() if value.grad is not None}
    assert trained
    assert all(name.startswith("regressor." if stage == "estimate" else "denoiser.") for name in trained)


def test_the_truth_has_no_regression_loss(tiny_policy: DiffusionPolicy, people: SimulatedPeople) -> None:
    target = (people.vector - tiny_policy.mean) / tiny_policy.std
    tiny_policy.regressor.forward = lambda features: target  # type: ignore[method-assign]
    terms = RegressionLoss(tiny_policy, LossWeights())(**columns(people))
    assert float(terms["regression_loss"]) < 1e-5
    assert float(terms["reprojection_loss"]) < 2e-3


def test_a_start_policy_must_have_the_recipe_s_architecture(
    tmp_path: Path, tiny_policy: DiffusionPolicy
) -> None:
    save_compact(tiny_policy, tmp_path / "small")
    recipe = PolicyRecipe(start_from=str(tmp_path / "small"), policy={"depth": 9}, estimate=STAGE)
    with pytest.raises(ValueError, match="depth"):
        pretrain_policy(recipe, tmp_path / "out", tmp_path / "cache")


def test_arguments_that_transformers_refuses_are_reported_before_anything_is_drawn(tmp_path: Path) -> None:
    recipe = PolicyRecipe(policy=SHAPE, estimate=STAGE, denoiser=STAGE | {"lr_scheduler_type": "cosign"})
    with pytest.raises(ValueError, match="cosign"):
        pretrain_policy(recipe, tmp_path / "out", tmp_path / "cache")
    assert not any(tmp_path.iterdir())


def test_the_seed_determines_the_initial_weights() -> None:
    one, again, other = (
        _starting_policy(PolicyRecipe(seed=seed, policy=SHAPE)).digest() for seed in (6, 6, 7)
    )
    assert one == again != other


class Run:
    """A finished run of two stages, and copies of parts of it, as after a kill."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = PolicyRecipe(pool=200, held_out=16, policy=SHAPE, estimate=STAGE, denoiser=STAGE)
        self.policy = self.again(self.recipe, "whole")

    def again(self, recipe: PolicyRecipe, name: str) -> DiffusionPolicy:
        return pretrain_policy(recipe, self.root / name, self.root / "cache")

    def killed(self, name: str, *left: str) -> Path:
        for part in ("made_from.json", *left):
            target = self.root / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.root / "whole" / part
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        return self.root / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


def test_a_run_writes_a_policy_and_its_history(run: Run) -> None:
    history = json.loads((run.root / "whole" / "training.json").read_text())
    assert {"recipe", "estimate", "denoiser"} == set(history)
    assert all(history[stage]["held_out"]["eval_loss"] > 0 for stage in ("estimate", "denoiser"))
    loaded = load_policy(run.root / "whole")
    assert loaded.digest() == run.policy.digest()
    assert float(loaded.initial_std.min()) >= 0.05


KILLS = {
    "in the first stage": ["estimate/checkpoint-2"],
    "between the stages": ["estimate/checkpoint-4"],
    "in the second stage": ["estimate/checkpoint-4", "denoiser/checkpoint-2"],
    "after the last step": ["estimate/checkpoint-4", "denoiser/checkpoint-4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS)
def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(
    run: Run, kill: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with other logging and data loading. Nothing is written outside the run's folder."""
    monkeypatch.chdir(tmp_path)
    folder = run.killed(kill.replace(" ", "-"), *KILLS[kill])
    otherwise = STAGE | {
        "logging_steps": 1,
        "dataloader_num_workers": 2,
        "save_total_limit": 1,
        "report_to": "tensorboard",
    }
    resumed = run.again(dataclasses.replace(run.recipe, estimate=otherwise, denoiser=otherwise), folder.name)
    assert resumed.digest() == run.policy.digest()
    assert not any(tmp_path.iterdir())


def test_a_finished_run_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmr.pretraining.policy_training.simulate", None)  # it would be called to draw
    assert run.again(run.recipe, "whole").digest() == run.policy.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed 1, not 6"),
        ({"losses": LossWeights(denoise=2.0)}, "losses.denoise 1.0, not 2.0"),
        ({"people": PeopleRecipe(occluders=0.0)}, "people.occluders 0.6, not 0.0"),
        ({"estimate": STAGE | {"max_steps": 8}}, "estimate.max_steps 4, not 8"),
    ],
)
def test_another_run_is_refused_in_its_folder(run: Run, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"holds another run .*{message}"):
        run.again(dataclasses.replace(run.recipe, **change), "whole")


def test_an_image_policy_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "meshcritic_diffusion_policy"}))
    with pytest.raises(ValueError, match=r"trained on images.*meshcritic pretrain"):
        load_policy(tmp_path)
