"""Joints and errors of the published protocols, against worked examples and scipy."""

import pickle

import numpy as np
import pytest
import roma
import torch
from scipy.linalg import orthogonal_procrustes

from hmr.datasets.joints import H36M17, H36M_EVAL_14, HMR2_44, LSP14, SPIN24
from hmr.datasets.protocols import (
    EMDB_24,
    H36M_14,
    HMR2_14,
    J19_14,
    PREDICTED_BY,
    PW3D_24,
    SPIN_H36M_14,
    load_regressor,
    regress,
)
from tests.hmr.datasets.layouts import write_pickle

PROTOCOLS = [EMDB_24, H36M_14, HMR2_14, PW3D_24, SPIN_H36M_14]


def skeletons(joints: int, seed: int) -> torch.Tensor:
    return torch.randn(3, joints, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_human36m_joints_are_in_the_order_of_lsp():
    assert tuple(H36M17.joints[joint] for joint in H36M_EVAL_14) == LSP14.joints


@pytest.mark.parametrize("protocol", [HMR2_14, SPIN_H36M_14])
def test_fourteen_joints_are_lsps_with_human36ms_head(protocol):
    names = [protocol.convention.joints[joint] for joint in protocol.joints]
    assert names == [*LSP14.joints[:13], "head_h36m"]
    assert [protocol.convention.joints[joint] for joint in protocol.root] == ["pelvis_mpii"]


def test_hmr2s_joints_are_those_of_its_configuration():
    """4D-Humans datasets_eval.yaml: KEYPOINT_LIST; PELVIS_IND 39."""
    assert HMR2_14.joints == (25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43)
    assert HMR2_14.root == (39,)
    assert HMR2_44.joints[25:] == SPIN24.joints[:19]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_only_the_joints_of_the_protocol_relative_to_its_root_count(protocol):
    true = skeletons(len(protocol.convention), 0)
    pred = true + 5.0  # moved as a whole
    others = set(range(true.shape[1])) - set(protocol.joints) - set(protocol.root)
    pred[:, sorted(others)] += 1.0
    torch.testing.assert_close(protocol.mpjpe_mm(pred, true), torch.zeros(3, dtype=torch.float64))
    pred[:, protocol.joints[0]] += torch.tensor([0.0, 0.03, 0.04])  # 50 mm, which may move the root as well
    assert (protocol.mpjpe_mm(pred, true) > 0).all()


def test_fifty_millimetres_at_one_of_fourteen_joints():
    true = skeletons(17, 1)
    pred = true.clone()
    pred[:, 6] += torch.tensor([0.0, 0.03, 0.04])
    torch.testing.assert_close(H36M_14.mpjpe_mm(pred, true), torch.full((3,), 50 / 14, dtype=torch.float64))


def test_procrustes_agrees_with_scipy():
    pred, true = skeletons(24, 2), skeletons(24, 3)
    ours = EMDB_24.pa_mpjpe_mm(pred, true)
    for row in range(3):
        p, t = pred[row].numpy(), true[row].numpy()
        p, t = p - p.mean(0), t - t.mean(0)
        turn, scale = orthogonal_procrustes(p, t)
        if np.linalg.det(turn) < 0:  # scipy allows reflections; flip the weakest axis
            u, s, vt = np.linalg.svd(p.T @ t)
            turn, scale = u @ np.diag([1, 1, -1]) @ vt, s[0] + s[1] - s[2]
        aligned = scale / (p**2).sum() * p @ turn
        expected = 1000 * np.linalg.norm(aligned - t, axis=1).mean()
        np.testing.assert_allclose(ours[row].item(), expected, rtol=1e-9)


def test_the_aligned_error_ignores_similarities():
    true = skeletons(44, 4)
    turn = roma.rotvec_to_rotmat(skeletons(1, 5)[:, 0])
    pred = 1.7 * true @ turn.mT + 0.4
    assert HMR2_14.pa_mpjpe_mm(pred, true).max() < 1e-9
    assert HMR2_14.mpjpe_mm(pred, true).min() > 1


def test_skeletons_of_another_convention_are_refused():
    with pytest.raises(ValueError, match="selects from the 17 joints of h36m17, not from 24"):
        H36M_14.mpjpe_mm(skeletons(24, 0), skeletons(24, 0))


def test_a_regressor_computes_weighted_sums_of_vertices(tmp_path):
    weights = np.zeros((17, 5))
    weights[:, 0], weights[:, 4] = 0.25, 0.75
    np.save(tmp_path / "J_regressor_h36m.npy", weights)
    vertices = torch.arange(15.0).view(1, 5, 3)
    joints = regress(load_regressor(tmp_path / "J_regressor_h36m.npy"), vertices)
    # a quarter of (0, 1, 2) and three quarters of (12, 13, 14)
    torch.testing.assert_close(joints, torch.tensor([9.0, 10.0, 11.0]).expand(1, 17, 3))
    write_pickle(tmp_path / "SMPL_to_J19.pkl", weights[[0] * 19])  # an array and nothing else
    joints = regress(load_regressor(tmp_path / "SMPL_to_J19.pkl"), vertices)
    torch.testing.assert_close(joints, torch.tensor([9.0, 10.0, 11.0]).expand(1, 19, 3))


def test_predicted_joints_are_in_the_order_of_the_truth():
    for protocol, by in PREDICTED_BY.items():
        assert len(by.joints) == len(protocol.joints)
    names = [HMR2_44.joints[joint] for joint in (*HMR2_14.joints, *HMR2_14.root)]
    assert [J19_14.convention.joints[joint] for joint in (*J19_14.joints, *J19_14.root)] == names


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def test_other_files_are_refused_as_regressors(tmp_path, capsys):
    np.save(tmp_path / "other.npy", np.zeros((24, 5)))
    with pytest.raises(ValueError, match=r"has shape \(24, 5\), not \(17, vertices\)"):
        load_regressor(tmp_path / "other.npy")
    with pytest.raises(FileNotFoundError, match="no joint regressor"):
        load_regressor(tmp_path / "nowhere.npy")
    np.save(tmp_path / "holes.npy", np.full((17, 5), np.nan))
    np.save(tmp_path / "objects.npy", np.array([[Hostile()]]), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=np.zeros((17, 5)))
    (tmp_path / "garbage.npy").write_text("J_regressor_h36m")
    (tmp_path / "empty.npy").touch()
    for name, message in (
        ("holes.npy", "not all finite"),
        (
            "objects.npy",
            r"not an array file \(.npy\): .*; a joint regressor is J_regressor_h36m.npy or SMPL_to_J19.pkl",
        ),
        ("archive.npz", "not an array file"),
        ("garbage.npy", "not an array file"),
        ("empty.npy", "not an array file"),
    ):
        with pytest.raises(ValueError, match=rf"{name} .*{message}"):
            load_regressor(tmp_path / name)
    for content, message in (
        (Hostile(), "asks for builtins.print"),
        ({"J": 1}, "holds a dict, not an array"),
    ):
        (tmp_path / "other.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=rf"other.pkl .*{message}"):
            load_regressor(tmp_path / "other.pkl")
    assert capsys.readouterr().out == ""
