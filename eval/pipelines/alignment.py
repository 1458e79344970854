"""What `meshcritic align` runs: wild images without labels, a critic, and rounds of alignment.

| critic            | scores of a group                                                                             |
|-------------------|-----------------------------------------------------------------------------------------------|
| a backend's spec  | the explored agent's (`embedded`, `openai:NAME@URL`, ...)                                     |
| shuffled:CRITIC   | another of these critic's, each group's in random order: its control; `shuffled` alone is the |
|                   | embedded agent's                                                                              |
| hmr-scorer        | a small learned scorer's (`rl.scorers.hmr_scorer`), ADHMR's critic                                     |
| noisy-truth:SRCC  | the truth's, with noise until it ranks as well as SRCC says; opens the truth and is stamped   |
| reward:FILE:NAME  | those of a function or a `Scorer` of your own (`rl.scorers.rewards.load_reward`)                      |

A critic that learns does so on `lab-calibration` alone, as in `eval.critics.comparison`. Where training arguments give
`replay_weight`, scenes of `lab-train` are drawn with their truth and replayed beside the wild ones (`rl.replay`). The
folder keeps the scenes, the memory, every round (`rl.rounds`), curves.svg of how they went, and alignment.json, which
says what all of it was made from. What training is told is looked at before anything is drawn, explored or scored, and
so is the critic: its name, its settings, its file, its memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.tracing.redaction import told as printable
from agent.vlm import VLMBackend, backend_names
from agent.vlm.options import BackendOptions, opened_backend
from agent.vlm.wrappers.dry_run import DryRun
from common.progress import Stage
from common.yaml_fields import read_fields
from eval.critics.ablations import AGENT, AgentBench
from eval.critics.baselines import fitted_hmr_scorer
from eval.critics.evidence_cache import EvidenceCache
from eval.critics.exploration import detector_of, seen_by
from eval.critics.groups import LabelledGroup, draw_groups
from eval.pipelines.demo_outputs import versions
from eval.report.curves import write_alignment_curves
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, read_samples, read_truth, set_digest
from hmr.types import Detector, Scorer
from memory.embed import load_text_embedder
from memory.folder import store_path
from rl.config import GroupPreferenceConfig, training_fields
from rl.monitoring.training_log import read_logs
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.replay import replay_of
from rl.rounds import Rounds, align_in_rounds, checked_alignment
from rl.scorers.rewards import load_reward
from rl.scorers.truth import NoisyTruthScorer, noise_share

__all__ = [
    "AlignSettings", "count_calls", "open_bench", "open_scorer", "read_alignment", "run_alignment", "with_replay",
]  # fmt: skip

NOISY_TRUTH = "noisy-truth:"
HMR_SCORER = "hmr-scorer"
REWARD = "reward:"
SHUFFLED = "shuffled"
KINDS = (f"{SHUFFLED}[:CRITIC]", HMR_SCORER, f"{NOISY_TRUTH}SRCC", f"{REWARD}FILE.py:NAME")  # beside backends


@dataclass(frozen=True)
class AlignSettings:
    critic: str = "embedded"
    images: int = 200  # of wild-train; each costs one critique, whatever the number of rounds
    calibration: int = 128  # lab scenes that a critic learns from
    rounds: Rounds = field(default_factory=Rounds)
    alignment: dict[str, Any] = field(default_factory=dict)  # fields of rl.config.GroupPreferenceConfig
    motion: Path | None = None
    memory: Path | None = None  # an explored one; None: explore first
    replayed: int = 512  # scenes of lab-train, where training arguments ask for replay
    detector: str = EmbeddedDetector.name  # the critic's eyes
    max_calls: int | None = None  # of the backend, in one run; what is left waits for the next
    reply_cache: Path | None = None
    backend: Sequence[str] = ()  # field=value each, settings of the backend
    critique: Mapping[str, Any] = field(default_factory=dict)  # fields of CritiqueSettings, if not the usual

    def __post_init__(self) -> None:
        if self.asks_a_backend:
            return
        if self.detector != EmbeddedDetector.name:
            raise ValueError(f"--detector is for a critic that looks, and {self.critic} has no eyes")
        if self.backend or self.critique:
            raise ValueError(f"--set is for a critic that asks a backend, and {self.critic} asks none")

    @property
    def shuffled(self) -> bool:
        return self.critic == SHUFFLED or self.critic.startswith(f"{SHUFFLED}:")

    @property
    def judge(self) -> str:
        """Whose scores they are, in whatever order."""
        if not self.shuffled:
            return self.critic
        return self.critic.removeprefix(SHUFFLED).removeprefix(":") or "embedded"

    @property
    def uses_truth(self) -> bool:
        return self.judge.startswith(NOISY_TRUTH)

    @property
    def asks_a_backend(self) -> bool:
        return not (self.uses_truth or self.judge.startswith(REWARD) or self.judge == HMR_SCORER)

    @property
    def draws_no_scene(self) -> bool:
        """Whether the critic is there before any scene is."""
        return self.judge.startswith(REWARD) or (self.asks_a_backend and self.memory is not None)

    def backend_options(self, dry_run: bool = False) -> BackendOptions:
        spec = "embedded" if self.judge == HMR_SCORER else self.judge
        return BackendOptions(spec, self.backend, dry_run, self.max_calls, reply_cache=self.reply_cache)

    def srcc(self) -> float:
        """Of a noisy truth. Raises ValueError where the critic's name holds no number that can be one."""
        text = self.judge.removeprefix(NOISY_TRUTH)
        try:
            srcc = float(text)
        except ValueError:
            raise ValueError(f"noisy-truth takes a number, such as noisy-truth:0.6, not {text!r}") from None
        noise_share(srcc)
        return srcc

    def check_critic(self) -> None:
        """Raises ValueError for a critic of no known kind and a noisy truth of an impossible quality, FileNotFoundError
        for a memory that is not there."""
        if self.uses_truth:
            self.srcc()
        names = backend_names()
        if self.asks_a_backend and self.judge.partition(":")[0] not in names:
            raise ValueError(f"no critic {self.critic!r}; there are: {', '.join([*names, *KINDS])}")
        if self.asks_a_backend and self.memory is not None and not store_path(self.memory).is_file():
            raise FileNotFoundError(f"{self.memory}: there is no memory here")

    def to_json(self) -> dict[str, Any]:
        names = ("motion", "memory", "reply_cache")
        paths = {name: path and path.name for name in names for path in [getattr(self, name)]}
        backend = [printable(pair) for pair in self.backend]  # a plug-in's setting may be a secret
        return {**dataclasses.asdict(self), **paths, "backend": backend, "uses_truth": self.uses_truth}


def read_alignment(path: Path) -> dict[str, Any]:
    """Fields of `GroupPreferenceConfig` from YAML. Raises what `common.yaml_fields.read_fields` raises."""
    allowed = {item.name for item in dataclasses.fields(GroupPreferenceConfig)}
    return read_fields(path, allowed, "the fields of rl/config.py and of TrainingArguments")


def run_alignment(
    policy: DiffusionPolicy, settings: AlignSettings, out: Path, stage: Stage, workers: int = 1
) -> DiffusionPolicy:
    """The aligned policy, which `out` then holds as well; a second run does only what is missing.

    Raises ValueError for an unknown critic and for settings that alignment refuses before anything is drawn, and where
    groups are left that nobody answered the critic for: the same call goes on.
    """
    settings.check_critic()
    planned = _with_replay_file(policy, settings, out)
    checked_alignment(policy, planned, settings.rounds, settings.images)
    body = load_body()
    eyes = detector_of(settings.detector, policy, body)
    rescore = shuffle_scores if settings.shuffled else None
    with ExitStack() as opened:
        backend = None
        if settings.asks_a_backend:
            backend = opened.enter_context(opened_backend(settings.backend_options())).backend

        def critic(scenes: Path | None) -> Scorer:
            return open_scorer(policy, body, settings, scenes, out, stage, opened, backend, eyes)

        early = critic(None) if settings.draws_no_scene else None  # what is wrong with it is wrong at once
        scenes = _wild_scenes(settings, out, stage, workers)
        samples = list(read_samples(scenes))
        scorer = critic(scenes) if early is None else early
        alignment = with_replay(policy, settings, out, stage, workers)
        rounds = replace(settings.rounds, in_flight=_in_flight(scorer))
        aligned = align_in_rounds(policy, scorer, samples, out, alignment, rounds, stage, rescore)
    told = {
        **settings.to_json(),
        **seen_by(eyes),
        "uses_truth": settings.uses_truth or bool(getattr(scorer, "uses_truth", False)),
        "scorer": scorer.name,
        "base_policy": policy.digest(),
        "policy": aligned.digest(),
        "scenes": set_digest(scenes),
        **_counted(out, settings.rounds.count),
        "versions": versions(),
    }
    (out / "alignment.json").write_text(json.dumps(told, indent=1))
    logs = itertools.islice(
        read_logs(out).items(), settings.rounds.count
    )  # more lie there of a run of more rounds
    write_alignment_curves(out / "curves.svg", dict(logs))
    return aligned


def count_calls(policy: DiffusionPolicy, settings: AlignSettings, stage: Stage, workers: int = 1) -> DryRun:
    """What a run from nothing would ask its backend, exploration included: nobody is asked and nothing is left behind.

    Rounds ask no more than one would. Raises ValueError for a critic that asks no backend or is none, FileNotFoundError
    for a memory that is not there.
    """
    settings.check_critic()
    if not settings.asks_a_backend:
        raise ValueError(f"--dry-run counts what a backend would be asked, and {settings.critic} asks none")
    with ExitStack() as opened:
        out = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        asked = opened.enter_context(opened_backend(settings.backend_options(dry_run=True)))
        body = load_body()
        eyes = detector_of(settings.detector, policy, body)
        scenes = _wild_scenes(settings, out, stage, workers)
        scorer = open_scorer(policy, body, settings, scenes, out, stage, opened, asked.backend, eyes)
        stage(f"looking at {settings.images} groups", settings.images)
        size, seed = settings.rounds.group_size, settings.rounds.seed
        build_preferences(policy, scorer, read_samples(scenes), out / "groups", group_size=size, seed=seed)
        assert asked.dry_run is not None
        return asked.dry_run


def _counted(out: Path, rounds: int) -> dict[str, int]:
    """The groups of all rounds, and those of them without a single score, which taught nothing."""
    scores = [
        group for n in range(rounds) for group in load_preferences(out / f"round-{n}" / "groups")["scores"]
    ]
    return {"groups": len(scores), "unscored_groups": sum(set(group) == {None} for group in scores)}


def _wild_scenes(settings: AlignSettings, out: Path, stage: Stage, workers: int) -> Path:
    title = f"drawing {settings.images} scenes of wild-train"
    return draw_split(
        "wild-train",
        out / "scenes",
        settings.images,
        motion=settings.motion,
        uses_truth=settings.uses_truth,
        workers=workers,
        progress=stage(title, settings.images),
    )


def _in_flight(scorer: Scorer) -> int:
    """Groups that are judged at once: as many as the server behind an agent takes."""
    return scorer.backend.capabilities.concurrency if isinstance(scorer, CritiqueAgent) else 1


def with_replay(
    policy: DiffusionPolicy, settings: AlignSettings, out: Path, stage: Stage, workers: int = 1
) -> dict[str, Any]:
    """The training arguments, and if they ask for replay but not of what, a `replay_file` of lab scenes in `out`.

    One file does for all rounds: it holds what the encoder sees, and alignment leaves the encoder alone.
    """
    alignment = _with_replay_file(policy, settings, out)
    if not alignment.get("replay_weight") or (file := Path(alignment["replay_file"])).exists():
        return alignment
    tick = stage(f"drawing {settings.replayed} scenes of lab-train to replay", settings.replayed)
    scenes = draw_split(
        "lab-train", out / "scenes", settings.replayed, motion=settings.motion, workers=workers, progress=tick
    )
    replay_of(policy, read_labelled(scenes)).save(file)
    return alignment


def _with_replay_file(policy: DiffusionPolicy, settings: AlignSettings, out: Path) -> dict[str, Any]:
    """Where the scenes to replay lie, or will. Raises FileNotFoundError for a file that was named and is not there."""
    alignment = training_fields(settings.alignment)
    if not alignment.get("replay_weight"):
        return alignment
    named = alignment.get("replay_file")
    if named and not Path(named).exists():
        raise FileNotFoundError(f"{named}: there is no such replay_file; without one it is made")
    file = named or str(out / f"replay-{settings.replayed}-{policy.digest()}.safetensors")
    return {**alignment, "replay_file": file}


def open_scorer(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    scenes: Path | None,
    out: Path,
    stage: Stage,
    opened: ExitStack,
    backend: VLMBackend | None = None,
    eyes: Detector | None = None,
) -> Scorer:
    """The critic of that name, good until `opened` is closed; what it had to learn is kept under `out`. A `backend` is
    asked in the place of the one that the settings name; `eyes` are those of its detector, the embedded ones if None.

    A noisy truth is read from `scenes`; no other looks at them. Of a shuffled critic it is the one that is shuffled.
    Raises ValueError for an unknown critic, and what its parts raise.
    """
    if settings.uses_truth:
        assert scenes is not None, "the truth lies with the scenes"
        truths = read_truth(scenes)
        return NoisyTruthScorer(body, truths.__getitem__, settings.srcc(), settings.rounds.seed)
    if settings.judge.startswith(REWARD):
        return load_reward(settings.judge.removeprefix(REWARD), body)
    bench = open_bench(policy, body, settings, out, stage, opened, backend, eyes)
    if settings.judge == HMR_SCORER:
        return fitted_hmr_scorer(bench)
    return opened.enter_context(bench.agent(AGENT))


def open_bench(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    out: Path,
    stage: Stage,
    opened: ExitStack,
    backend: VLMBackend | None = None,
    eyes: Detector | None = None,
    tests: Sequence[LabelledGroup] = (),
) -> AgentBench:
    """Where the critics that learn are built, good until `opened` is closed; `tests` are groups that they will judge,
    for those that see the truth."""
    if backend is None:
        backend = opened.enter_context(opened_backend(settings.backend_options())).backend
    cases, made_from = _training_cases(policy, body, settings, out, stage)
    evidence = opened.enter_context(EvidenceCache(out / "evidence.jsonl"))
    return AgentBench(
        policy, body, backend, load_text_embedder(), evidence, cases, tests, out, stage, made_from,
        settings.memory, settings.rounds.seed, eyes=eyes, critique=settings.critique,
    )  # fmt: skip


def _training_cases(
    policy: DiffusionPolicy, body: Body, settings: AlignSettings, out: Path, stage: Stage
) -> tuple[list[LabelledGroup], dict[str, Any]]:
    """The groups of `lab-calibration` that a critic learns from, and what they are made from; none where it comes with
    its memory."""
    if settings.memory is not None and settings.judge != HMR_SCORER:
        return [], {}
    tick = stage(f"drawing {settings.calibration} scenes of lab-calibration", settings.calibration)
    lab = draw_split("lab-calibration", out / "scenes", settings.calibration, progress=tick)
    size, seed = settings.rounds.group_size, settings.rounds.seed
    tick = stage(f"groups of {size} on them", settings.calibration)
    cases = draw_groups(policy, body, lab, size, seed, out / "groups", tick)
    return cases, {"policy": policy.digest(), "scenes": set_digest(lab), "samples": size}
