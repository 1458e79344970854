"""A policy beside its baselines, and the JSON object that the command prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from eval.benchmark.baselines import (
    DETERMINISTIC,
    GuidedPolicy,
    MeanPose,
    RegressionHead,
    evaluate_with_baselines,
)
from eval.benchmark.tables import baseline_table
from hmr.body.model import Body
from hmr.policy.config import SamplingSettings
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Sample
from tests.command import call

ERRORS = {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm"}
R = {*ERRORS, "spread_visible_mm", "spread_occluded_mm"}
CALIBRATION = {"calibration_80", "spread_occluded_over_visible", "error_occluded_over_visible"}


def silent(title: str, total: int):
    return lambda done: None


TWO_IMAGES = {"images": 2, "samples": 4, "seed": 0, "stage": silent}


@pytest.fixture(scope="module")
def sample(body: Body) -> Sample:
    return SceneMaker(body, LAB, seed=5).chunk(0, 1)[0].labelled.sample


def test_the_command_prints_one_object(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_policy.save_pretrained(tmp_path / "policy")
    words = f"--policy {tmp_path / 'policy'} --images 2 --samples 4 --seed 3 --out {tmp_path} --json"
    words += f" --set start=distribution --set num_inference_steps=2 --against {tmp_path / 'policy'}"
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # two images are not worth a process
    code, out, _ = call(monkeypatch, capsys, "evaluate", *words.split())
    assert code == 0
    found = json.loads(out)
    assert set(found) >= R | CALIBRATION | {"beside", "benchmark", "base_policy", "versions", "split", "seed"}
    for metric in ERRORS:
        assert set(found[metric]) == {"min4", "pick4", "mean", "hyp0", "averaged"}
    assert 0 <= found["calibration_80"] <= 1
    assert found["spread_occluded_over_visible"] is None  # two images are too few to say
    assert set(found["beside"]["mean_pose"]) == set(found["beside"]["regression_head"]) == R
    guided = found["beside"]["diffusion_with_guidance"]
    assert set(guided) == R | CALIBRATION
    assert guided["mpjpe_mm"]["hyp0"] != found["mpjpe_mm"]["hyp0"]
    tiny_policy.config.start, tiny_policy.config.num_inference_steps = "distribution", 2
    assert found["base_policy"] == found["other_policy"] == tiny_policy.digest()
    assert found["less_the_other"] == {}  # two images are too few for intervals
    assert found["sampler"] == asdict(SamplingSettings.of(tiny_policy.config))
    assert (found["split"], found["seed"], found["motion"]) == ("wild-test", 3, None)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found


def test_the_other_policy_has_the_name_that_it_was_given(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_policy.save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setenv("COLUMNS", "200")
    words = "--policy mine --against mine --images 2 --samples 4 --out out"
    code, out, _ = call(monkeypatch, capsys, "evaluate", *words.split())
    assert code == 0
    assert "diffusion - mine" in out
    assert "other policy" not in out


@pytest.mark.slow
def test_the_difference_to_the_head_is_paired_by_image(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    """With a zero output layer of the denoiser, hypothesis 0 is the head's estimate on every image."""
    images = {**TWO_IMAGES, "images": 10, "out": tmp_path}
    ahead = evaluate_with_baselines(tiny_policy, "lab-test", **images).difference_to_head()
    same = evaluate_with_baselines(tiny_policy, "lab-test", **images, against=tiny_policy)
    assert same.difference_to_other()["mpjpe_mm"]["min4"] == [0.0, 0.0, 0.0]  # the same policy and noise
    tiny_policy.denoiser.reset_head()
    level = evaluate_with_baselines(tiny_policy, "lab-test", **images).difference_to_head()
    assert set(ahead) == set(level) == ERRORS
    for metric in ERRORS:
        assert level[metric]["hyp0"] == pytest.approx([0, 0, 0], abs=0.01)  # mm
        mean, low, high = ahead[metric]["hyp0"]
        assert low <= mean <= high
        assert abs(mean) > 0.05


def test_deterministic_baselines_have_one_error_and_no_calibration(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    compared = evaluate_with_baselines(tiny_policy, "lab-test", **TWO_IMAGES, out=tmp_path)
    for name in DETERMINISTIC:
        errors = compared.reports[name].values["mpjpe_mm"]
        assert errors["min4"] == pytest.approx(errors["mean"], rel=1e-5)
        assert compared.reports[name].spread_mm() == pytest.approx(0.0, abs=1e-2)
    console = Console(width=160, record=True)
    console.print(baseline_table(compared.reports, DETERMINISTIC))
    lines = console.export_text().splitlines()
    (covered,) = (line for line in lines if "central 80 %" in line)
    assert covered.count(" - ") == len(DETERMINISTIC)
    assert not any("argmax" in line for line in lines)  # no scorer, no pick


def test_the_head_uses_the_image_and_the_mean_pose_does_not(
    tiny_policy: DiffusionPolicy, sample: Sample
) -> None:
    generator = torch.Generator().manual_seed(0)
    head, mean = RegressionHead(tiny_policy), MeanPose(tiny_policy)
    (regressed,), (blind,) = (
        baseline.sample(baseline.encode([sample]), 3, generator) for baseline in (head, mean)
    )
    # The mean pose is the statistics' own mean; the head's answer is not.
    pose = tiny_policy.from_x0(torch.zeros(1, 1, 157), mean.encode([sample]))[0]
    torch.testing.assert_close(blind.params.body_pose, pose.body_pose.expand(3, 23, 3))
    assert not torch.equal(regressed.params.body_pose, blind.params.body_pose)


class ConstantGuidance:
    """Replaces x0 by a constant."""

    def __init__(self, value: float) -> None:
        self.value = value

    def guide(self, x0: torch.Tensor, steps_left: int) -> torch.Tensor:
        return torch.full_like(x0, self.value)


def test_guidance_gets_the_encoded_image(tiny_policy: DiffusionPolicy, sample: Sample) -> None:
    asked: list[str] = []

    def guidance_of(samples: Sequence[Sample], features: Features) -> Guidance:
        asked.extend(each.id for each in samples)
        assert len(features) == len(samples)
        return ConstantGuidance(0.0)

    guided = GuidedPolicy(tiny_policy, guidance_of)
    features = guided.encode([sample])
    (group,) = guided.sample(features, 3, torch.Generator().manual_seed(0))
    assert asked == [sample.id]
    mean = tiny_policy.from_x0(torch.zeros(1, 3, 157), features[0])[0]
    torch.testing.assert_close(group.params.body_pose, mean.body_pose, atol=1e-4, rtol=0)


def test_invalid_arguments_are_named(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown split 'lab-train'; there are wild-test, lab-test"):
        evaluate_with_baselines(tiny_policy, "lab-train", **TWO_IMAGES, out=tmp_path)
    for folder in ("motion", "backdrops"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            evaluate_with_baselines(
                tiny_policy, "wild-test", **TWO_IMAGES, out=tmp_path, **{folder: tmp_path / "nowhere"}
            )


@pytest.mark.slow
def test_backdrops_change_the_benchmark(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "walls").mkdir()
    Image.new("RGB", (300, 260), (10, 200, 30)).save(tmp_path / "walls" / "green.png")
    tiny_policy.save_pretrained(tmp_path / "policy")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    words = f"evaluate --policy {tmp_path / 'policy'} --images 1 --samples 2 --out {tmp_path / 'o'} --json"
    found = {}
    for more in ("", f" --backdrops {tmp_path / 'walls'}"):
        code, out, _ = call(monkeypatch, capsys, *(words + more).split())
        assert code == 0
        printed = json.loads(out)
        found[printed["backdrops"]] = printed["benchmark"]
    assert set(found) == {None, "walls"}
    assert found[None] != found["walls"]
