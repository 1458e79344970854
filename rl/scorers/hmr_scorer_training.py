"""Trains HMR-Scorer on labelled scenes, with the same split as the critique agent.

    L = mean over e, and over pairs with e_i < e_j, of log(1 + exp(s_j - s_i))     (RankNet, Burges et al., ICML 2005)

for e in {PVE, MPJPE, PA-MPJPE} or some of them; ADHMR's sigma is absorbed in the scale of s. Pairs are taken within one
image and one kind of hypothesis: the truth with noise (15 per image, as in ADHMR), or samples of the policy, which are
what the scorer is used on. Every image is used with several boxes, shifted as by a detector, which gives other crops
and other samples.

The step with the best mean Spearman's rho on the policy's groups of the held-out images is kept; those are the scenes
that decide which rules the agent accepts. Left out: colour augmentation, which the agent does not have either.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from agent.agreement import group_spearman
from common.finite import weights_after_step
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.metrics.errors import group_errors_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Box, Hypotheses, Labelled, Sample
from rl.scorers.hmr_scorer import (
    HMRScorer,
    HypothesisFeatures,
    ImageFeatures,
    ScorerShape,
    hypothesis_features,
    image_channels,
    image_features,
    reader_of,
)

__all__ = ["ERRORS", "ScorerTraining", "rank_net_loss", "train_hmr_scorer"]

ERRORS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ScorerTraining:
    """Settings of the training."""

    seed: int = 0
    errors: tuple[str, ...] = ERRORS
    noisy: int = 15  # bodies per image: truth + noise
    noise: tuple[float, float] = (
        0.1,
        1.5,
    )  # range of its scale, in standard deviations of the regression head
    sampled: int = 20  # bodies per image: samples of the policy
    views: int = 3  # boxes per image, the first as given
    box_shift: float = 0.05  # standard deviation, in sides of the box
    steps: int = 1500
    batch: int = 16  # views per step
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    check_every: int = 50
    patience: int = 10  # checks without an improvement before stopping

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.errors) - set(ERRORS)) or (not self.errors and ["nothing"]):
            raise ValueError(f"errors must be some of {', '.join(ERRORS)}, not {', '.join(unknown)}")
        if min(self.noisy, self.sampled) < 2 or self.views < 1:
            raise ValueError(
                "a scorer needs at least 2 noisy bodies, 2 samples and 1 view per image, not "
                f"{self.noisy}, {self.sampled} and {self.views}"
            )


def rank_net_loss(
    scores: Float[Tensor, "groups group"], errors: Float[Tensor, "kinds groups group"]
) -> Float[Tensor, ""]:
    """L of the module's docstring. Groups are rows; pairs are taken within a row."""
    better = errors[..., :, None] < errors[..., None, :]
    margin = scores[:, :, None] - scores[:, None, :]
    return F.softplus(-margin).expand_as(better)[better].mean()


def train_hmr_scorer(
    policy: DiffusionPolicy,
    body: Body,
    cases: Sequence[Labelled],
    held_out: Sequence[Labelled],
    training: ScorerTraining = ScorerTraining(),
    progress: Progress = lambda done: None,
) -> HMRScorer:
    """Train on `cases` and keep the step that ranks the policy's groups of `held_out` best.

    `progress` receives the number of processed images. Raises ValueError if `cases` or `held_out` is empty.
    """
    if not cases or not held_out:
        raise ValueError(f"HMR-Scorer needs cases and held-out cases, not {len(cases)} and {len(held_out)}")
    views: list[_View] = []
    for done, case in enumerate((*cases, *held_out), start=1):
        case_views = _TrainingViews(policy, body, training, case)
        views += [case_views.view(number) for number in range(training.views if done <= len(cases) else 1)]
        progress(done)
    training_views, held_out_groups = views[: -len(held_out)], views[-len(held_out) :]
    sampled, noisy = (
        _stack([getattr(view, kind) for view in training_views]) for kind in ("sampled", "noisy")
    )
    scorer = _initial_scorer(
        policy, body, image_features(reader_of(policy), body, cases[0].sample), sampled, training.seed
    )
    for number, member in enumerate(scorer.network.members):
        generator = derive_generator(training.seed, "hmr-scorer", number)
        _fit(
            member,
            [_standardised(scorer, group) for group in (sampled, noisy)],
            _standardised(scorer, _stack([view.sampled for view in held_out_groups])),
            training,
            generator,
        )
    return scorer


@dataclass(frozen=True)
class _RankedGroups:
    """Features of groups of bodies, and their errors in the order of `ScorerTraining.errors`."""

    features: HypothesisFeatures  # once stacked, the first dimension is that of the groups
    errors: Float[Tensor, "kinds *groups group"]


@dataclass(frozen=True)
class _View:
    """One image with one box."""

    noisy: _RankedGroups
    sampled: _RankedGroups


class _TrainingViews:
    """Makes the training views of one case."""

    def __init__(self, policy: DiffusionPolicy, body: Body, training: ScorerTraining, case: Labelled) -> None:
        self.policy, self.reader = policy, reader_of(policy)
        self.body, self.training, self.case = body, training, case

    def view(self, number: int) -> _View:
        generator = derive_generator(self.training.seed, "hmr-scorer", self.case.sample.id, number)
        sample = self.case.sample
        if number:
            sample = dataclasses.replace(sample, box=self._jitter(sample.box, generator))
        image = image_features(self.reader, self.body, sample)
        features = self.policy.encode([sample])  # of its own detector, as the groups that are scored later
        sampled = self.policy.sample(features, self.training.sampled, generator)[0]
        noisy = self._noisy_truth(image, sample, generator)
        return _View(self._rank(image, noisy), self._rank(image, sampled))

    def _jitter(self, box: Box, generator: torch.Generator) -> Box:
        """Shift and resize the box, by at most half its side."""
        drawn = self.training.box_shift * torch.randn(3, generator=generator)
        shift_x, shift_y, grow = (box.side * drawn.clamp(-0.5, 0.5)).tolist()
        resized = box.square(1 + grow / box.side)
        return Box(resized.x0 + shift_x, resized.y0 + shift_y, resized.x1 + shift_x, resized.y1 + shift_y)

    def _noisy_truth(self, image: ImageFeatures, sample: Sample, generator: torch.Generator) -> Hypotheses:
        """Bodies around the truth, with noise from well below to above the error of the regression head."""
        truth = BodyParams.stack([BodyParams.stack([self.case.truth.params])])
        x0 = self.reader.to_x0(truth, image.features)
        low, high = self.training.noise
        scale = low + (high - low) * torch.rand(1, self.training.noisy, 1, generator=generator)
        noise = torch.randn(1, self.training.noisy, x0.shape[-1], generator=generator)
        params = self.reader.from_x0(x0 + scale * self.reader.initial_std * noise, image.features)
        return Hypotheses(params[0], sample.camera)

    def _rank(self, image: ImageFeatures, group: Hypotheses) -> _RankedGroups:
        errors = group_errors_mm(self.body, group.params, self.case.truth)
        features = hypothesis_features(self.reader, self.body, image, group)
        return _RankedGroups(features, torch.stack([errors[name] for name in self.training.errors]))


def _stack(groups: Sequence[_RankedGroups]) -> _RankedGroups:
    return _RankedGroups(
        HypothesisFeatures(
            torch.stack([group.features.joints for group in groups]),
            torch.stack([group.features.whole for group in groups]),
        ),
        torch.stack([group.errors for group in groups], dim=1),
    )


def _standardised(scorer: HMRScorer, groups: _RankedGroups) -> _RankedGroups:
    return _RankedGroups(scorer.network.standardise(groups.features), groups.errors)


def _initial_scorer(
    policy: DiffusionPolicy, body: Body, image: ImageFeatures, sampled: _RankedGroups, seed: int
) -> HMRScorer:
    """A scorer with the sizes and the statistics of the data."""
    joints, whole = sampled.features.joints, sampled.features.whole
    shape = ScorerShape(image_channels(image), joints.shape[-1], whole.shape[-1])
    scorer = HMRScorer(policy, body, shape, seed)
    scorer.network.fit_scale(joints.flatten(0, 1), whole.flatten(0, 1))
    return scorer


def _fit(
    member: nn.Module,
    kinds: Sequence[_RankedGroups],
    held_out_groups: _RankedGroups,
    training: ScorerTraining,
    generator: torch.Generator,
) -> None:
    """Trains a member and restores the step that ranked `held_out_groups` best."""
    optimizer = torch.optim.AdamW(
        member.parameters(), training.learning_rate, weight_decay=training.weight_decay
    )
    best = _Best(member)
    with torch.random.fork_rng(devices=[]):  # dropout uses the global generator
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for step in range(1, training.steps + 1):
            loss = torch.stack(
                [_batch_loss(member, kind, training.batch, generator) for kind in kinds]
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            weights_after_step(member.named_parameters(), step, training.learning_rate)
            if step % training.check_every == 0:
                best.update(_mean_srcc(member, held_out_groups), member)
            if best.checks_since >= training.patience:
                break
    member.load_state_dict(best.state)
    member.eval()


class _Best:
    """The best weights so far, and the number of checks since."""

    def __init__(self, member: nn.Module) -> None:
        self.state, self.srcc, self.checks_since = copy.deepcopy(member.state_dict()), -1.0, 0

    def update(self, srcc: float, member: nn.Module) -> None:
        self.checks_since += 1
        if srcc > self.srcc:
            self.state, self.srcc, self.checks_since = copy.deepcopy(member.state_dict()), srcc, 0


def _batch_loss(
    member: nn.Module, groups: _RankedGroups, batch: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    rows = torch.randint(groups.errors.shape[1], (batch,), generator=generator)
    scores = member.train()(groups.features.joints[rows], groups.features.whole[rows])
    return rank_net_loss(scores, groups.errors[:, rows])


@torch.no_grad()
def _mean_srcc(member: nn.Module, held_out_groups: _RankedGroups) -> float:
    """Mean Spearman's rho over groups and kinds of errors; a group without a ranking counts as 0."""
    scores = member.eval()(held_out_groups.features.joints, held_out_groups.features.whole).tolist()
    values = [
        group_spearman(predicted, true) or 0.0
        for kind in held_out_groups.errors.tolist()
        for predicted, true in zip(scores, kind, strict=True)
    ]
    return float(np.mean(values))
