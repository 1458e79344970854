"""What computes follows its policy's device, tried without an accelerator.

Torch's `meta` device has shapes and no data, and like any device it refuses to meet tensors of another: a constant or a
body that stays on the CPU fails here as it would on CUDA. What looks at data (which step of a solver comes next, where
a keypoint lies) runs on a `meta` that kept its data (tests/hmr/policy/elsewhere.py) and must come to the same numbers.
"""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agent.default import default_agent, open_default_memory
from cli.prediction.predictor import Predictor
from cli.prediction.run import Models, PredictSettings
from cli.prediction.sources import list_sources
from common.storage.jsonl import Manifest
from eval.benchmark.baselines import policies_to_compare
from eval.benchmark.protocol import evaluate_policy
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig
from hmr.detection.protocol import detect_all
from hmr.policy.checkpoint import find_device
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretraining.encoder_recipe import EncoderRecipe
from hmr.pretraining.encoder_training import EncoderLoss
from hmr.pretraining.losses import DenoiserLoss, LossWeights, RegressionLoss
from hmr.render import load_renderer
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker
from hmr.types import BodyParams, Box, Hypotheses, Labelled
from tests.hmr.policy.elsewhere import elsewhere

META = torch.device("meta")
IMAGES = 3


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> DiffusionPolicy:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    config = DiffusionPolicyConfig(width=32, depth=1, head_width=32, head_depth=1)
    return DiffusionPolicy(config).to(META)


@pytest.fixture
def batch(policy: DiffusionPolicy) -> dict[str, torch.Tensor]:
    return {
        "features": torch.empty(IMAGES, policy.feature_size, device=META),
        "vector": torch.empty(IMAGES, 157, device=META),
        "geometry": torch.empty(IMAGES, 8, device=META),
        "keypoints": torch.empty(IMAGES, 24, 2, device=META),
    }


def test_meta_refuses_what_lies_elsewhere():
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(2, device=META) + torch.ones(2)


def test_the_losses_of_pretraining_follow(policy: DiffusionPolicy, batch: dict[str, torch.Tensor]):
    loss = RegressionLoss(policy, LossWeights())(**batch)["loss"]
    loss.backward()
    assert loss.device == META
    assert all(p.grad is not None for p in policy.regressor.parameters())
    assert DenoiserLoss(policy, LossWeights(), 2)(**batch)["loss"].device == META


def test_the_losses_of_the_encoder_follow():
    encoder = PersonEncoder(PersonEncoderConfig(crop_size=64, encoder_widths=[8, 12, 16])).to(META)
    module = EncoderLoss(encoder, EncoderRecipe()).eval()
    loss = module(
        crops=torch.empty(IMAGES, 64, 64, 3, dtype=torch.uint8, device=META),
        keypoints=torch.empty(IMAGES, 24, 2, device=META),
        depth_m=torch.empty(IMAGES, 24, device=META),
        visible=torch.empty(IMAGES, 24, dtype=torch.bool, device=META),
        mask=torch.empty(IMAGES, 16, 16, dtype=torch.uint8, device=META),
    )["loss"]
    assert loss.device == META


def test_the_initial_estimate_is_fitted_on_the_policy_s_device(policy: DiffusionPolicy):
    """Features are stored on the CPU."""
    policy.fit_initial_estimate(torch.empty(IMAGES, policy.feature_size), torch.empty(IMAGES, 157))
    assert policy.initial_std.device == META


def test_denoising_errors_follow(policy: DiffusionPolicy):
    condition = torch.empty(IMAGES, policy.feature_size + 157, device=META)
    x0, noise = torch.empty(IMAGES, 5, 157, device=META), torch.empty(IMAGES, 2, 157, device=META)
    timesteps = torch.zeros(IMAGES, 2, dtype=torch.long, device=META)
    assert policy(condition, x0, timesteps, noise).device == META


# -- with data ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, LAB, seed=5).chunk(0, 2)]


@pytest.fixture
def seeing(tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> DiffusionPolicy:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    tiny_policy.config.solver = "dpm++"
    return tiny_policy


def moved(policy: DiffusionPolicy, device: torch.device) -> DiffusionPolicy:
    copied = copy.deepcopy(policy).to(device)
    assert isinstance(policy.detector, EmbeddedDetector)
    copied.detector = EmbeddedDetector(copy.deepcopy(policy.detector.encoder).to(device))
    return copied


def same(one: list[Hypotheses], two: list[Hypotheses]) -> bool:
    """Cameras and bodies, all of them on the CPU."""
    columns = [
        (a, b)
        for group, other in zip(one, two, strict=True)
        for a, b in zip(vars(group.params).values(), vars(other.params).values(), strict=True)
    ]
    assert {tensor.device.type for pair in columns for tensor in pair} == {"cpu"}
    return all(torch.equal(*pair) for pair in columns) and [g.camera for g in one] == [g.camera for g in two]


def test_a_device_with_data_refuses_and_computes():
    with elsewhere() as device:
        here, there = torch.ones(2), torch.tensor([1.0, 2.0], device=device)
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there[[1, 0]] * 3).tolist() == [6.0, 3.0]
        assert torch.equal(there.cpu(), torch.tensor([1.0, 2.0]))


def test_samples_and_the_head_s_answer_come_back(seeing: DiffusionPolicy, scenes: list[Labelled]):
    samples = [case.sample for case in scenes]

    def answers(policy: DiffusionPolicy) -> list[Hypotheses]:
        features = policy.encode(samples)
        assert features.condition.device == policy.device
        drawn = policy.sample(features, 4, torch.Generator().manual_seed(0))
        # and go there again, where a group is what an alignment learns from
        x0 = policy.to_x0(BodyParams.stack([group.params for group in drawn]), features)
        assert x0.device == policy.device
        return [*drawn, *policy.regress(features)]

    here = answers(seeing)
    with elsewhere() as device:
        assert same(answers(moved(seeing, device)), here)


@pytest.mark.slow
def test_guidance_follows_and_leaves_the_body_where_it_is(
    seeing: DiffusionPolicy, body: Body, scenes: list[Labelled]
):
    samples = [case.sample for case in scenes]

    def guided(policy: DiffusionPolicy) -> list[Hypotheses]:
        features, detections = policy.encode(samples), detect_all(policy.detector, samples)
        guidance = DetectionGuidance(policy, body, features, detections)
        assert guidance.body.faces.device == policy.device
        return policy.sample(features, 4, torch.Generator().manual_seed(0), guidance=guidance)

    here = guided(seeing)
    with elsewhere() as device:
        assert same(guided(moved(seeing, device)), here)
    assert body.faces.device.type == "cpu"


def summaries(policy: DiffusionPolicy, body: Body, scenes: list[Labelled]) -> dict[str, dict]:
    return {
        name: evaluate_policy(evaluated, body, scenes, num_samples=4, group_size=2, seed=0).summary()
        for name, evaluated in policies_to_compare(policy, body).items()
    }


@pytest.mark.slow
def test_an_evaluation_is_the_same(seeing: DiffusionPolicy, body: Body, scenes: list[Labelled]):
    here = summaries(seeing, body, scenes)
    with elsewhere() as device:
        assert summaries(moved(seeing, device), body, scenes) == here


@pytest.mark.slow
def test_a_photograph_s_people_are_the_same(seeing: DiffusionPolicy, body: Body, tmp_path: Path):
    """The detector's search of it, and what guidance makes of a box."""
    pixels = np.random.default_rng(0).integers(0, 255, (72, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")

    def run(policy: DiffusionPolicy, out: Path) -> tuple[list[str], bytes]:
        detector = policy.detector
        models = Models(policy, body, load_renderer())
        settings = PredictSettings(
            samples=2,
            boxes=(Box(10.0, 8.0, 50.0, 60.0),),
            accept_any_box=True,
            formats=("npz", "glb"),
            guide=True,
        )
        out.mkdir()
        with Manifest(out / "manifest.jsonl") as manifest:
            [outcome] = Predictor(models, settings, out, manifest).run(
                list_sources([tmp_path / "photo.png"], out), lambda title, total: lambda done: None
            )
        assert outcome.record is not None, outcome.reason
        found = [found.confidence for found in detector.candidates(pixels)]
        return [f"{value:.6f}" for value in found], (out / "photo-0.glb").read_bytes()

    here = run(seeing, tmp_path / "here")
    with elsewhere() as device:
        assert run(moved(seeing, device), tmp_path / "there") == here


@pytest.mark.slow
def test_a_critique_is_the_same(seeing: DiffusionPolicy, body: Body, scenes: list[Labelled], tmp_path: Path):
    sample = scenes[0].sample
    group = seeing.sample(seeing.encode([sample]), 4, torch.Generator().manual_seed(0))[0]

    def scores(policy: DiffusionPolicy, folder: Path) -> tuple[float | None, ...]:
        with open_default_memory(folder, policy, frozen=False) as memory:
            agent = default_agent(policy, body, memory, reader=policy)  # on the same device
            return agent.critique(sample, group).scores

    here = scores(seeing, tmp_path / "here")
    assert None not in here
    with elsewhere() as device:
        assert scores(moved(seeing, device), tmp_path / "there") == here


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
def test_cuda_comes_to_the_cpu_s_figures(tiny_policy: DiffusionPolicy, body: Body, scenes: list[Labelled]):
    """To what rounding leaves: convolutions there may be of ten bits (TF32)."""
    here = summaries(tiny_policy, body, scenes)
    there = summaries(moved(tiny_policy, find_device("cuda")), body, scenes)
    for name, figures in here.items():
        for metric in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm"):
            assert there[name][metric]["mean"] == pytest.approx(figures[metric]["mean"], rel=0.02)


ACCELERATORS = {
    "none": (None, 0, ["cpu"], ["cuda", "cuda:0", "mps"]),
    "two cards": ("cuda", 2, ["cpu", "cuda", "cuda:1"], ["cuda:2", "mps", "cuda:x", "warp", ""]),
    "Apple's": ("mps", 1, ["cpu", "mps"], ["mps:1", "cuda"]),
}


@pytest.mark.parametrize("kind", ACCELERATORS)
def test_a_device_is_one_that_torch_has_here(kind: str, monkeypatch: pytest.MonkeyPatch):
    name, count, known, unknown = ACCELERATORS[kind]
    accelerator: Callable[[], torch.device | None] = lambda: name and torch.device(name)  # noqa: E731
    monkeypatch.setattr(torch.accelerator, "current_accelerator", accelerator)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    assert [str(find_device(device)) for device in known] == known
    for device in unknown:
        with pytest.raises(ValueError, match=r"it has cpu"):
            find_device(device)
