import pytest
import torch

from hmr.body import load_body
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample, Scorer, Truth
from rl.scorers import TruthScorer

CAMERA = Camera.estimate(6, 8)


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def case(body):
    """A T-pose, and three hypotheses of it: exact, moved as a whole, and with a bent elbow."""
    zeros = torch.zeros
    params = BodyParams(zeros(3, 3), zeros(3, 23, 3), zeros(3, 10), torch.tensor([[0.0, 0.0, 3.0]] * 3))
    params.transl[1] += 1.0
    params.body_pose[2, 17, 1] = 1.5  # joint 18, the left elbow
    true = params[0]
    joints_cam_m = body.joints(params)[0]
    pixels, seen = CAMERA.project(joints_cam_m), torch.ones(24, dtype=torch.bool)
    mask = torch.ones(8, 6, dtype=torch.bool).numpy()
    sample = Sample("a", torch.zeros(8, 6, 3, dtype=torch.uint8).numpy(), Box(0.0, 0.0, 6.0, 8.0), CAMERA)
    return sample, Hypotheses(params, CAMERA), Truth(true, CAMERA, joints_cam_m, pixels, seen, mask)


def test_the_truth_scores_by_pelvis_aligned_error(body, case):
    sample, hypotheses, truth = case
    scorer = TruthScorer(body, {"a": truth}.__getitem__)
    exact, moved, bent = scorer.score(sample, hypotheses)
    assert exact == pytest.approx(0.0, abs=1e-3)
    assert moved == pytest.approx(0.0, abs=1e-3)
    assert bent < -1.0
    assert scorer.uses_truth
    assert isinstance(scorer, Scorer)


def test_noise_belongs_to_the_sample_and_the_seed(body, case):
    sample, hypotheses, truth = case
    noisy, again, other = (
        TruthScorer(body, lambda _: truth, noise_mm=10.0, seed=seed).score(sample, hypotheses)
        for seed in (0, 0, 1)
    )
    assert noisy == again
    assert noisy != other
    assert TruthScorer(body, lambda _: truth, noise_mm=10.0).name == "truth+10mm"


def test_no_negative_noise(body):
    with pytest.raises(ValueError, match="at least 0"):
        TruthScorer(body, lambda _: None, noise_mm=-1.0)
