"""Settings of `meshcritic align`, and the names of its critics.

| critic            | scores                                                                                       |
|-------------------|----------------------------------------------------------------------------------------------|
| a backend's spec  | the explored agent's (`embedded`, `openai:NAME@URL`, ...)                                    |
| shuffled:CRITIC   | those of CRITIC, permuted within each group (a control); `shuffled` alone: the embedded agent's |
| hmr-scorer        | those of a small learned scorer, ADHMR's critic (`rl.scorers.hmr_scorer`)                    |
| noisy-truth:SRCC  | the truth with as much noise as gives this SRCC; it reads the truth, which is recorded       |
| noisy-reading:SRCC[:shared] | minus the distance from the true pose with an error (`rl.scorers.noisy_reading`)   |
| reward:FILE:NAME  | those of a function or `Scorer` of the user (`rl.scorers.rewards.load_reward`)               |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from agent.vlm import backend_names
from agent.vlm.options import BackendOptions
from common.reading.yaml_fields import read_fields
from common.redaction import redact
from common.storage.files import PathLike
from eval.critics.ablations import AgentVariant
from hmr.body.model import body_fingerprint
from hmr.detection.embedded import EmbeddedDetector
from hmr.synthetic.splits import Gap, gap_of
from memory.folder import store_path
from rl.config import GroupPreferenceConfig
from rl.policy_gradient.config import PolicyGradientConfig
from rl.rounds import Rounds
from rl.scorers.noisy_reading import NOISY_READING, Reading
from rl.scorers.truth import noise_share

__all__ = [
    "HMR_SCORER",
    "KINDS",
    "POLICY_GRADIENT",
    "REWARD",
    "SEARCH",
    "AlignSettings",
    "read_alignment",
]

SEARCH, POLICY_GRADIENT = "search", "policy-gradient"  # methods that are no losses
NOISY_TRUTH = "noisy-truth:"
HMR_SCORER = "hmr-scorer"
REWARD = "reward:"
SHUFFLED = "shuffled"
KINDS = (
    f"{SHUFFLED}[:CRITIC]",
    HMR_SCORER,
    f"{NOISY_TRUTH}SRCC",
    f"{NOISY_READING}SRCC[:shared]",
    f"{REWARD}FILE.py:NAME",
)  # besides backends


@dataclass(frozen=True)
class AlignSettings:
    """Settings of `meshcritic align`. Raises ValueError for settings of a backend with a critic that uses none."""

    critic: str = "embedded"
    _: KW_ONLY
    base: str = "shipped"  # a key of `hmr.synthetic.splits.GAPS`, which decides on the splits
    images: int = 200  # without labels; each gets one critique, whatever the number of rounds
    calibration: int = 128  # labelled scenes on which a critic learns
    rounds: Rounds = field(default_factory=Rounds)
    alignment: dict[str, Any] = field(default_factory=dict)  # fields of rl.config.GroupPreferenceConfig
    policy_gradient: PolicyGradientConfig | None = None  # instead of `alignment` and `rounds`
    # training arguments of `rl.keypoint_fit`, which comes before the scores; None: it does not
    fit: dict[str, Any] | None = None
    motion: Path | None = None
    body: Path | None = None  # file of the body model of scenes and hypotheses; None: the embedded one
    memory: Path | None = None  # an explored one; None: explore first
    replayed: int = 512  # labelled scenes, if the training arguments set replay_weight
    detector: str = EmbeddedDetector.name  # of the critic
    max_calls: int | None = None  # of the backend, in one run
    reply_cache: Path | None = None
    backend: Sequence[str] = ()  # settings of the backend, each FIELD=VALUE
    critique: Mapping[str, Any] = field(default_factory=dict)  # fields of CritiqueSettings
    penalties: Mapping[str, float] = field(default_factory=dict)  # of the agent (`rl.scorers.penalties`)
    without_tools: tuple[str, ...] = ()  # that the agent lacks, in exploration and in scoring
    trace: bool = False  # whether the agent's steps are written

    def __post_init__(self) -> None:
        gap_of(self.base)
        if self.policy_gradient is not None:
            self._check_rounds(self.policy_gradient)
        if self.uses_backend:
            return
        if self.detector != EmbeddedDetector.name:
            raise ValueError(f"--detector applies to critics that use a detector; {self.critic} does not")
        if self.trace:
            raise ValueError(f"--trace applies to critics that use a backend; {self.critic} does not")
        if self.penalties:
            raise ValueError(f"--penalty applies to critics that use a backend; {self.critic} does not")
        if self.without_tools:
            raise ValueError(f"--without-tool applies to critics that use a backend; {self.critic} does not")
        if self.backend or self.critique:
            raise ValueError(f"--set applies to critics that use a backend; {self.critic} does not")

    def _check_rounds(self, gradient: PolicyGradientConfig) -> None:
        if self.rounds.count > 1:
            raise ValueError(
                f"the policy gradient samples anew in every update; it has no {self.rounds.count} rounds"
            )
        if self.rounds.group_size != Rounds.group_size:
            raise ValueError(
                f"the policy gradient has the group_size of its configuration, {gradient.group_size}; leave out "
                "--group-size"
            )

    @property
    def method(self) -> str:
        """By which the policy learns, as --method names it."""
        if self.policy_gradient is not None:
            return POLICY_GRADIENT
        loss = self.alignment.get("loss_type", GroupPreferenceConfig.loss_type)
        return SEARCH if self.rounds.search is not None else loss

    @property
    def gap(self) -> Gap:
        return gap_of(self.base)

    @property
    def shuffled(self) -> bool:
        return self.critic == SHUFFLED or self.critic.startswith(f"{SHUFFLED}:")

    @property
    def base_critic(self) -> str:
        """The critic whose scores are used, shuffled or not."""
        if not self.shuffled:
            return self.critic
        return self.critic.removeprefix(SHUFFLED).removeprefix(":") or "embedded"

    @property
    def uses_truth(self) -> bool:
        return self.base_critic.startswith((NOISY_TRUTH, NOISY_READING))

    @property
    def uses_backend(self) -> bool:
        return not (self.uses_truth or self.base_critic.startswith(REWARD) or self.base_critic == HMR_SCORER)

    @property
    def needs_no_scenes(self) -> bool:
        """Whether the critic can be built before any scene is drawn."""
        return self.base_critic.startswith(REWARD) or (self.uses_backend and self.memory is not None)

    @property
    def critiques(self) -> int:
        """The number of groups that are scored."""
        return self.policy_gradient.critiques if self.policy_gradient else self.images

    def backend_options(self, dry_run: bool = False) -> BackendOptions:
        spec = "embedded" if self.base_critic == HMR_SCORER else self.base_critic
        return BackendOptions(spec, self.backend, dry_run, self.max_calls, reply_cache=self.reply_cache)

    def srcc(self) -> float:
        """SRCC of a noisy truth. Raises ValueError if the critic's name has no valid number."""
        text = self.base_critic.removeprefix(NOISY_TRUTH)
        try:
            srcc = float(text)
        except ValueError:
            raise ValueError(f"noisy-truth takes a number, such as noisy-truth:0.6, not {text!r}") from None
        noise_share(srcc)
        return srcc

    def check_critic(self) -> None:
        """Raises ValueError for an unknown critic or tool and an impossible SRCC, FileNotFoundError for a missing
        memory."""
        if self.base_critic.startswith(NOISY_READING):
            Reading.parse(self.base_critic)
        elif self.uses_truth:
            self.srcc()
        names = backend_names()
        if self.uses_backend and self.base_critic.partition(":")[0] not in names:
            raise ValueError(f"no critic {self.critic!r}; there are: {', '.join([*names, *KINDS])}")
        AgentVariant(without_tools=frozenset(self.without_tools))
        if self.uses_backend and self.memory is not None and not store_path(self.memory).is_file():
            raise FileNotFoundError(f"{self.memory}: there is no memory here")

    def to_json(self) -> dict[str, Any]:
        names = ("motion", "memory", "reply_cache")
        paths = {name: path and path.name for name in names for path in [getattr(self, name)]}
        backend = [redact(pair) for pair in self.backend]  # a plug-in's setting may be a secret
        fields = dataclasses.asdict(self)
        del fields["body"]
        inputs = {**paths, "backend": backend, **body_fingerprint(self.body)}
        return {**fields, **inputs, "uses_truth": self.uses_truth}


def read_alignment(path: PathLike) -> dict[str, Any]:
    """Fields of `GroupPreferenceConfig` from YAML. Raises what `common.reading.yaml_fields.read_fields` raises."""
    allowed = {item.name for item in dataclasses.fields(GroupPreferenceConfig)}
    return read_fields(Path(path), allowed, "the fields of rl/config.py and of TrainingArguments")
