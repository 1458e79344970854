"""A diffusion policy small enough to check by hand: p(x0 | c) = N(W c + b, s^2 I) with its exact denoiser.

For x_t = a x0 + sqrt(1 - a^2) eps and this Gaussian, E[x0 | x_t] = mu + a s^2 (x_t - a mu) / (a^2 s^2 + 1 -
a^2). So the reference needs no training, sampling is exact, and the expected reward has a closed form.
"""

import math

import torch
from torch import nn
from transformers import PretrainedConfig

from hmr.types import BodyParams, Camera, Hypotheses
from rl.preferences.tensors import GroupTensors
from rl.types import PreferenceGroup

DIM, CHANNELS, LENGTH = 2, 3, 100
TRUE_OFFSET = torch.tensor([0.4, -0.3])  # of the truth from the mean of the reference, for every c


class GaussianDenoiser(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.mean = nn.Linear(CHANNELS, DIM)
        self.log_std = nn.Parameter(torch.tensor([math.log(std)]))  # FSDP takes no scalars
        with torch.no_grad():
            self.mean.weight.copy_(torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]]))
            self.mean.bias.zero_()

    def forward(self, noisy, signal, condition):
        mean = self.mean(condition)[:, None, None]
        variance = (2 * self.log_std).exp()
        gain = signal * variance / (signal**2 * variance + 1 - signal**2)
        return mean + gain * (noisy - signal * mean)


class ToyPolicy(nn.Module):
    def __init__(self, std: float = 0.5) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_train_timesteps=LENGTH)
        self.encoder = nn.Linear(1, 1)  # must not change
        self.denoiser = GaussianDenoiser(std)

    def alpha_sigma(self, timesteps):
        signal = torch.cos((timesteps + 0.5) / LENGTH * math.pi / 2)[:, None, :, None]
        return signal, (1 - signal**2).sqrt()

    def noisy_and_target(self, x0, timesteps, noise):
        signal, spread = self.alpha_sigma(timesteps)
        clean, noise = x0[:, :, None], noise[:, None]
        return signal * clean + spread * noise, signal * noise - spread * clean

    def predict(self, noisy, timesteps, condition):
        signal, spread = self.alpha_sigma(timesteps)
        return (signal * noisy - self.denoiser(noisy, signal, condition)) / spread

    def forward(self, condition, x0, timesteps, noise):
        signal, _ = self.alpha_sigma(timesteps)
        noisy, _ = self.noisy_and_target(x0, timesteps, noise)
        predicted = self.denoiser(noisy, signal, condition)
        return (predicted - x0[:, :, None]).float().square().mean(dim=-1)

    @torch.no_grad()
    def expected_reward(self, condition: torch.Tensor) -> float:
        """-E |x0 - truth|^2 = -(|mean - truth|^2 + DIM s^2)."""
        reference = ToyPolicy().denoiser.mean
        bias = self.denoiser.mean(condition) - reference(condition) - TRUE_OFFSET
        return -(bias.square().sum(dim=-1).mean() + DIM * (2 * self.denoiser.log_std).exp()).item()


@torch.no_grad()
def toy_groups(images: int = 48, group: int = 8, shuffled: bool = False, seed: int = 0) -> GroupTensors:
    generator = torch.Generator().manual_seed(seed)
    condition = torch.randn(images, CHANNELS, generator=generator)
    mean = ToyPolicy().denoiser.mean(condition)
    x0 = mean[:, None] + 0.5 * torch.randn(images, group, DIM, generator=generator)
    scores = -(x0 - (mean + TRUE_OFFSET)[:, None]).square().sum(dim=-1)
    if shuffled:
        scores = torch.stack([row[torch.randperm(group, generator=generator)] for row in scores])
    return GroupTensors.from_scores(condition, x0, scores.tolist())


def scored_group(scores: list[float | None], **changes: object) -> PreferenceGroup:
    """A group for tests that read only the scores."""
    params = BodyParams(*(torch.zeros(len(scores), *shape) for shape in ((3,), (23, 3), (10,), (3,))))
    fields = {
        "sample_id": "a",
        "image_sha256": "0",
        "hypotheses": Hypotheses(params, Camera(100.0, 32.0, 32.0, 64, 64)),
        "condition": torch.zeros(CHANNELS),
        "geometry": torch.zeros(8),
        "scores": tuple(scores),
        "scorer": "fake",
        "uses_truth": False,
        "policy_digest": "0",
    }
    return PreferenceGroup(**{**fields, **changes})
