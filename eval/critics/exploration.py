"""An exploration of a memory folder, done once however often it is asked for: what `meshcritic demo`, `explore`,
`align` and `critic-eval` share.

    MEMORY/memory.sqlite       cases, rules, prototypes, each written as it is known (`agent.exploration.explore`)
    MEMORY/exploration.json    what it is explored from, before the first case; what came of it, after the last

So whoever asks for the same again takes up what a kill left, or finds it whole; whoever asks with another policy or
another judge is refused, and so is another detector, for rules are weighed by what was seen. Only the number of lab
scenes may grow: more of them teach the same memory more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.default import default_agent
from agent.exploration.context import Progress, Propose
from agent.exploration.explore import explore
from agent.exploration.learning import Explored
from agent.exploration.nodes import mean_srcc
from agent.image_embedding import PolicyEmbedder
from agent.seed_rules import load_seed_rules
from agent.tracing.records import Trace
from agent.vlm import VLMBackend
from common.progress import Stage
from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector, load_detector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import calibration_parts, draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Detector, Hypotheses, Labelled, Sample
from memory.embed import TextEmbedder, load_text_embedder
from memory.folder import Memory, open_memory

__all__ = [
    "CRITIQUE", "DETECTOR", "EXPLORED", "UCB", "Exploration", "ExploreSettings", "check_ucb", "detector_of",
    "explore_lab", "eyes_of", "open_to_explore", "seen_by",
]  # fmt: skip

Json = dict[str, Any]
Say = Callable[[str], None]
EXPLORED = "exploration.json"
UCB = 0.5  # C of `memory.rules`
DETECTOR, CRITIQUE = "detector", "critique"  # in what an exploration is made from


@dataclass(frozen=True)
class Exploration:
    """Which cases are explored into which folder, and all that decides what comes of it."""

    folder: Path
    made_from: Mapping[str, Any]
    cases: Sequence[Labelled]
    held_out: Sequence[Labelled]
    propose: Propose
    name: str = ""  # of a variant of the agent

    @property
    def title(self) -> str:
        return f"exploring {len(self.cases)} lab cases" + (f": {self.name}" if self.name else "")

    def found(self) -> Json | None:
        """What came of it when it was last run; None where that is yet to be seen.

        Raises ValueError where the folder was explored from something else.
        """
        path = self.folder / EXPLORED
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        before, now = _through_eyes(kept["made_from"]), _through_eyes(self.made_from)
        if other := _differing(before, now):
            was, asked = before.get(other[0], "unknown"), now[other[0]]
            raise ValueError(
                f"{self.folder} was explored with {other[0]} = {was}, and this asks for {asked}; "
                "remove it or name another"
            )
        return kept if "cases" in kept and before == now else None

    def run(self, agent: CritiqueAgent, stage: Stage, say: Say = lambda line: None) -> Json:
        """Explore, or go on where an earlier run was cut short; `agent` judges over the folder's memory.

        A case that the backend gave no score, at first or at a trial, keeps the exploration open: the next run asks
        for it again.
        """
        self._write({})
        tick = stage(self.title, len(self.cases))
        if before := self._explored_before(agent):
            told = _running(mean_srcc(before))
            say(f"{len(before)} of {len(self.cases)} cases were explored before{told and ', '}{told}")
            tick(len(before), told)

        def on_case(progress: Progress) -> None:
            tick(progress.done, _running(progress.running_srcc))

        report = explore(agent, self.cases, self.held_out, self.propose, on_case=on_case)
        found = dataclasses.asdict(report)
        if not report.unscored and not report.held_up:
            self._write(found)
        return {"made_from": dict(self.made_from), **found}

    def _explored_before(self, agent: CritiqueAgent) -> list[Explored]:
        kept = agent.rules.explored([case.sample.id for case in self.cases])
        return [Explored.from_json(case_id, judged) for case_id, judged in kept.items()]

    def _write(self, report: Json) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{EXPLORED}.partial"
        partial.write_text(json.dumps({"made_from": dict(self.made_from), **report}, indent=1))
        partial.replace(self.folder / EXPLORED)


def detector_of(spec: str, policy: DiffusionPolicy, body: Body) -> Detector | None:
    """Other eyes for an agent; None for the embedded ones, which share theirs with what embeds images.
    Raises what `load_detector` raises."""
    return None if spec == EmbeddedDetector.name else load_detector(spec, policy, body)


def seen_by(eyes: Detector | None) -> Json:
    """What an exploration is made from, as to the detector; None is the embedded one."""
    return {DETECTOR: eyes.name if eyes else EmbeddedDetector.name}


def eyes_of(memory: Path) -> str | None:
    """The detector that a memory was explored with; None where nothing was explored. Raises ValueError for a broken
    file."""
    path = memory / EXPLORED
    if not path.exists():
        return None
    try:
        return _through_eyes(json.loads(path.read_text(encoding="utf-8"))["made_from"])[DETECTOR]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} does not say what the memory was explored from; explore it anew") from None


def _through_eyes(made_from: Mapping[str, Any]) -> Json:
    """With what goes without saying: the embedded eyes, and the usual settings of a critique."""
    return {CRITIQUE: {}, **seen_by(None), **made_from}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    grown = before.get("images", math.inf) < now.get("images", 0)
    free = ("images", "scenes") if grown else ()
    return [name for name, value in now.items() if name not in free and before.get(name) != value]


@dataclass(frozen=True)
class ExploreSettings:
    """What `meshcritic explore` is asked."""

    images: int = 128  # of lab-calibration: half explored, a quarter to admit rules
    samples: int = 20
    seed: int = 0
    ucb: float = UCB
    detector: str = EmbeddedDetector.name
    critique: Json = field(default_factory=dict)  # fields of CritiqueSettings that are not the usual ones

    def __post_init__(self) -> None:
        check_ucb(self.ucb)


def check_ucb(ucb: float) -> None:
    """Raises ValueError for a C that no bound can be made of."""
    if not (math.isfinite(ucb) and ucb >= 0):
        raise ValueError(f"--ucb takes a finite number of at least 0, not {ucb}")


def open_to_explore(folder: Path, policy: DiffusionPolicy, embedder: TextEmbedder, ucb: float) -> Memory:
    """The memory in `folder`, rules tried by `ucb`; a new one is given the seed rules."""
    looks = PolicyEmbedder(policy)
    memory = open_memory(folder, embedder, looks.name, looks.dim, ucb)
    if not len(memory.rules):
        memory.rules.add(load_seed_rules())
    return memory


def explore_lab(
    policy: DiffusionPolicy,
    backend: VLMBackend,
    settings: ExploreSettings,
    out: Path,
    memory: Path,
    stage: Stage,
    say: Say,
    workers: int = 1,
) -> Json:
    """What came of exploring lab-calibration with this policy and this judge into `memory`; scenes and trace in `out`.

    Raises ValueError for a memory that was explored from something else or by other models.
    """
    body = load_body()
    eyes = detector_of(settings.detector, policy, body)
    tick = stage(f"drawing {settings.images} scenes of lab-calibration", settings.images)
    scenes = draw_split("lab-calibration", out / "scenes", settings.images, workers=workers, progress=tick)
    made_from = {
        **dataclasses.asdict(settings),
        **seen_by(eyes),
        "scenes": set_digest(scenes),
        "policy": policy.digest(),
        "backend": backend.name,
        "revision": backend.revision,
    }
    labelled, parts = read_labelled(scenes), calibration_parts(settings.images)

    def propose(sample: Sample) -> Hypotheses:
        noise = noise_generator(settings.seed, sample)
        return policy.sample(policy.encode([sample]), settings.samples, noise)[0]

    teach, admit = ([labelled[row] for row in parts[part]] for part in ("explore", "admit"))
    exploration = Exploration(memory, made_from, teach, admit, propose)
    if (found := exploration.found()) is not None:
        say(f"{memory} was explored before on these {len(teach)} cases")
        return found
    with (
        Trace(out / "trace.jsonl") as trace,
        open_to_explore(memory, policy, load_text_embedder(), settings.ucb) as opened,
    ):
        asked = CritiqueSettings(seed=settings.seed, **settings.critique)
        agent = default_agent(policy, body, opened, settings=asked, trace=trace)
        return exploration.run(replace(agent, backend=backend, detector=eyes or agent.detector), stage, say)


def _running(srcc: float | None) -> str:
    return "" if srcc is None else f"SRCC {srcc:.3f}"
