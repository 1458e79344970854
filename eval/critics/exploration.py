"""Explores a memory folder once; shared by `meshcritic demo`, `explore`, `align` and `critic-eval`.

    MEMORY/memory.sqlite       cases, rules and prototypes, each written when it is known (`agent.exploration.explore`)
    MEMORY/error_model.json    the model of errors in millimetres (`agent.expected_error`), with `meshcritic explore`
    MEMORY/exploration.json    the fingerprint, before the first case; the report beside it, after the last

A second run with the same fingerprint resumes a killed exploration or returns its report. A run with another policy,
backend or detector is refused: rule weights depend on what the detector measured. Only the number of scenes may
grow, which continues the exploration of the same memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.default import default_agent, open_default_memory
from agent.expected_error import ERROR_MODEL_FILE, fitted_groups
from agent.exploration.context import Progress, Propose
from agent.exploration.explore import ExplorationReport, ExplorationSettings, RuleReviewer, explore
from agent.exploration.learning import Explored
from agent.exploration.nodes import mean_srcc
from agent.exploration.record import DETECTOR, EXPLORED, READER
from agent.exploration.trials import pending_rules, trial_name
from agent.tracing.records import Trace
from agent.vlm import VLMBackend
from common.failures import ScoresMissing
from common.progress import Stage
from common.storage.files import PathLike, write_text
from common.storage.locks import single_run
from eval.benchmark.protocol import noise_generator
from eval.critics.error_calibration import GROUPS_PER_CASE, calibrate_errors
from hmr.body.model import body_fingerprint, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.loading import load_detector
from hmr.policy.checkpoint import load_reader
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import calibration_parts, draw_split, gap_of
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Detector, Hypotheses, Labelled, Sample

__all__ = [
    "UCB", "Exploration", "ExploreSettings", "check_ucb", "detector_name",
    "explore_calibration", "load_other_detector",
]  # fmt: skip

Json = dict[str, Any]
UCB = 0.5  # C of `memory.rule_memory`
MIN_CALIBRATED = 32  # cases; fewer give intervals that mean little


@dataclass(frozen=True)
class Exploration:
    """The exploration of `cases` into `folder`; `fingerprint` holds everything that shapes its result."""

    folder: Path
    fingerprint: Mapping[str, Any]
    cases: Sequence[Labelled]
    held_out: Sequence[Labelled]  # decide whether a rule is admitted
    propose: Propose
    name: str = ""  # of a variant of the agent

    @property
    def title(self) -> str:
        return f"exploring {len(self.cases)} cases" + (f": {self.name}" if self.name else "")

    def saved_report(self) -> Json | None:
        """The content of exploration.json if the exploration is finished, else None.

        Raises ValueError if the folder was explored with another fingerprint.
        """
        path = self.folder / EXPLORED
        if not path.exists():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        before, now = saved["made_from"], dict(self.fingerprint)
        if names := _different(before, now):
            default = "the embedded one" if names[0] == "body" else "unknown"
            was, wanted = (made_from.get(names[0], default) for made_from in (before, now))
            raise ValueError(
                f"{self.folder} was explored with {names[0]} = {was}, but this run has {wanted}; "
                "remove it or choose another folder"
            )
        return saved if "cases" in saved and before == now else None

    def run(
        self,
        agent: CritiqueAgent,
        stage: Stage,
        print_line: Callable[[str], None] = lambda line: None,
        reviewer: RuleReviewer | None = None,
    ) -> ExplorationReport:
        """Explore, or resume a killed run; `agent` uses the folder's memory.

        reviewer: decides which mined rules are tried; None: all.

        Raises ValueError if another process explores the folder. The exploration stays unfinished as long as a case has
        no score from the backend, in its critique or in a trial of new rules; the next run asks for it again.
        """
        with single_run(self.folder):
            return self._run(agent, stage, print_line, reviewer)

    def _run(
        self,
        agent: CritiqueAgent,
        stage: Stage,
        print_line: Callable[[str], None],
        reviewer: RuleReviewer | None,
    ) -> ExplorationReport:
        self._write({})
        tick = stage(self.title, len(self.cases))
        if before := self._explored_before(agent):
            note = _srcc_note(mean_srcc(before))
            print_line(f"{len(before)} of {len(self.cases)} cases were explored before{note and ', '}{note}")
            tick(len(before), note)

        def on_case(progress: Progress) -> None:
            tick(progress.done, _srcc_note(progress.running_srcc))

        settings = ExplorationSettings(interrupt_on=("admit_rule",) if reviewer else ())
        report = explore(
            agent, self.cases, self.held_out, self.propose, settings, on_case=on_case, reviewer=reviewer
        )
        if not report.unscored and not report.blocked_cases:
            self._write(report.to_json())
        return report

    def _explored_before(self, agent: CritiqueAgent) -> list[Explored]:
        records = agent.rules.explored([case.sample.id for case in self.cases])
        return [Explored.from_json(case_id, record) for case_id, record in records.items()]

    def _write(self, report: Json) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"made_from": dict(self.fingerprint), **report}
        write_text(self.folder / EXPLORED, json.dumps(content, indent=1))


def load_other_detector(spec: str, policy: DiffusionPolicy) -> Detector | None:
    """The detector of `spec`; None for the embedded one if the policy has it, which shares its encoder with the image
    embedder. Raises what `load_detector` raises."""
    shared = spec == policy.detector.name == EmbeddedDetector.name
    return None if shared else load_detector(spec, str(policy.device))


def detector_name(detector: Detector | None) -> str:
    """The name in a fingerprint; None is the embedded detector."""
    return detector.name if detector else EmbeddedDetector.name


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries of a fingerprint that another one has with other values. The body is the first: all scenes differ
    with it."""
    grown = before.get("images", math.inf) < now.get("images", 0)
    free = ("images", "scenes") if grown else ()
    names = [name for name in dict.fromkeys(("body", *now)) if name not in free]
    return [name for name in names if before.get(name) != now.get(name)]


@dataclass(frozen=True, kw_only=True)
class ExploreSettings:
    """Settings of `meshcritic explore`."""

    base: str = "shipped"  # a key of `hmr.synthetic.splits.GAPS`, which decides on the calibration split
    images: int = 128  # of that split: half are explored, a quarter decides on the admission of rules
    samples: int = 20
    seed: int = 0
    ucb: float = UCB
    detector: str = EmbeddedDetector.name
    body: Path | None = None  # file of the body model of scenes and hypotheses; None: the embedded one
    critique: Json = field(default_factory=dict)  # fields of CritiqueSettings that differ from the defaults

    def __post_init__(self) -> None:
        check_ucb(self.ucb)
        gap_of(self.base)

    @property
    def split(self) -> str:
        return gap_of(self.base).calibration


def check_ucb(ucb: float) -> None:
    """Raises ValueError for a negative or non-finite C."""
    if not (math.isfinite(ucb) and ucb >= 0):
        raise ValueError(f"--ucb takes a finite number of at least 0, not {ucb}")


def explore_calibration(
    policy: DiffusionPolicy,
    backend: VLMBackend,
    settings: ExploreSettings,
    *,
    out: PathLike,
    memory: PathLike,
    stage: Stage,
    print_line: Callable[[str], None],
    workers: int = 1,
    reviewer: RuleReviewer | None = None,
) -> Json:
    """Explore the calibration split into `memory`; scenes and trace are written to `out`. Returns the content of
    exploration.json. reviewer: decides which mined rules are tried; None: all.

    An exploration that is finished is not repeated, but tries the rules that were added to the quarantine since.

    Raises ValueError for a policy that was trained with another body and a memory that was explored with other settings
    or models, ScoresMissing if cases were left and none of them got a score.
    """
    out, memory, body = Path(out), Path(memory), load_body(settings.body)
    policy.require_body(body)
    detector = load_other_detector(settings.detector, policy)
    tick = stage(f"drawing {settings.images} scenes of {settings.split}", settings.images)
    scenes = draw_split(
        settings.split, out / "scenes", settings.images, body=settings.body, workers=workers, progress=tick
    )
    fingerprint = _fingerprint(settings, scenes, policy, detector, backend)
    labelled, parts = read_labelled(scenes), calibration_parts(settings.images)

    def propose(sample: Sample) -> Hypotheses:
        noise = noise_generator(settings.seed, sample)
        return policy.sample(policy.encode([sample]), settings.samples, noise)[0]

    cases, held_out = ([labelled[row] for row in parts[part]] for part in ("explore", "admit"))
    exploration = Exploration(memory, fingerprint, cases, held_out, propose)
    saved = exploration.saved_report()
    with (
        open_default_memory(memory, policy, frozen=False, ucb=settings.ucb, detector=detector) as opened,
        ExitStack() as stack,
    ):
        trial = trial_name(backend.name, [case.sample.id for case in held_out])
        waiting = pending_rules(opened.rules, trial)
        if saved is not None:
            print_line(f"{memory} was explored before on these {len(cases)} cases")
            if not waiting:
                return saved
            print_line(f"{len(waiting)} rules in quarantine were added since and are tried now")
        trace = stack.enter_context(Trace(out / "trace.jsonl"))
        critique_settings = CritiqueSettings(seed=settings.seed, **settings.critique)
        agent = default_agent(
            policy, body, opened, backend=backend, detector=detector, settings=critique_settings, trace=trace
        )
        _calibrate_errors(agent, labelled, parts, propose, memory, stage)
        report = exploration.run(agent, stage, print_line, reviewer)
    if report.unscored and not report.cases:
        reason = " ".join(report.failures[-1].reason.split()) if report.failures else "no reason known"
        raise ScoresMissing(
            f"none of {report.unscored} cases got a score: {reason}; the same command tries them again"
        )
    return {"made_from": fingerprint, **report.to_json()}


def _fingerprint(
    settings: ExploreSettings,
    scenes: Path,
    policy: DiffusionPolicy,
    detector: Detector | None,
    backend: VLMBackend,
) -> Json:
    fields = dataclasses.asdict(settings)
    del fields["body"]
    return {
        **fields,
        **body_fingerprint(settings.body),
        DETECTOR: detector_name(detector),
        "scenes": set_digest(scenes),
        "policy": policy.digest(),
        READER: load_reader(str(policy.device)).digest(),
        "backend": backend.name,
        "revision": backend.revision,
    }


def _calibrate_errors(
    agent: CritiqueAgent,
    labelled: Sequence[Labelled],
    parts: Mapping[str, Sequence[int]],
    propose: Propose,
    memory: Path,
    stage: Stage,
) -> None:
    """Write the model of errors in millimetres beside the memory; too few scenes leave it out.

    It needs no backend, and comes before the exploration, whose report ends the work on a memory: a killed run finds it
    again.
    """
    cases, held_out = ([labelled[row] for row in parts[part]] for part in ("explore", "report"))
    if len(cases) < MIN_CALIBRATED or fitted_groups(memory) == GROUPS_PER_CASE * len(cases):
        return
    tick = stage("fitting expected errors", len(cases) + len(held_out))
    model = calibrate_errors(agent, cases, held_out, propose, tick)
    write_text(memory / ERROR_MODEL_FILE, json.dumps(model.to_json(), indent=1))


def _srcc_note(srcc: float | None) -> str:
    return "" if srcc is None else f"SRCC {srcc:.3f}"
