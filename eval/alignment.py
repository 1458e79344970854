"""What `meshcritic align` runs: wild images without labels, a critic, and rounds of alignment.

| critic            | scores of a group                                                                             |
|-------------------|-----------------------------------------------------------------------------------------------|
| a backend's spec  | the explored agent's (`embedded`, `openai:NAME@URL`, ...)                                     |
| shuffled          | the embedded agent's, each group's in random order: the control                               |
| hmr-scorer        | a small learned scorer's (`rl.hmr_scorer`), ADHMR's critic                                     |
| noisy-truth:SRCC  | the truth's, with noise until it ranks as well as SRCC says; opens the truth and is stamped   |
| reward:FILE:NAME  | those of a function or a `Scorer` of your own (`rl.rewards.load_reward`)                      |

A critic that learns does so on `lab-calibration` alone, as in `eval.critic_eval`. Where training arguments give
`replay_weight`, scenes of `lab-train` are drawn with their truth and replayed beside the wild ones (`rl.replay`). The
folder keeps the scenes, the memory, every round (`rl.rounds`) and alignment.json, which says what all of it was made
from.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.vlm import load_backend
from eval.critic_rivals import fitted_hmr_scorer
from eval.critic_variants import AGENT, AgentBench
from eval.demo_outputs import versions
from eval.kept_evidence import KeptEvidence
from eval.tested_groups import draw_groups
from hmr.body import Body, load_body
from hmr.data.benchmark import draw_split
from hmr.data.store import read_labelled, read_samples, read_truth, set_digest
from hmr.policy import DiffusionPolicy
from hmr.progress import Stage
from hmr.types import Scorer
from hmr.yaml_file import read_fields
from memory.embed import load_text_embedder
from rl.config import GroupPreferenceConfig
from rl.preferences import shuffle_scores
from rl.replay import replay_of
from rl.rewards import load_reward
from rl.rounds import Rounds, align_in_rounds
from rl.scorers import NoisyTruthScorer

__all__ = ["AlignSettings", "open_scorer", "read_alignment", "run_alignment", "with_replay"]

NOISY_TRUTH = "noisy-truth:"
REWARD = "reward:"


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

    @property
    def uses_truth(self) -> bool:
        return self.critic.startswith(NOISY_TRUTH)

    def srcc(self) -> float:
        """Of a noisy truth. Raises ValueError where the critic's name holds no number."""
        text = self.critic.removeprefix(NOISY_TRUTH)
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"noisy-truth takes a number, such as noisy-truth:0.6, not {text!r}") from None

    def to_json(self) -> dict[str, Any]:
        paths = {"motion": self.motion and self.motion.name, "memory": self.memory and self.memory.name}
        return {**dataclasses.asdict(self), **paths, "uses_truth": self.uses_truth}


def read_alignment(path: Path) -> dict[str, Any]:
    """Fields of `GroupPreferenceConfig` from YAML. Raises what `hmr.yaml_file.read_fields` raises."""
    allowed = {item.name for item in dataclasses.fields(GroupPreferenceConfig)}
    return read_fields(path, allowed, "the fields of rl/config.py and of TrainingArguments")


def run_alignment(
    policy: DiffusionPolicy, settings: AlignSettings, out: Path, stage: Stage, workers: int = 1
) -> DiffusionPolicy:
    """The aligned policy, which `out` then holds as well; a second run does only what is missing.

    Raises ValueError for an unknown critic and for settings that alignment refuses.
    """
    title = f"drawing {settings.images} scenes of wild-train"
    scenes = draw_split(
        "wild-train",
        out / "scenes",
        settings.images,
        motion=settings.motion,
        uses_truth=settings.uses_truth,
        workers=workers,
        progress=stage(title, settings.images),
    )
    body, samples = load_body(), list(read_samples(scenes))
    rescore = shuffle_scores if settings.critic == "shuffled" else None
    with ExitStack() as opened:
        scorer = open_scorer(policy, body, settings, scenes, out, stage, opened)
        alignment = with_replay(policy, settings, out, stage, workers)
        rounds = replace(settings.rounds, in_flight=_in_flight(scorer))
        aligned = align_in_rounds(policy, scorer, samples, out, alignment, rounds, stage, rescore)
    told = {
        **settings.to_json(),
        "uses_truth": settings.uses_truth or bool(getattr(scorer, "uses_truth", False)),
        "scorer": scorer.name,
        "base_policy": policy.digest(),
        "policy": aligned.digest(),
        "scenes": set_digest(scenes),
        "versions": versions(),
    }
    (out / "alignment.json").write_text(json.dumps(told, indent=1))
    return aligned


def _in_flight(scorer: Scorer) -> int:
    """Groups that are judged at once: as many as the server behind an agent takes."""
    return scorer.backend.capabilities.concurrency if isinstance(scorer, CritiqueAgent) else 1


def with_replay(
    policy: DiffusionPolicy, settings: AlignSettings, out: Path, stage: Stage, workers: int = 1
) -> dict[str, Any]:
    """The training arguments, and if they ask for replay but not of what, a `replay_file` of lab scenes in `out`.

    One file does for all rounds: it holds what the encoder sees, and alignment leaves the encoder alone.
    """
    alignment = settings.alignment
    if not alignment.get("replay_weight") or alignment.get("replay_file"):
        return alignment
    file = out / f"replay-{settings.replayed}-{policy.digest()}.safetensors"
    if not file.exists():
        tick = stage(f"drawing {settings.replayed} scenes of lab-train to replay", settings.replayed)
        scenes = draw_split(
            "lab-train",
            out / "scenes",
            settings.replayed,
            motion=settings.motion,
            workers=workers,
            progress=tick,
        )
        replay_of(policy, read_labelled(scenes)).save(file)
    return {**alignment, "replay_file": str(file)}


def open_scorer(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    scenes: Path,
    out: Path,
    stage: Stage,
    opened: ExitStack,
) -> Scorer:
    """The critic of that name, good until `opened` is closed; what it had to learn is kept under `out`.

    A noisy truth is read from `scenes`. Raises ValueError for an unknown critic.
    """
    if settings.uses_truth:
        truths = read_truth(scenes)
        return NoisyTruthScorer(body, truths.__getitem__, settings.srcc(), settings.rounds.seed)
    if settings.critic.startswith(REWARD):
        return load_reward(settings.critic.removeprefix(REWARD))
    backend = load_backend("embedded" if settings.critic in ("shuffled", "hmr-scorer") else settings.critic)
    tick = stage(f"drawing {settings.calibration} scenes of lab-calibration", settings.calibration)
    lab = draw_split("lab-calibration", out / "scenes", settings.calibration, progress=tick)
    size, seed = settings.rounds.group_size, settings.rounds.seed
    tick = stage(f"groups of {size} on them", settings.calibration)
    cases = draw_groups(policy, body, lab, size, seed, out / "groups", tick)
    made_from = {"policy": policy.digest(), "scenes": set_digest(lab), "samples": size}
    evidence = opened.enter_context(KeptEvidence(out / "evidence.jsonl"))
    bench = AgentBench(
        policy, body, backend, load_text_embedder(), evidence, cases, [], out, stage, made_from,
        settings.memory, seed,
    )  # fmt: skip
    if settings.critic == "hmr-scorer":
        return fitted_hmr_scorer(bench)
    return opened.enter_context(bench.agent(AGENT))
