"""Worked examples, invariances, and comparisons with numpy loops, scipy's Procrustes and roma's registration."""

import math
from typing import cast

import numpy as np
import pytest
import roma
import torch
from scipy.linalg import orthogonal_procrustes

from hmr.metrics.errors import (
    average_pose,
    joint_std_mm,
    mean_of_errors,
    min_of_errors,
    mpjpe_mm,
    pa_mpjpe_mm,
    pick_of_errors,
    pve_mm,
    spread_mm,
)
from hmr.types import BodyParams


def skeletons(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*batch, 24, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def line(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, 24, dtype=dtype)[:, None] * torch.tensor([1.0, 2.0, 2.0], dtype=dtype)


def bodies(*batch: int, seed: int = 0) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)
    shapes = (3,), (23, 3), (10,), (3,)
    return BodyParams(*(torch.randn(*batch, *s, generator=generator, dtype=torch.float64) for s in shapes))


def pa_by_scipy(pred: np.ndarray, true: np.ndarray) -> float:
    """Procrustes with scipy's rotation; if that is a reflection, the weakest axis is flipped."""
    x, y = pred - pred.mean(0), true - true.mean(0)
    rotation, scale = orthogonal_procrustes(x, y)
    if np.linalg.det(rotation) < 0:
        u, sigma, vt = np.linalg.svd(x.T @ y)
        u[:, -1], scale = -u[:, -1], sigma[0] + sigma[1] - sigma[2]
        rotation = u @ vt
    return 1000 * np.linalg.norm(scale / np.square(x).sum() * x @ rotation - y, axis=1).mean()


def pa_by_roma(pred: torch.Tensor, true: torch.Tensor) -> float:
    registered = roma.rigid_points_registration(pred, true, compute_scaling=True)
    rotation, translation, scale = cast("tuple[torch.Tensor, torch.Tensor, torch.Tensor]", registered)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0)
    aligned = torch.stack([scale * rotation @ point + translation for point in pred])
    return 1000 * (aligned - true).norm(dim=1).mean().item()


def flat(points: torch.Tensor) -> torch.Tensor:
    return points * torch.tensor([1.0, 1.0, 0.0], dtype=points.dtype)


MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def hard_pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    true = skeletons(seed=9)
    turned = true @ roma.rotvec_to_rotmat(torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)).T
    return {
        "unrelated": (skeletons(seed=1), true),
        "near": (true + 0.01 * skeletons(seed=1), true),
        "identical": (true, true),
        "turned, scaled and moved": (2.5 * turned + 7, true),
        "mirrored": (true * MIRROR, true),
        "mirrored and turned": (turned * MIRROR, true),
        "mirrored through the origin": (-true, true),
        "flat": (flat(skeletons(seed=1)), true),
        "truth flat": (skeletons(seed=1), flat(true)),
        "both flat, mirrored": (flat(true) * MIRROR, flat(true)),
        "collinear": (line(), true),
        "truth collinear": (true, line()),
        "both collinear": (line()[:, [1, 0, 2]], line()),
        "collinear, reversed": (-3 * line() + 1, line()),
        "truth in one point": (true, torch.ones(24, 3, dtype=torch.float64)),
        "millimetres apart": (1e-3 * skeletons(seed=1), true),
    }


@pytest.mark.parametrize("name", hard_pairs())
def test_pa_agrees_with_scipy_and_roma(name: str) -> None:
    pred, true = hard_pairs()[name]
    found = pa_mpjpe_mm(pred, true).item()
    assert found == pytest.approx(pa_by_scipy(pred.numpy(), true.numpy()), abs=1e-6)
    assert found == pytest.approx(pa_by_roma(pred, true), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_mpjpe_and_pve_agree_with_loops_over_points(seed: int) -> None:
    pred, true = skeletons(seed=seed).numpy(), skeletons(seed=seed + 50).numpy()
    rng = np.random.default_rng(seed)
    skin, true_skin = rng.normal(size=(2, 40, 3))

    def by_loop(points: np.ndarray, true_points: np.ndarray) -> float:
        total = 0.0
        for p, t in zip(points, true_points, strict=True):
            total += math.dist(p - pred[0], t - true[0])
        return 1000 * total / len(points)

    tensors = [torch.from_numpy(array) for array in (skin, pred, true_skin, true)]
    assert mpjpe_mm(tensors[1], tensors[3]).item() == pytest.approx(by_loop(pred, true), abs=1e-6)
    assert pve_mm(*tensors).item() == pytest.approx(by_loop(skin, true_skin), abs=1e-6)


def test_mpjpe_is_the_mean_distance_about_the_pelvis() -> None:
    true = skeletons()
    pred = true + torch.tensor([5.0, -3.0, 2.0])  # a translation does not count
    pred[7] += torch.tensor([0.003, 0.004, 0.0])  # 5 mm at one joint of 24
    assert mpjpe_mm(pred, true).item() == pytest.approx(5 / 24, abs=1e-6)


def test_a_displaced_pelvis_displaces_all_other_joints() -> None:
    true = skeletons()
    pred = true.clone()
    pred[0, 0] += 0.024  # the other 23 joints are then 24 mm off: 23 / 24 * 24 = 23
    assert mpjpe_mm(pred, true).item() == pytest.approx(23.0, abs=1e-6)


@pytest.mark.parametrize("metric", [mpjpe_mm, pa_mpjpe_mm])
def test_truth_broadcasts_over_hypotheses(metric) -> None:
    pred, true = skeletons(4, 5), skeletons(4, seed=1)
    errors = metric(pred, true[:, None])
    assert errors.shape == (4, 5)
    assert errors.dtype == torch.float64
    torch.testing.assert_close(errors[2, 3], metric(pred[2, 3], true[2]))
    torch.testing.assert_close(metric(pred[0], true[0]), metric(pred[0], true[0].expand(5, 24, 3)))


def test_pa_ignores_similarities() -> None:
    true = skeletons()
    rotation = roma.rotvec_to_rotmat(torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64))
    assert pa_mpjpe_mm(2.5 * true @ rotation.T + 7, true).item() == pytest.approx(0.0, abs=1e-6)
    assert pa_mpjpe_mm(true, true).item() == pytest.approx(0.0, abs=1e-6)


def test_pa_does_not_reflect() -> None:
    true = skeletons()
    assert pa_mpjpe_mm(true * MIRROR, true).item() > 100
    # All of a flat body fits its mirror image: rotating it by 180 degrees is not a reflection.
    assert pa_mpjpe_mm(flat(true) * MIRROR, flat(true)).item() == pytest.approx(0.0, abs=1e-6)


def test_pa_of_collinear_joints() -> None:
    # A line rotated by 180 degrees is the mirrored line, so this reflection is also a rotation.
    assert pa_mpjpe_mm(-3 * line() + 1, line()).item() == pytest.approx(0.0, abs=1e-6)
    # Any line with the same spacing fits any other.
    assert pa_mpjpe_mm(line()[:, [1, 0, 2]], line()).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0.0, 1.0, 0.1])
def test_pa_of_coincident_joints_is_the_distance_to_the_centroid(dtype: torch.dtype, place: float) -> None:
    point, true = torch.full((24, 3), place, dtype=dtype), skeletons(dtype=dtype)
    to_centroid_mm = 1000 * (true - true.mean(0)).norm(dim=-1).mean()
    torch.testing.assert_close(pa_mpjpe_mm(point, true), to_centroid_mm)
    assert pa_mpjpe_mm(true, point).item() == pytest.approx(0.0, abs=1e-3)  # scaled to 0
    assert pa_mpjpe_mm(point, point + 1).item() == 0.0


def test_the_error_of_a_nan_prediction_is_nan() -> None:
    pred = skeletons()
    pred[3, 1] = math.nan
    assert mpjpe_mm(pred, skeletons()).isnan()


def test_pve_is_aligned_by_the_pelvis_joint() -> None:
    true_vertices, joints = torch.rand(3, 50, 3, dtype=torch.float64), skeletons(3)
    moved = true_vertices + 2.0
    moved[:, 0, 2] += 0.1  # 100 mm at one vertex of 50
    error = pve_mm(moved, joints + 2.0, true_vertices, joints)
    torch.testing.assert_close(error, torch.full((3,), 2.0, dtype=torch.float64))


def test_spread_is_the_root_of_the_summed_variance() -> None:
    joints = skeletons().repeat(2, 1, 1)
    joints[1, 4] += torch.tensor([0.006, 0.008, 0.0])  # +-5 mm about the mean of two: sqrt(9 + 16) = 5
    mask = torch.zeros(24, dtype=torch.bool)
    mask[[0, 4, 5]] = True  # the pelvis does not count: (5 + 0) / 2
    assert spread_mm(joints, mask).item() == pytest.approx(2.5, abs=1e-6)


def test_the_std_of_a_joint_is_about_the_pelvis() -> None:
    joints = skeletons().repeat(4, 1, 1)
    joints[:, 9, 1] += torch.tensor([0.0, 0.002, 0.004, 0.006])  # about 3 mm: sqrt((9 + 1 + 1 + 9) / 4)
    joints += torch.arange(4.0)[:, None, None]  # the position of the bodies does not matter
    expected = torch.zeros(24, dtype=torch.float64)
    expected[9] = math.sqrt(5)
    torch.testing.assert_close(joint_std_mm(joints), expected)


def test_spread_ignores_the_position_and_is_nan_without_joints() -> None:
    joints = skeletons().repeat(3, 1, 1) + torch.arange(3.0)[:, None, None]
    everything = torch.ones(24, dtype=torch.bool)
    assert spread_mm(joints, everything).item() == pytest.approx(0.0, abs=1e-6)
    assert spread_mm(joints, ~everything).isnan()


def test_reductions_over_a_group() -> None:
    errors = torch.tensor([[3.0, 5.0, 1.0], [4.0, 2.0, 9.0]])
    torch.testing.assert_close(min_of_errors(errors, 2), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(mean_of_errors(errors), torch.tensor([3.0, 5.0]))
    with pytest.raises(ValueError, match=r"over 4 hypotheses needs .* not 3"):
        min_of_errors(errors, 4)


def test_the_pick_follows_the_scores() -> None:
    errors = torch.tensor([10.0, 20.0, 40.0])
    assert pick_of_errors(errors, [1.0, 3.0, 2.0]) == 20.0
    assert pick_of_errors(errors, [None, -5.0, None]) == 20.0
    assert pick_of_errors(errors, [7.0, 0.0, 7.0]) == 25.0  # (10 + 40) / 2: the mean of a tie
    assert pick_of_errors(errors, [None, None, None]) is None


def test_the_average_of_one_body_is_itself() -> None:
    one = bodies(1)
    mean = average_pose(one)
    torch.testing.assert_close(roma.rotvec_to_rotmat(mean.body_pose), roma.rotvec_to_rotmat(one.body_pose[0]))
    torch.testing.assert_close(mean.betas, one.betas[0])


def test_rotations_average_on_the_circle() -> None:
    # The mean of 170 and -150 degrees about x is -170, not 10 degrees.
    angles = torch.deg2rad(torch.tensor([170.0, -150.0], dtype=torch.float64))
    pair = bodies(2)
    turned = BodyParams(angles[:, None] * torch.eye(3, dtype=torch.float64)[0], *_rest(pair))
    expected = math.radians(-170.0)
    torch.testing.assert_close(
        roma.rotvec_to_rotmat(average_pose(turned).global_orient),
        roma.rotvec_to_rotmat(torch.tensor([expected, 0.0, 0.0], dtype=torch.float64)),
    )
    torch.testing.assert_close(average_pose(turned).transl, pair.transl.mean(0))


def test_groups_average_in_batches() -> None:
    many = bodies(3, 4)
    torch.testing.assert_close(average_pose(many).body_pose[1], average_pose(many[1]).body_pose)


def test_a_weighted_average_follows_the_weights() -> None:
    many = bodies(2, 3)
    last = torch.tensor([0.0, 0.0, 1.0]).expand(2, 3)
    torch.testing.assert_close(average_pose(many, last).betas, many.betas[:, 2])
    torch.testing.assert_close(
        roma.rotvec_to_rotmat(average_pose(many, last).body_pose),
        roma.rotvec_to_rotmat(many.body_pose[:, 2]),
    )
    uneven = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    expected = (many.betas[0, 0] * 2 + many.betas[0, 1] + many.betas[0, 2]) / 4
    torch.testing.assert_close(average_pose(many, uneven).betas[0], expected)


def _rest(params: BodyParams) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return params.body_pose, params.betas, params.transl
