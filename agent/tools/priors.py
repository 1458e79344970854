"""Priors of pose and shape.

The pose prior is the negative log-likelihood of the pose under a mixture of Gaussians, one per activity.

    quantity            symbol   value
    anatomical angles   a        63 numbers (21 joints, hands left out), radians (`hmr.body.joint_limits`)
    activity            k        one of `hmr.synthetic.poses.ACTIVITIES`, with its share pi_k among sampled poses
    mean, covariance    m_k S_k  of its poses; S_k = (1 - SHRINK) cov + SHRINK diag(cov) + FLOOR^2 I
    value                        -log sum_k pi_k N(a; m_k, S_k) / 63      nats per degree of freedom

The sampler gives the activity of each pose, so the mixture is fitted without EM, in a few tenths of a second, on poses
of the `lab` preset from a fixed seed; it is the same in every process. Anatomical angles are used instead of 6D or
axis-angle rotations, because within the limits they have no wraps and no constraints, which suits a Gaussian.

Left out: learned priors (VPoser, Pose-NDF) and motion capture, which model correlations of limbs better than the
procedural poses. Hands: the sampler keeps them at rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, PART_NAMES, worst_parts
from agent.types import Case, Evidence, Need
from hmr.body.joint_limits import to_anatomical
from hmr.synthetic.poses import sample_poses

__all__ = ["PoseMixture", "PosePrior", "ShapePrior", "fit_pose_mixture"]

FITTED_POSES = 4096
SEED = 0
JOINTS = 21  # without the two hands
DOF = 3 * JOINTS
SHRINK = 0.2
FLOOR_RAD = math.radians(6.0)  # the accuracy of an estimated joint; it also keeps S_k invertible
FAULT_SD = 3.5  # exceeded by one pose in five of real motion (CMU), which is more varied than the sampler


class PosePrior:
    """Negative log-likelihood of the pose, in nats per degree of freedom; below zero for the most likely poses."""

    name = "pose_prior"
    metric = "pose_nats_per_dof"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        nats, deviation_sd = fit_pose_mixture().evaluate(_angles(case.hypotheses.params.body_pose))
        return Evidence(
            tool=self.name,
            metric=self.metric,
            unit="nat",
            values=tuple(nats.tolist()),
            parts=worst_parts(deviation_sd, FAULT_SD, PART_NAMES[1 : JOINTS + 1]),
            sentences=tuple(_sentence(row) for row in deviation_sd),
        )


@dataclass(frozen=True)
class PoseMixture:
    """Gaussians over anatomical angles, one per activity."""

    log_share: Float[Tensor, "activities"]
    mean_rad: Float[Tensor, "activities dof"]
    whiten: Float[Tensor, "activities dof dof"]  # inverse Cholesky factors of the covariances
    sd_rad: Float[Tensor, "activities dof"]

    def evaluate(
        self, angles_rad: Float[Tensor, "batch dof"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch joints"]]:
        """Nats per degree of freedom, and the distance of each joint from the mean of the most likely activity, in
        standard deviations (root mean square over its three angles)."""
        offset = angles_rad[:, None] - self.mean_rad.to(angles_rad)
        whiten = self.whiten.to(angles_rad)
        white = torch.einsum("kij,bkj->bki", whiten, offset)
        log_det = whiten.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        log_normal = log_det - 0.5 * (white**2).sum(dim=-1) - 0.5 * DOF * math.log(2 * math.pi)
        log_joint = self.log_share.to(angles_rad) + log_normal
        nearest = log_joint.argmax(dim=1)
        rows = torch.arange(len(angles_rad), device=angles_rad.device)
        sds = (offset[rows, nearest] / self.sd_rad.to(angles_rad)[nearest]).unflatten(1, (JOINTS, 3))
        return -log_joint.logsumexp(dim=1) / DOF, sds.square().mean(dim=-1).sqrt()


@cache
def fit_pose_mixture() -> PoseMixture:
    """The mixture of the sampler's activities, from a fixed seed; fitted once per process."""
    poses = sample_poses(FITTED_POSES, torch.Generator().manual_seed(SEED), "lab")
    angles = _angles(poses.body_pose)
    groups = [angles[poses.activity == activity] for activity in poses.activity.unique()]
    covariances = torch.stack([_covariance(group) for group in groups])
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariances))
    shares = torch.tensor([len(group) / len(angles) for group in groups])
    means = torch.stack([group.mean(dim=0) for group in groups])
    return PoseMixture(shares.log(), means, whiten, covariances.diagonal(dim1=1, dim2=2).sqrt())


def _angles(body_pose: Float[Tensor, "batch 23 3"]) -> Float[Tensor, "batch dof"]:
    return to_anatomical(body_pose)[:, :JOINTS].flatten(1)


def _covariance(angles_rad: Float[Tensor, "poses dof"]) -> Float[Tensor, "dof dof"]:
    covariance = angles_rad.T.cov()
    return (1 - SHRINK) * covariance + SHRINK * covariance.diagonal().diag() + FLOOR_RAD**2 * torch.eye(DOF)


def _sentence(deviation_sd: Float[Tensor, "joints"]) -> str:
    joint = int(deviation_sd.argmax())
    worst, word = float(deviation_sd[joint]), JOINT_WORDS[joint + 1]  # after the pelvis
    return f"Its least common joint rotation is that of the {word}, {worst:.1f} standard deviations from average."


SHAPE_FAULT_SD = 2.0


class ShapePrior:
    """Root mean square of the betas, in standard deviations of the population.

    Betas are the coordinates of a PCA scaled to unit variance (SMPL, Loper et al. 2015, section 3), so their Gaussian
    is the standard one and its Mahalanobis distance is their norm. The average body has the best value, not one at the
    expected norm sqrt(10), which would penalise a conservative estimate of an average person.
    """

    name = "shape_prior"
    metric = "shape_rms_sd"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        betas = case.hypotheses.params.betas
        rms_sd = torch.linalg.vector_norm(betas, dim=-1) / betas.shape[-1] ** 0.5
        values = tuple(rms_sd.tolist())
        return Evidence(
            tool=self.name,
            metric=self.metric,
            unit="sd",
            values=values,
            parts=tuple(("torso",) if value > SHAPE_FAULT_SD else () for value in values),
            sentences=tuple(_shape_sentence(value) for value in values),
        )


def _shape_sentence(rms_sd: float) -> str:
    if rms_sd > SHAPE_FAULT_SD:
        return f"The build is {rms_sd:.1f} standard deviations from average: hardly anyone has this body."
    return f"The build is {rms_sd:.1f} standard deviations from average."
