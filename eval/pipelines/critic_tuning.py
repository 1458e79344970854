"""Fine-tunes a local vision-language model on the cases that a memory explored; `meshcritic tune-critic` runs it.

    OUT/scenes                the calibration split, drawn again
    OUT/questions             one file of questions per case (`rl.critic_tuning.conversations`)
    OUT/sft, OUT/grpo         the adapter after each stage (`rl.critic_tuning.stages`)
    OUT/tuning.json           the inputs and the last metrics

Training uses only the explored cases in the part `explore` of the calibration split; the scenes that decide on the
admission of rules, the test scenes and the images to align on are not used. A second run computes only what is missing.

A memory does not store hypotheses. They are sampled again with the seed of the exploration: `meshcritic demo` seeds its
noise in another way than `explore`, `critic-eval` and `align`, and exploration.json in the memory's folder shows which
was used. The errors are measured again, to check that the group is the same.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from agent.exploration.learning import Explored
from agent.exploration.record import EXPLORED
from agent.prompts import load_prompt
from agent.vlm.local.backend import QUESTION_FORMAT, ChatEncoder, LocalSettings
from agent.vlm.local.model_loading import FoundModel, load_processor
from common.progress import Stage
from common.seeding import derive_generator
from common.storage.files import PathLike, write_text
from common.storage.fingerprint import digest
from common.storage.versions import versions
from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body, body_fingerprint, load_body
from hmr.policy.policy import DiffusionPolicy
from hmr.render.raster import RasterRenderer
from hmr.synthetic.splits import calibration_parts, draw_split, gap_of
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Hypotheses, Labelled, Sample
from memory.folder import open_store
from memory.ledger import RuleLedger
from rl.critic_tuning.cases import QuestionSettings, questions_of
from rl.critic_tuning.config import TuningSettings
from rl.critic_tuning.conversations import ConversationStats, load_conversations, write_conversations
from rl.critic_tuning.preflight import run_preflight
from rl.critic_tuning.stages import CriticTuning

__all__ = ["TrainingCases", "TunedCritic", "prepare_training_cases", "tune_critic"]

Json = dict[str, Any]


@dataclass(frozen=True)
class TrainingCases:
    """The training data and its fingerprint."""

    conversations: Dataset
    stats: ConversationStats
    fingerprint: Json


@dataclass(frozen=True)
class TunedCritic:
    """The model with its last adapter, and the last metrics that TRL logged in each stage."""

    found: FoundModel
    measured: Mapping[str, Json]


def prepare_training_cases(
    found: FoundModel,
    memory: PathLike,
    policy: DiffusionPolicy,
    *,
    settings: TuningSettings,
    local: LocalSettings,
    out: PathLike,
    stage: Stage,
    base: str = "shipped",
    calibration: int = 128,
    body: Path | None = None,
    workers: int = 1,
) -> TrainingCases:
    """Questions about the cases in `memory` that are among the first `calibration` scenes of the calibration split of
    `base`, a key of `hmr.synthetic.splits.GAPS`.

    body: file of the body model that the memory was explored with; None: the embedded one.

    Raises FileNotFoundError for a missing memory, ValueError for one without explored cases, explored with another
    policy or body, or explored on other scenes, and for settings that TRL or peft rejects, before anything is drawn.
    """
    memory, out = Path(memory), Path(out)
    model = load_body(body)
    policy.require_body(model)
    explored, explored_from = _explored(memory, policy, body)
    run_preflight(settings)
    split = gap_of(base).calibration
    tick = stage(f"drawing {calibration} scenes of {split}", calibration)
    scenes = draw_split(split, out / "scenes", calibration, body=body, workers=workers, progress=tick)
    labelled = read_labelled(scenes)
    cases = [labelled[row] for row in calibration_parts(calibration)["explore"]]
    if not (cases := [case for case in cases if case.sample.id in explored]):
        raise ValueError(
            f"none of the {len(explored)} cases explored in {memory} is in the part `explore` of the first "
            f"{calibration} scenes of {split}, and training uses no others"
        )
    question_settings = QuestionSettings(
        settings.label_orders, local.max_images, local.comment_chars, settings.seed
    )
    writer = _Writer(found, policy, model, explored_from, question_settings, local, out / "questions")
    tick, paths = stage(f"questions about {len(cases)} explored cases", len(cases)), []
    for done, case in enumerate(cases, start=1):
        paths.append(writer.write(case, explored[case.sample.id]))
        tick(done)
    conversations = load_conversations(paths)
    fingerprint = {"scenes": set_digest(scenes), "policy": policy.digest(), "memory": memory.name}
    fingerprint |= body_fingerprint(body)
    return TrainingCases(conversations, ConversationStats.of(conversations), fingerprint)


def tune_critic(
    found: FoundModel,
    training_cases: TrainingCases,
    *,
    settings: TuningSettings,
    local: LocalSettings,
    out: PathLike,
    stage: Stage,
    print_line: Callable[[str], None],
) -> TunedCritic:
    """The tuned model, as `local:` loads it from the folder of its last stage.

    Raises ValueError if questions and replies do not fit in the model's context.
    """
    out = Path(out)
    record = {
        "model": found.base,
        "revision": found.revision,
        **training_cases.fingerprint,
        "training_cases": dataclasses.asdict(training_cases.stats),
        "settings": dataclasses.asdict(settings),
        "local": dataclasses.asdict(local),
        "versions": {**versions(), "peft": importlib.metadata.version("peft")},
    }
    write_text(out / "tuning.json", json.dumps(record, indent=1))
    tuned = CriticTuning(training_cases.conversations, settings, out, stage, print_line).run(found)
    measured = {name: _last_metrics(out / name / "log.json") for name in settings.stages}
    record |= {"tuned": tuned.revision, "measured": measured}
    write_text(out / "tuning.json", json.dumps(record, indent=1))
    return TunedCritic(tuned, measured)


class _Writer:
    """Writes the questions about one case at a time."""

    def __init__(
        self,
        found: FoundModel,
        policy: DiffusionPolicy,
        body: Body,
        explored_from: Json,
        question_settings: QuestionSettings,
        local: LocalSettings,
        folder: Path,
    ) -> None:
        self.policy, self.explored_from, self.question_settings, self.folder = (
            policy,
            explored_from,
            question_settings,
            folder,
        )
        self.chat_encoder = ChatEncoder(load_processor(found), local.image_side_px)
        self.body, self.renderer = body, RasterRenderer()
        inputs = [QUESTION_FORMAT, load_prompt("score").version, found.revision, local.image_side_px]
        self.key = json.dumps([*inputs, dataclasses.asdict(question_settings)])

    def write(self, labelled: Labelled, explored: Json) -> Path:
        """The file of a case, named by everything that shapes its questions; an existing file is not written again."""
        case = Explored.from_json(labelled.sample.id, explored)
        key = digest(self.key, json.dumps(explored), length=12)
        path = self.folder / f"{case.case_id}-{key}.parquet"
        if not path.exists():
            hypotheses = self._propose(labelled.sample, len(case.errors_mm))
            questions = questions_of(
                case, labelled, hypotheses, self.body, self.renderer, self.question_settings
            )
            write_conversations(path, questions, self.chat_encoder)
        return path

    def _propose(self, sample: Sample, count: int) -> Hypotheses:
        seed = self.explored_from.get("seed")
        noise = derive_generator("explore", sample.id) if seed is None else noise_generator(seed, sample)
        return self.policy.sample(self.policy.encode([sample]), count, noise)[0]


def _explored(memory: Path, policy: DiffusionPolicy, body: Path | None) -> tuple[dict[str, Json], Json]:
    """The record of every explored case by its id, and the fingerprint of the exploration."""
    with open_store(memory) as store:
        ledger = RuleLedger(store)
        explored = ledger.explored([case_id for case_id, _, _ in ledger.cases()])
    if not explored:
        raise ValueError(f"{memory} has no explored cases; run `meshcritic explore` first")
    path = memory / EXPLORED
    fingerprint = json.loads(path.read_text(encoding="utf-8"))["made_from"] if path.is_file() else {}
    if fingerprint.get("policy", policy.digest()) != policy.digest():
        raise ValueError(
            f"{memory} was explored with the policy {fingerprint['policy']}, but --policy is {policy.digest()}"
        )
    if fingerprint.get("body") != body_fingerprint(body).get("body"):
        raise ValueError(f"{memory} was explored with another body; give the --body of its exploration")
    return explored, fingerprint


def _last_metrics(log: Path) -> Json:
    """The last logged value of each metric of a stage."""
    metrics: Json = {}
    for entry in json.loads(log.read_text()):
        metrics |= entry
    return metrics
