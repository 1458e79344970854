"""Fits HMR-Scorer on labelled scenes: the same ones, in the same parts, that teach the critique agent.

    L = mean over e, and over pairs with e_i < e_j, of log(1 + exp(s_j - s_i))     (RankNet, Burges et al., ICML 2005)

for e in {PVE, MPJPE, PA-MPJPE} or a choice of them; ADHMR's sigma is in the scale of s. Pairs are of one image and of
one kind: the truth with noise (15 an image, as ADHMR's), or samples of the policy itself, which is what the scorer will
be asked about. Every image is seen through several boxes, moved as a detector would: another crop, other samples.

The step with the best mean Spearman's rho on the policy's groups of the held-out images is kept; they are the scenes
that admit the agent's rules. Left out: recoloured crops, which the agent does not see either.
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
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.metrics.errors import group_errors_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Box, Hypotheses, Labelled, Sample
from rl.scorers.hmr_scorer import HMRScorer, Look, ScorerShape, Signs, image_channels, look, signs_of

__all__ = ["ERRORS", "ScorerTraining", "rank_net_loss", "train_hmr_scorer"]

ERRORS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ScorerTraining:
    """What a fit can be told."""

    seed: int = 0
    errors: tuple[str, ...] = ERRORS
    noisy: int = 15  # bodies an image: truth + noise
    noise: tuple[float, float] = (0.1, 1.5)  # its scale, in deviations of the regression head
    sampled: int = 20  # bodies an image: the policy's
    views: int = 3  # boxes an image, the first as given
    box_shift: float = 0.05  # standard deviation, of the side
    steps: int = 1500
    batch: int = 16  # views a step
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    check_every: int = 50
    patience: int = 10  # checks without a better one

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.errors) - set(ERRORS)) or (not self.errors and ["nothing"]):
            raise ValueError(f"errors to rank by are {', '.join(ERRORS)}, not {', '.join(unknown)}")
        if min(self.noisy, self.sampled) < 2 or self.views < 1:
            raise ValueError(
                "a scorer learns from at least 2 noisy bodies, 2 samples and 1 view an image, not "
                f"{self.noisy}, {self.sampled} and {self.views}"
            )


def rank_net_loss(
    scores: Float[Tensor, "groups group"], errors: Float[Tensor, "kinds groups group"]
) -> Float[Tensor, ""]:
    """L of the module's docstring; groups are rows, and no pair crosses them."""
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
    """The scorer that ranks the policy's groups of `held_out` best; `progress` is told of each image described.

    Raises ValueError without cases or without held-out ones.
    """
    if not cases or not held_out:
        raise ValueError(f"HMR-Scorer needs cases and held-out cases, not {len(cases)} and {len(held_out)}")
    views: list[_View] = []
    for done, case in enumerate((*cases, *held_out), start=1):
        shown = _Shown(policy, body, training, case)
        views += [shown.view(number) for number in range(training.views if done <= len(cases) else 1)]
        progress(done)
    taught, tests = views[: -len(held_out)], views[-len(held_out) :]
    sampled, noisy = (_stack([getattr(view, kind) for view in taught]) for kind in ("sampled", "noisy"))
    scorer = _untrained(policy, body, look(policy, body, cases[0].sample), sampled, training.seed)
    for number, member in enumerate(scorer.network.members):
        generator = derive_generator(training.seed, "hmr-scorer", number)
        _fit(
            member,
            [_standardised(scorer, group) for group in (sampled, noisy)],
            _standardised(scorer, _stack([view.sampled for view in tests])),
            training,
            generator,
        )
    return scorer


@dataclass(frozen=True)
class _Ranked:
    """Groups as rows: what is read of their bodies, and the errors in the order of `ScorerTraining.errors`."""

    signs: Signs  # with a dimension of groups before that of the bodies, once stacked
    errors: Float[Tensor, "kinds *groups group"]


@dataclass(frozen=True)
class _View:
    """One image through one box."""

    noisy: _Ranked
    sampled: _Ranked


class _Shown:
    """What the scorer is shown of one case."""

    def __init__(self, policy: DiffusionPolicy, body: Body, training: ScorerTraining, case: Labelled) -> None:
        self.policy, self.body, self.training, self.case = policy, body, training, case

    def view(self, number: int) -> _View:
        generator = derive_generator(self.training.seed, "hmr-scorer", self.case.sample.id, number)
        sample = self.case.sample
        if number:
            sample = dataclasses.replace(sample, box=self._moved(sample.box, generator))
        seen_by = look(self.policy, self.body, sample)
        sampled = self.policy.sample(seen_by.features, self.training.sampled, generator)[0]
        noisy = self._truth_with_noise(seen_by, sample, generator)
        return _View(self._ranked(seen_by, noisy), self._ranked(seen_by, sampled))

    def _moved(self, box: Box, generator: torch.Generator) -> Box:
        """Shifted and resized, never by more than half its side."""
        drawn = self.training.box_shift * torch.randn(3, generator=generator)
        shift_x, shift_y, grow = (box.side * drawn.clamp(-0.5, 0.5)).tolist()
        resized = box.square(1 + grow / box.side)
        return Box(resized.x0 + shift_x, resized.y0 + shift_y, resized.x1 + shift_x, resized.y1 + shift_y)

    def _truth_with_noise(self, seen_by: Look, sample: Sample, generator: torch.Generator) -> Hypotheses:
        """Bodies about the truth, from almost it to farther off than the regression head is."""
        truth = BodyParams.stack([BodyParams.stack([self.case.truth.params])])
        x0 = self.policy.to_x0(truth, seen_by.features)
        low, high = self.training.noise
        scale = low + (high - low) * torch.rand(1, self.training.noisy, 1, generator=generator)
        noise = torch.randn(1, self.training.noisy, x0.shape[-1], generator=generator)
        params = self.policy.from_x0(x0 + scale * self.policy.guess_std * noise, seen_by.features)
        return Hypotheses(params[0], sample.camera)

    def _ranked(self, seen_by: Look, group: Hypotheses) -> _Ranked:
        found = group_errors_mm(self.body, group.params, self.case.truth)
        signs = signs_of(self.policy, self.body, seen_by, group)
        return _Ranked(signs, torch.stack([found[name] for name in self.training.errors]))


def _stack(groups: Sequence[_Ranked]) -> _Ranked:
    return _Ranked(
        Signs(
            torch.stack([group.signs.joints for group in groups]),
            torch.stack([group.signs.whole for group in groups]),
        ),
        torch.stack([group.errors for group in groups], dim=1),
    )


def _standardised(scorer: HMRScorer, groups: _Ranked) -> _Ranked:
    return _Ranked(scorer.network.standardise(groups.signs), groups.errors)


def _untrained(policy: DiffusionPolicy, body: Body, seen_by: Look, sampled: _Ranked, seed: int) -> HMRScorer:
    """Sizes and statistics are the data's."""
    joints, whole = sampled.signs.joints, sampled.signs.whole
    shape = ScorerShape(image_channels(seen_by), joints.shape[-1], whole.shape[-1])
    scorer = HMRScorer(policy, body, shape, seed)
    scorer.network.fit_scale(joints.flatten(0, 1), whole.flatten(0, 1))
    return scorer


def _fit(
    member: nn.Module,
    kinds: Sequence[_Ranked],
    tests: _Ranked,
    training: ScorerTraining,
    generator: torch.Generator,
) -> None:
    """Leaves the member at the step that ranked `tests` best."""
    optimizer = torch.optim.AdamW(
        member.parameters(), training.learning_rate, weight_decay=training.weight_decay
    )
    best = _Best(member)
    with torch.random.fork_rng():  # dropout draws from the global stream
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for step in range(1, training.steps + 1):
            loss = torch.stack(
                [_batch_loss(member, kind, training.batch, generator) for kind in kinds]
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % training.check_every == 0:
                best.offer(_agreement(member, tests), member)
            if best.idle >= training.patience:
                break
    member.load_state_dict(best.state)
    member.eval()


class _Best:
    """The best step so far, and how many offers since were worse."""

    def __init__(self, member: nn.Module) -> None:
        self.state, self.srcc, self.idle = copy.deepcopy(member.state_dict()), -1.0, 0

    def offer(self, srcc: float, member: nn.Module) -> None:
        self.idle += 1
        if srcc > self.srcc:
            self.state, self.srcc, self.idle = copy.deepcopy(member.state_dict()), srcc, 0


def _batch_loss(
    member: nn.Module, groups: _Ranked, batch: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    rows = torch.randint(groups.errors.shape[1], (batch,), generator=generator)
    scores = member.train()(groups.signs.joints[rows], groups.signs.whole[rows])
    return rank_net_loss(scores, groups.errors[:, rows])


@torch.no_grad()
def _agreement(member: nn.Module, tests: _Ranked) -> float:
    """Mean Spearman's rho over groups and kinds of errors; a group without a ranking counts as 0."""
    scores = member.eval()(tests.signs.joints, tests.signs.whole).tolist()
    found = [
        group_spearman(given, true) or 0.0
        for kind in tests.errors.tolist()
        for given, true in zip(scores, kind, strict=True)
    ]
    return float(np.mean(found))
