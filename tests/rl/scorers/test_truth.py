import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hmr.body.model import load_body
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample, Scorer, Truth
from rl.scorers.truth import NoisyTruthScorer, TruthScorer, noise_share

CAMERA = Camera.estimate(6, 8)


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def case(body):
    """A T-pose and three hypotheses: exact, translated, and with a bent elbow."""
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


@pytest.mark.parametrize("srcc", [0.3, 0.6, 0.8, 1.0])
def test_noisy_truth_has_the_given_srcc(srcc):
    """400 groups of 20: the mean rho is known to about .01."""
    signal = torch.randn(400, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(400, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noisy = signal + noise_share(srcc) * signal.std(dim=1, keepdim=True) * noise
    found = np.mean([spearmanr(a, b).statistic for a, b in zip(signal, noisy, strict=True)])
    assert found == pytest.approx(srcc, abs=0.03)


def test_an_srcc_of_zero_is_refused():
    with pytest.raises(ValueError, match="srcc"):
        noise_share(0.0)


def test_a_perfect_critic_equals_the_truth(body, case):
    sample, hypotheses, truth = case
    perfect, noisy, again = (NoisyTruthScorer(body, lambda _: truth, srcc) for srcc in (1.0, 0.5, 0.5))
    other = NoisyTruthScorer(body, lambda _: truth, 0.5, seed=1)
    exact = TruthScorer(body, lambda _: truth).score(sample, hypotheses)
    assert perfect.score(sample, hypotheses) == pytest.approx(exact, abs=1e-3)
    assert noisy.score(sample, hypotheses) == again.score(sample, hypotheses) != exact
    assert other.score(sample, hypotheses) != noisy.score(sample, hypotheses)
    assert noisy.uses_truth
    assert noisy.name == "noisy-truth:0.5"
