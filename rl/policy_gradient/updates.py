"""One update of the policy gradient: PPO's clipped objective on the states of sampled chains.

    r_t  = pi_theta(x_t' | x_t) / pi_old(x_t' | x_t)
    loss = mean over scored states of  - min(r_t A, clip(r_t, 1 - e, 1 + e) A) + w KL(pi_theta || pi_ref)

A is the advantage of the chain's hypothesis within its group (`rl.advantages`), the same at all its states. pi_old
sampled the chains; pi_ref is the policy before the first update. The method is DDPO with importance sampling (Black et
al., arXiv 2305.13301) with the advantages and the KL term of Flow-GRPO (arXiv 2505.05470). Both average the
log-likelihood over the entries of an image; here it is their sum, the exact likelihood.

States are divided into minibatches by image and step, with the whole group, because a group shares its condition. With
`train_estimate` the gradient also flows through the initial estimate in the condition, which the means depend on; in
all other losses here the estimate is detached. Left out: a value function, whose place the group's mean takes, and
several processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.finite import weights_after_step
from common.seeding import derive_generator
from hmr.policy.policy import DiffusionPolicy, Features
from rl.policy_gradient.chain import (
    Chains,
    chain_steps,
    gaussian_kl,
    log_likelihood,
    sample_chains,
    step_means,
)
from rl.policy_gradient.config import PolicyGradientConfig
from rl.trained_weights import TrainedWeights

__all__ = ["PolicyGradient"]

MAX_LOG_RATIO = 20.0  # the exponential of a larger one may overflow


@dataclass(frozen=True)
class _Decisions:
    """The decisions at some (image, step) pairs, each with the whole group."""

    features: Float[Tensor, "pairs features"]
    numbers: Int[Tensor, " pairs"]
    before: Float[Tensor, "pairs group dim"]
    after: Float[Tensor, "pairs group dim"]
    old: Float[Tensor, "pairs group"]  # log-likelihoods under the policy that sampled
    reference: Float[Tensor, "pairs group dim"]  # means
    advantages: Float[Tensor, "pairs group"]
    mask: Bool[Tensor, "pairs group"]


class PolicyGradient:
    """A copy of a policy in training: live weights, reference, average and the moments of AdamW."""

    def __init__(self, policy: DiffusionPolicy, settings: PolicyGradientConfig, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.policy = copy.deepcopy(policy).requires_grad_(False).eval()
        self.policy.denoiser.requires_grad_(True)
        self.policy.regressor.requires_grad_(settings.train_estimate)
        self.weights = TrainedWeights(self.policy, settings.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.weights.live.values(), lr=settings.learning_rate, weight_decay=0.0
        )
        self.steps = chain_steps(policy, settings.steps, settings.eta)

    def sample(self, features: Features, number: int) -> Chains:
        """The chains of update `number`."""
        generator = derive_generator(self.seed, "chains", number)
        return sample_chains(self.policy, self.steps, features, self.settings.group_size, generator)

    def update(
        self,
        features: Features,
        chains: Chains,
        advantages: Float[Tensor, "images group"],
        mask: Bool[Tensor, "images group"],
        number: int,
    ) -> dict[str, float]:
        """Take the optimizer steps of update `number`; returns the means of their metrics, none without a score."""
        advantages, mask = advantages.to(self.policy.device), mask.to(self.policy.device)
        reference = self._reference_means(features, chains)
        metrics: list[dict[str, Tensor]] = []
        for rows, numbers in self._minibatches(mask, number):
            decisions = _Decisions(
                features.condition[rows, : self.policy.feature_size],
                numbers,
                chains.states[rows, :, numbers],
                chains.states[rows, :, numbers + 1],
                chains.log_likelihoods[rows, :, numbers],
                reference[rows, :, numbers],
                advantages[rows],
                mask[rows],
            )
            loss, terms = self.loss(decisions)
            metrics.append({**terms, "loss": loss.detach(), "grad_norm": self._step(loss)})
        return _means(metrics)

    def loss(self, decisions: _Decisions) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss of a minibatch and its metrics."""
        mask, std = decisions.mask, self.steps.std[decisions.numbers][:, None]
        mean = step_means(
            self.policy,
            self.steps,
            decisions.before[:, :, None],
            decisions.numbers[:, None],
            self._condition(decisions.features),
        )[:, :, 0]
        kl = gaussian_kl(mean, decisions.reference, std)[mask].mean()
        log_ratio = (log_likelihood(decisions.after, mean, std) - decisions.old)[mask]
        ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        surrogate = clipped_surrogate(ratio, decisions.advantages[mask], self.settings.clip_epsilon)
        terms = _ratio_metrics(ratio.detach(), decisions.advantages[mask], self.settings.clip_epsilon)
        return self.settings.kl_weight * kl - surrogate.mean(), {"kl": kl.detach(), **terms}

    def finished(self) -> DiffusionPolicy:
        """The policy, frozen, with its averaged weights; call it after the last update."""
        self.weights.copy_average_to_policy()
        return self.policy.requires_grad_(False)

    # -- resuming --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All copies of the weights, and the moments of AdamW by the number of their parameter."""
        moments = self.optimizer.state_dict()["state"]
        named = ((f"{index}/{name}", value) for index, row in moments.items() for name, value in row.items())
        return {
            **{f"weights/{name}": tensor for name, tensor in self.weights.state_dict().items()},
            **{f"moments/{name}": value.cpu().contiguous() for name, value in named},
            "ema_steps": torch.tensor(self.weights.ema.optimization_step),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        weights, moments = _within(state, "weights"), _within(state, "moments")
        self.weights.load_state_dict(weights)
        self.weights.ema.optimization_step = int(state["ema_steps"])
        rows = {int(name.partition("/")[0]): {} for name in moments}
        for name, value in moments.items():
            index, _, kind = name.partition("/")
            rows[int(index)][kind] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": rows})

    # -- the parts of an update ------------------------------------------------------------------------------

    def _condition(self, features: Float[Tensor, "pairs features"]) -> Float[Tensor, "pairs channels"]:
        if not self.settings.train_estimate:
            return self.policy.condition(features)
        return torch.cat([features, self.policy.initial_estimate(features)], dim=-1)

    @torch.no_grad()
    def _reference_means(
        self, features: Features, chains: Chains
    ) -> Float[Tensor, "images group decisions dim"]:
        """Under the reference's weights, one step of the chain at a time, as sampling does."""
        means = []
        with self.weights.as_reference():
            condition = self.policy.refreshed(features).condition
            for number in range(len(self.steps) - 1):
                numbers = torch.full((len(features), 1), number, device=self.policy.device)
                states = chains.states[:, :, number : number + 1]
                means.append(step_means(self.policy, self.steps, states, numbers, condition))
        return torch.cat(means, dim=2)

    def _minibatches(
        self, mask: Bool[Tensor, "images group"], number: int
    ) -> Iterator[tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
        """Images and steps of each minibatch of each inner epoch; images without scores are left out."""
        rows = mask.any(dim=1).nonzero()[:, 0]
        decisions = len(self.steps) - 1
        for epoch in range(self.settings.inner_epochs if len(rows) else 0):
            generator = derive_generator(self.seed, "minibatches", number, epoch)
            order = torch.randperm(len(rows) * decisions, generator=generator).to(rows.device)
            for pairs in order.chunk(self.settings.minibatches):
                yield rows[pairs // decisions], pairs % decisions

    def _step(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights.live.values(), self.settings.max_grad_norm)
        self.optimizer.step()
        step = self.weights.ema.optimization_step + 1
        weights_after_step(self.weights.live.items(), step, self.settings.learning_rate)
        self.weights.step()
        return norm


def clipped_surrogate(
    ratio: Float[Tensor, " states"], advantages: Float[Tensor, " states"], epsilon: float
) -> Float[Tensor, " states"]:
    """PPO's objective (Schulman et al., arXiv 1707.06347), to be maximised."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def _ratio_metrics(
    ratio: Float[Tensor, " states"], advantages: Float[Tensor, " states"], epsilon: float
) -> dict[str, Float[Tensor, ""]]:
    high = ((advantages > 0) & (ratio > 1 + epsilon)).float().mean()
    low = ((advantages < 0) & (ratio < 1 - epsilon)).float().mean()
    return {
        "ratio/mean": ratio.mean(),
        "ratio/std": ratio.std(correction=0),
        "clip_ratio/high_mean": high,
        "clip_ratio/low_mean": low,
        "clip_ratio/region_mean": high + low,
    }


def _means(metrics: list[dict[str, Tensor]]) -> dict[str, float]:
    names = metrics[0] if metrics else ()
    return {name: torch.stack([row[name] for row in metrics]).mean().item() for name in names}


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in state.items()
        if name.startswith(f"{prefix}/")
    }
