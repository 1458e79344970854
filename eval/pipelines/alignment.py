"""Aligns a policy to a critic's scores on images without labels; `meshcritic align` runs `run_alignment`.

| critic            | scores                                                                                       |
|-------------------|----------------------------------------------------------------------------------------------|
| a backend's spec  | the explored agent's (`embedded`, `openai:NAME@URL`, ...)                                    |
| shuffled:CRITIC   | those of CRITIC, permuted within each group (a control); `shuffled` alone: the embedded agent's |
| hmr-scorer        | those of a small learned scorer, ADHMR's critic (`rl.scorers.hmr_scorer`)                    |
| noisy-truth:SRCC  | the truth with as much noise as gives this SRCC; it reads the truth, which is recorded       |
| noisy-reading:SRCC[:shared] | minus the distance from the true pose with an error (`rl.scorers.noisy_reading`)   |
| reward:FILE:NAME  | those of a function or `Scorer` of the user (`rl.scorers.rewards.load_reward`)               |

The base policy decides on the splits (`hmr.synthetic.splits.GAPS`): `wild-train` for the shipped one, `street-align`
for `studio`. A critic that learns does so on the calibration split of the base's own domain alone, as in
`eval.critics.comparison`. If the training arguments set `replay_weight`, labelled scenes of that domain are replayed
beside the images (`rl.replay`). The output folder holds the scenes, the memory, every round (`rl.rounds`), curves.svg
and alignment.json, which records all inputs. The training arguments and the critic (name, settings, file, memory) are
checked before anything is drawn, explored or scored.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.vlm import VLMBackend, backend_names
from agent.vlm.options import BackendOptions, open_backend
from agent.vlm.wrappers.dry_run import DryRun
from common.files import PathLike, write_text
from common.progress import Stage
from common.redaction import redact
from common.versions import versions
from common.yaml_fields import read_fields
from eval.critics.ablations import AGENT, AgentBench
from eval.critics.baselines import fitted_hmr_scorer
from eval.critics.evidence_cache import EvidenceCache
from eval.critics.exploration import DETECTOR, detector_name, load_other_detector
from eval.critics.groups import LabelledGroup, draw_groups
from eval.pipelines.replayed_scenes import with_replay, with_replay_file
from eval.report.curves import write_alignment_curves
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import Gap, draw_split, gap_of
from hmr.synthetic.store import read_samples, read_truth, set_digest
from hmr.types import Detector, Sample, Scorer
from memory.embed import load_text_embedder
from memory.folder import store_path
from rl.config import GroupPreferenceConfig
from rl.monitoring.training_log import read_logs
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.rounds import Rounds, align_in_rounds, checked_alignment
from rl.scorers.noisy_reading import NOISY_READING, Reading, fitted_reading
from rl.scorers.rewards import load_reward
from rl.scorers.truth import NoisyTruthScorer, noise_share

__all__ = [
    "AlignSettings", "check_settings", "count_calls", "open_bench", "open_scorer", "read_alignment", "run_alignment",
]  # fmt: skip

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
    motion: Path | None = None
    memory: Path | None = None  # an explored one; None: explore first
    replayed: int = 512  # labelled scenes, if the training arguments set replay_weight
    detector: str = EmbeddedDetector.name  # of the critic
    max_calls: int | None = None  # of the backend, in one run
    reply_cache: Path | None = None
    backend: Sequence[str] = ()  # settings of the backend, each FIELD=VALUE
    critique: Mapping[str, Any] = field(default_factory=dict)  # fields of CritiqueSettings

    def __post_init__(self) -> None:
        gap_of(self.base)
        if self.uses_backend:
            return
        if self.detector != EmbeddedDetector.name:
            raise ValueError(f"--detector applies to critics that use a detector; {self.critic} does not")
        if self.backend or self.critique:
            raise ValueError(f"--set applies to critics that use a backend; {self.critic} does not")

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
        """Raises ValueError for an unknown critic and an impossible SRCC, FileNotFoundError for a missing memory."""
        if self.base_critic.startswith(NOISY_READING):
            Reading.parse(self.base_critic)
        elif self.uses_truth:
            self.srcc()
        names = backend_names()
        if self.uses_backend and self.base_critic.partition(":")[0] not in names:
            raise ValueError(f"no critic {self.critic!r}; there are: {', '.join([*names, *KINDS])}")
        if self.uses_backend and self.memory is not None and not store_path(self.memory).is_file():
            raise FileNotFoundError(f"{self.memory}: there is no memory here")

    def to_json(self) -> dict[str, Any]:
        names = ("motion", "memory", "reply_cache")
        paths = {name: path and path.name for name in names for path in [getattr(self, name)]}
        backend = [redact(pair) for pair in self.backend]  # a plug-in's setting may be a secret
        return {**dataclasses.asdict(self), **paths, "backend": backend, "uses_truth": self.uses_truth}


def read_alignment(path: PathLike) -> dict[str, Any]:
    """Fields of `GroupPreferenceConfig` from YAML. Raises what `common.yaml_fields.read_fields` raises."""
    allowed = {item.name for item in dataclasses.fields(GroupPreferenceConfig)}
    return read_fields(Path(path), allowed, "the fields of rl/config.py and of TrainingArguments")


def check_settings(policy: DiffusionPolicy, settings: AlignSettings, out: Path) -> None:
    """Raises ValueError for an unknown critic and invalid training arguments, FileNotFoundError for a missing file."""
    settings.check_critic()
    checked_alignment(policy, with_replay_file(policy, settings, out), settings.rounds, settings.images)


def run_alignment(
    policy: DiffusionPolicy,
    settings: AlignSettings,
    out: PathLike,
    stage: Stage,
    workers: int = 1,
    people: Sequence[Sample] | None = None,
) -> DiffusionPolicy:
    """The aligned policy, also saved in `out`. A second run computes only what is missing.

    people: aligned on instead of scenes, with the policy's detector for the critic too.

    Raises ValueError, before anything is drawn, for an unknown critic and invalid training arguments; later if the
    backend stops answering before all groups are scored, which the same call resumes.
    """
    out = Path(out)
    check_settings(policy, settings, out)
    body = load_body()
    detector = _critics_detector(policy, settings, people)
    rescore = shuffle_scores if settings.shuffled else None
    with ExitStack() as stack:
        backend = None
        if settings.uses_backend:
            backend = stack.enter_context(open_backend(settings.backend_options())).backend
        opened: dict[str, Any] = {"out": out, "stage": stage, "stack": stack}
        opened |= {"backend": backend, "detector": detector}
        critic = partial(open_scorer, policy, body, settings, **opened)
        early = critic(scenes=None) if settings.needs_no_scenes else None  # so that its errors come first
        scenes, samples = _samples_to_align(settings, out, stage, workers, people)
        scorer = critic(scenes=scenes) if early is None else early
        alignment = with_replay(policy, settings, out, stage, workers)
        rounds = replace(settings.rounds, in_flight=_in_flight(scorer))
        aligned = align_in_rounds(policy, scorer, samples, out, alignment, rounds, stage, rescore)
    record = {
        **settings.to_json(),
        DETECTOR: detector_name(detector),
        "uses_truth": settings.uses_truth or bool(getattr(scorer, "uses_truth", False)),
        "scorer": scorer.name,
        "base_policy": policy.digest(),
        "policy": aligned.digest(),
        "scenes": scenes and set_digest(scenes),
        **_counted(out, settings.rounds.count),
        "versions": versions(),
    }
    write_text(out / "alignment.json", json.dumps(record, indent=1))
    # the folder may hold more logs, of an earlier run with more rounds
    logs = dict(itertools.islice(read_logs(out).items(), settings.rounds.count))
    write_alignment_curves(out / "curves.svg", logs)
    return aligned


def count_calls(
    policy: DiffusionPolicy,
    settings: AlignSettings,
    stage: Stage,
    workers: int = 1,
    people: Sequence[Sample] | None = None,
) -> DryRun:
    """Count the calls that a run in an empty folder makes to its backend, exploration included. No backend is called
    and no file is kept.

    The number of rounds does not change the count. Raises ValueError for an unknown critic or one without a backend,
    FileNotFoundError for a missing memory.
    """
    settings.check_critic()
    if not settings.uses_backend:
        raise ValueError(f"--dry-run counts the calls to a backend; {settings.critic} makes none")
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opened = stack.enter_context(open_backend(settings.backend_options(dry_run=True)))
        body = load_body()
        detector = _critics_detector(policy, settings, people)
        scenes, samples = _samples_to_align(settings, out, stage, workers, people)
        scorer = open_scorer(
            policy, body, settings, scenes=scenes, out=out, stage=stage, stack=stack,
            backend=opened.backend, detector=detector,
        )  # fmt: skip
        stage(f"counting the calls for {settings.images} groups", settings.images)
        size, seed = settings.rounds.group_size, settings.rounds.seed
        build_preferences(policy, scorer, samples, out / "groups", group_size=size, seed=seed)
        assert opened.dry_run is not None
        return opened.dry_run


def _counted(out: Path, rounds: int) -> dict[str, int]:
    """The number of groups in all rounds, and of those without any score, which training ignores."""
    scores = [
        group for n in range(rounds) for group in load_preferences(out / f"round-{n}" / "groups")["scores"]
    ]
    return {"groups": len(scores), "unscored_groups": sum(set(group) == {None} for group in scores)}


def _critics_detector(
    policy: DiffusionPolicy, settings: AlignSettings, people: Sequence[Sample] | None
) -> Detector | None:
    """None is the embedded one of the policy. The detector that found the people has read them already."""
    return load_other_detector(settings.detector, policy) if people is None else policy.detector


def _samples_to_align(
    settings: AlignSettings, out: Path, stage: Stage, workers: int, people: Sequence[Sample] | None
) -> tuple[Path | None, Sequence[Sample]]:
    """The folder of the drawn scenes and its samples; without a folder the given people."""
    if people is not None:
        return None, people
    scenes = _scenes_to_align(settings, out, stage, workers)
    return scenes, list(read_samples(scenes))


def _scenes_to_align(settings: AlignSettings, out: Path, stage: Stage, workers: int) -> Path:
    split = settings.gap.align
    title = f"drawing {settings.images} scenes of {split}"
    return draw_split(
        split,
        out / "scenes",
        settings.images,
        motion=settings.motion,
        uses_truth=settings.uses_truth,
        workers=workers,
        progress=stage(title, settings.images),
    )


def _in_flight(scorer: Scorer) -> int:
    """Number of groups to score at once: the concurrency of an agent's backend."""
    return scorer.backend.capabilities.concurrency if isinstance(scorer, CritiqueAgent) else 1


def open_scorer(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    *,
    scenes: Path | None,
    out: Path,
    stage: Stage,
    stack: ExitStack,
    backend: VLMBackend | None = None,
    detector: Detector | None = None,
) -> Scorer:
    """The critic of the settings (the base critic of a shuffled one), valid until `stack` is closed.

    scenes: the scored set, from which a noisy truth reads the truth; other critics do not open it.
    out: folder of what a critic learned.
    backend, detector: used instead of those that the settings name; the detector None is the embedded one.

    Raises ValueError for an unknown critic, and what its parts raise.
    """
    if settings.uses_truth:
        assert scenes is not None, "a noisy truth needs the scenes"
        truths = read_truth(scenes)
        if settings.base_critic.startswith(NOISY_READING):
            samples, seed = read_samples(scenes), settings.rounds.seed
            return fitted_reading(policy, body, samples, truths.__getitem__, settings.base_critic, seed)
        return NoisyTruthScorer(body, truths.__getitem__, settings.srcc(), settings.rounds.seed)
    if settings.base_critic.startswith(REWARD):
        return load_reward(settings.base_critic.removeprefix(REWARD), body)
    bench = open_bench(
        policy, body, settings, out=out, stage=stage, stack=stack, backend=backend, detector=detector
    )
    if settings.base_critic == HMR_SCORER:
        return fitted_hmr_scorer(bench)
    return stack.enter_context(bench.agent(AGENT))


def open_bench(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    *,
    out: Path,
    stage: Stage,
    stack: ExitStack,
    backend: VLMBackend | None = None,
    detector: Detector | None = None,
    tests: Sequence[LabelledGroup] = (),
) -> AgentBench:
    """Builder of critics that learn, valid until `stack` is closed; arguments as in `open_scorer`.

    tests: groups to score, whose truth the ground-truth detector needs.
    """
    if backend is None:
        backend = stack.enter_context(open_backend(settings.backend_options())).backend
    calibration, fingerprint = _calibration_groups(policy, body, settings, out, stage)
    return AgentBench(
        policy=policy,
        body=body,
        backend=backend,
        embedder=load_text_embedder(),
        evidence=stack.enter_context(EvidenceCache(out / "evidence.jsonl")),
        calibration=calibration,
        tests=tests,
        out=out,
        stage=stage,
        fingerprint=fingerprint,
        memory=settings.memory,
        seed=settings.rounds.seed,
        detector=detector,
        critique_settings=settings.critique,
    )


def _calibration_groups(
    policy: DiffusionPolicy, body: Body, settings: AlignSettings, out: Path, stage: Stage
) -> tuple[list[LabelledGroup], dict[str, Any]]:
    """The groups of the calibration split on which a critic learns, and their fingerprint; none for an explored
    memory."""
    if settings.memory is not None and settings.base_critic != HMR_SCORER:
        return [], {}
    split = settings.gap.calibration
    tick = stage(f"drawing {settings.calibration} scenes of {split}", settings.calibration)
    scenes = draw_split(split, out / "scenes", settings.calibration, progress=tick)
    size, seed = settings.rounds.group_size, settings.rounds.seed
    tick = stage(f"groups of {size} on {split}", settings.calibration)
    groups = draw_groups(policy, body, scenes, size=size, seed=seed, cache=out / "groups", progress=tick)
    return groups, {"policy": policy.digest(), "scenes": set_digest(scenes), "samples": size}
