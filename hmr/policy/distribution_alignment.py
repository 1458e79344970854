"""Sampling shaped by the input's own distributions: the start of the reverse process, and alignment in its first half.

After HMDiff (Foo et al., ICCV 2023, arXiv 2308.13369), re-derived for a policy that diffuses body parameters about an
initial estimate. What of it the policy has without these options: the reverse process is conditioned on the image, and
the prediction is exact for a Gaussian N(g, r^2) about the estimate (`hmr.policy.policy`).

**Start** (`start: distribution`). If x_0 ~ N(g, r^2), then x_t ~ N(a g, a^2 r^2 + s^2), and the probability flow from
noise z at the end of the schedule arrives exactly at

    x_t = a g + sqrt(a^2 r^2 + s^2) z,    a = sqrt(abar_t), s = sqrt(1 - abar_t).

So the solver can begin at a time t < T and spend all its steps where the denoiser has something to add. z is the noise
of the unit start, hypothesis 0 has z = 0 as there, and g = 0, r = 1 at t = T is the unit start itself. HMDiff itself
starts from unit noise; a start in the distribution of a pose estimate is that of DiffPose, by the same group (Gong et
al., CVPR 2023, arXiv 2211.16940).

**Alignment** (`alignment`: its strength, 0 to 1). HMDiff's distribution alignment technique moves each hypothesis i
towards a draw u_i from the distribution of a pose estimator's output, by the gradient of a gap between the draw and the
predicted clean body, as long as the gap is large:

| variable  | symbol | equation                                                                                       |
|-----------|--------|------------------------------------------------------------------------------------------------|
| target    | u_i    | k + sigma z_i for observed points (crop units), d + sigma_d z_i for observed depths (metres)   |
| residual  | rho    | sqrt(v) w (u_i - f(x_0)) / floor, f the body's projected points; k, v, w, d: `condition`       |
| gap       | D      | sum of rho^2 over the sum of v: squared deviations per observed coordinate                     |
| direction | d      | r^2 J^T rho, J the derivative of f's part: the effect of x_t through E[x_0 | x_t]              |
| step      |        | strength (J^T rho . d) / (|J d|^2 + |d / r|^2): to the minimum along d of sum rho^2 and prior  |

Known of HMDiff are its abstract and the figure of its pipeline; where they leave something open, it is decided here.
Its f is a joint regressor on vertices. Its gradient passes through the denoiser; here the Gaussian part of that
derivative, r^2 at early times, stands for it, so that no backward pass through the network is needed. Of its activation
strategy the figure shows only that it depends on D: here a hypothesis is aligned in the first half of the steps while
D > 1, and a step that raises D is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from common.seeding import Generators, standard_normal
from hmr.body.surface_points import BodyPoints
from hmr.policy.condition import DEPTH_FLOOR_M, FLOOR, PointEstimates
from hmr.policy.parametrization import pelvis_from_crop, project, split

__all__ = ["DistributionAlignment", "StandardisedBody", "draw_targets", "start_from_estimate"]

MAX_GAP = 1.0  # squared deviations per coordinate; nearer than that a hypothesis agrees with its target
PROBE = 1e-2  # in standardised x_0: step of the finite difference along the direction


def start_from_estimate(
    noise: Float[Tensor, "batch group dim"],
    estimate: Float[Tensor, "batch dim"],
    std: Float[Tensor, " dim"],
    abar: Float[Tensor, ""],
) -> Float[Tensor, "batch group dim"]:
    """x_t from unit noise, for x_0 ~ N(estimate, std^2)."""
    return abar.sqrt() * estimate[:, None] + (1 + abar * (std.square() - 1)).sqrt() * noise


def draw_targets(
    observed: PointEstimates, num_samples: int, generator: Generators
) -> tuple[Float[Tensor, "batch group 41 2"], Float[Tensor, "batch group 41"]]:
    """Positions and depths from the detection's own distribution, one of each point per hypothesis; the first
    hypothesis gets the detection itself. A point that is not observed has no weight and stays where it is."""
    device = observed.position.device
    shape = (observed.position.shape[0], num_samples, observed.position.shape[-2], 3)
    noise = standard_normal(shape, generator).to(device)
    noise[:, 0] = 0
    sigma = _sigma(observed.weight, FLOOR)[:, None, :, None]
    depth_sigma = _sigma(observed.depth_weight, DEPTH_FLOOR_M)[:, None]
    position = observed.position[:, None] + sigma * noise[..., :2]
    return position, observed.depth_m[:, None] + depth_sigma * noise[..., 2]


def _sigma(weight: Float[Tensor, "*batch"], floor: float) -> Float[Tensor, "*batch"]:
    """The inverse of `hmr.policy.condition`'s weights; 0 where nothing is observed."""
    sigma = floor * (weight.square().clamp_min(1e-12).reciprocal() - 1).clamp_min(0).sqrt()
    return torch.where(weight > 0, sigma, 0.0)


@dataclass(frozen=True)
class StandardisedBody:
    """From a policy's standardised x_0 to its body's observable points."""

    points: BodyPoints
    mean: Float[Tensor, " dim"]
    std: Float[Tensor, " dim"]
    geometry: Float[Tensor, "batch 8"]

    def observe(
        self, x0: Float[Tensor, "batch group dim"]
    ) -> tuple[Float[Tensor, "batch group 41 2"], Float[Tensor, "batch group 41"]]:
        """Positions in crop units, and depths behind the pelvis in metres."""
        geometry = self.geometry[:, None]
        rotations, betas, pelvis = split(x0 * self.std + self.mean)
        points_m = self.points(rotations, betas).points_m
        pixels = project(points_m + pelvis_from_crop(pelvis, geometry)[..., None, :], geometry)
        centre, side = geometry[..., None, 5:7], geometry[..., None, 7:]
        return (pixels - centre) * 2 / side, points_m[..., 2]


class DistributionAlignment:
    """Guidance (`hmr.policy.policy.Guidance`) of a batch of images towards draws from their detections' distributions.

    strength: share of the step to the minimum along the gradient; 0 changes nothing.
    steps: number of the solver's steps; the first half of them, rounded up, is aligned.
    """

    def __init__(
        self,
        body: StandardisedBody,
        observed: PointEstimates,
        prior_std: Float[Tensor, " dim"],
        targets: tuple[Float[Tensor, "batch group 41 2"], Float[Tensor, "batch group 41"]],
        *,
        strength: float,
        steps: int,
    ) -> None:
        self.body, self.strength, self.steps = body, strength, steps
        self.variance = prior_std.square()
        self.position, self.depth_m = targets
        seen = observed.visibility.sqrt()[:, None]
        self.weight = (seen * observed.weight[:, None] / FLOOR)[..., None]
        self.depth_weight = seen * observed.depth_weight[:, None] / DEPTH_FLOOR_M
        counted = 2 * (observed.weight > 0) + 1 * (observed.depth_weight > 0)
        self.coordinates = (observed.visibility * counted).sum(dim=-1)[:, None].clamp_min(1e-6)

    def guide(
        self, x0: Float[Tensor, "batch group dim"], steps_left: int
    ) -> Float[Tensor, "batch group dim"]:
        """x_0 after one step towards the targets, in the first half of the steps."""
        if steps_left < self.steps // 2:
            return x0
        with torch.enable_grad():
            point = x0.detach().requires_grad_(True)
            residual = self._residual(point)
            (uphill,) = torch.autograd.grad(residual.square().sum() / 2, point)
        direction = -self.variance * uphill
        change = (self._residual(x0 + PROBE * direction) - residual.detach()) / PROBE
        along = -(uphill * direction).sum(dim=-1)  # = |direction / r|^2 too
        step = along / (change.square().sum(dim=-1) + along).clamp_min(1e-12)
        active = residual.detach().square().sum(dim=-1) / self.coordinates > MAX_GAP
        moved = x0 + self.strength * (step * active)[..., None] * direction
        # f is not linear, so that a step can lead farther away
        return torch.where((self.gap(moved) < self.gap(x0))[..., None], moved, x0)

    def gap(self, x0: Float[Tensor, "batch group dim"]) -> Float[Tensor, "batch group"]:
        """D: squared deviations per observed coordinate between each hypothesis and its target."""
        return self._residual(x0).square().sum(dim=-1) / self.coordinates

    def _residual(self, x0: Float[Tensor, "batch group dim"]) -> Float[Tensor, "batch group coordinates"]:
        position, depth_m = self.body.observe(x0)
        across = (self.weight * (self.position - position)).flatten(-2)
        return torch.cat([across, self.depth_weight * (self.depth_m - depth_m)], dim=-1)
