"""What `meshcritic tune-critic` runs: what a memory explored becomes questions, and a local model learns from them.

    OUT/scenes                lab-calibration, drawn again
    OUT/questions             a file of questions a case (`rl.critic_tuning.conversations`)
    OUT/sft, OUT/grpo         the adapter after each stage (`rl.critic_tuning.stages`)
    OUT/tuning.json           what all of it was made from

Only cases of lab-calibration's part `explore` teach: a memory may hold others, and those are left alone. What admits
rules and what reports is never asked about, and no wild image is opened. A second run does only what is missing.

A memory keeps no hypotheses. They are sampled again as whoever explored did: `meshcritic demo` and the benches
(`critic-eval`, `align`) name their noise differently, and exploration.json beside the memory tells which it was. Errors
measured again say whether it is the same group.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from agent.exploration.learning import Explored
from agent.prompts import load_prompt
from agent.vlm.local.backend import QUESTION_FORMAT, ChatEncoder, LocalSettings
from agent.vlm.local.model_loading import FoundModel, load_processor
from common.progress import Stage
from common.seeding import derive_generator
from eval.benchmark.protocol import noise_generator
from eval.critics.exploration import EXPLORED
from eval.pipelines.demo_outputs import versions
from hmr.body.model import load_body
from hmr.policy.policy import DiffusionPolicy
from hmr.render.raster import RasterRenderer
from hmr.synthetic.splits import calibration_parts, draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Hypotheses, Labelled, Sample
from memory.folder import open_store
from memory.ledger import RuleLedger
from rl.critic_tuning.cases import Asking, questions_of
from rl.critic_tuning.config import TuningSettings
from rl.critic_tuning.conversations import Extent, load_conversations, write_conversations
from rl.critic_tuning.stages import CriticTuning

__all__ = ["TrainingCases", "TunedCritic", "prepare_training_cases", "tune_critic"]

Json = dict[str, Any]


@dataclass(frozen=True)
class TrainingCases:
    """What there is to learn from, and what it was made from."""

    conversations: Dataset
    extent: Extent
    made_from: Json


@dataclass(frozen=True)
class TunedCritic:
    """The model with its last adapter, and what TRL measured last in every stage."""

    found: FoundModel
    measured: Mapping[str, Json]


def prepare_training_cases(
    found: FoundModel,
    memory: Path,
    policy: DiffusionPolicy,
    settings: TuningSettings,
    local: LocalSettings,
    out: Path,
    stage: Stage,
    calibration: int = 128,
    workers: int = 1,
) -> TrainingCases:
    """Questions about what `memory` explored of the first `calibration` scenes of lab-calibration.

    Raises FileNotFoundError without a memory, ValueError for one in which nothing was explored, not with this policy,
    or not on these scenes.
    """
    kept, explored_from = _explored(memory, policy)
    tick = stage(f"drawing {calibration} scenes of lab-calibration", calibration)
    scenes = draw_split("lab-calibration", out / "scenes", calibration, workers=workers, progress=tick)
    labelled = read_labelled(scenes)
    teach = [labelled[row] for row in calibration_parts(calibration)["explore"]]
    if not (teach := [case for case in teach if case.sample.id in kept]):
        raise ValueError(
            f"none of the {len(kept)} cases explored in {memory} is of the part `explore` of the first {calibration} "
            "scenes of lab-calibration; nothing else may teach"
        )
    asking = Asking(settings.label_orders, local.max_images, local.comment_chars, settings.seed)
    writer = _Writer(found, policy, explored_from, asking, local, out / "questions")
    tick, paths = stage(f"questions about {len(teach)} explored cases", len(teach)), []
    for done, case in enumerate(teach, start=1):
        paths.append(writer.write(case, kept[case.sample.id]))
        tick(done)
    conversations = load_conversations(paths)
    made_from = {"scenes": set_digest(scenes), "policy": policy.digest(), "memory": memory.name}
    return TrainingCases(conversations, Extent.of(conversations), made_from)


def tune_critic(
    found: FoundModel,
    training_cases: TrainingCases,
    settings: TuningSettings,
    local: LocalSettings,
    out: Path,
    stage: Stage,
    say: Callable[[str], None],
) -> TunedCritic:
    """The tuned model, as `local:` loads it from the folder of its last stage.

    Raises ValueError where questions and replies do not fit in the model's context.
    """
    told = {
        "model": found.base,
        "revision": found.revision,
        **training_cases.made_from,
        "training_cases": dataclasses.asdict(training_cases.extent),
        "settings": dataclasses.asdict(settings),
        "local": dataclasses.asdict(local),
        "versions": {**versions(), "peft": importlib.metadata.version("peft")},
    }
    _write(out / "tuning.json", told)
    tuned = CriticTuning(training_cases.conversations, settings, out, stage, say).run(found)
    measured = {name: _last(out / name / "log.json") for name in settings.stages}
    _write(out / "tuning.json", {**told, "tuned": tuned.revision, "measured": measured})
    return TunedCritic(tuned, measured)


class _Writer:
    """Asks about one case at a time."""

    def __init__(
        self,
        found: FoundModel,
        policy: DiffusionPolicy,
        explored_from: Json,
        asking: Asking,
        local: LocalSettings,
        folder: Path,
    ) -> None:
        self.policy, self.explored_from, self.asking, self.folder = policy, explored_from, asking, folder
        self.chat_encoder = ChatEncoder(load_processor(found), local.image_side_px)
        self.body, self.renderer = load_body(), RasterRenderer()
        shaping = [QUESTION_FORMAT, load_prompt("score").version, found.revision, local.image_side_px]
        self.key = json.dumps([*shaping, dataclasses.asdict(asking)])

    def write(self, labelled: Labelled, kept: Json) -> Path:
        """The file of a case, named by all that shapes its questions; one that is there is left alone."""
        case = Explored.from_json(labelled.sample.id, kept)
        key = hashlib.sha256(f"{self.key}{json.dumps(kept)}".encode()).hexdigest()[:12]
        path = self.folder / f"{case.case_id}-{key}.parquet"
        if not path.exists():
            hypotheses = self._propose(labelled.sample, len(case.errors_mm))
            questions = questions_of(case, labelled, hypotheses, self.body, self.renderer, self.asking)
            write_conversations(path, questions, self.chat_encoder)
        return path

    def _propose(self, sample: Sample, count: int) -> Hypotheses:
        seed = self.explored_from.get("seed")
        noise = derive_generator("explore", sample.id) if seed is None else noise_generator(seed, sample)
        return self.policy.sample(self.policy.encode([sample]), count, noise)[0]


def _explored(memory: Path, policy: DiffusionPolicy) -> tuple[dict[str, Json], Json]:
    """What was kept of every case, by its id, and what the exploration says it was made from."""
    with open_store(memory) as store:
        ledger = RuleLedger(store)
        kept = ledger.explored([case_id for case_id, _, _ in ledger.cases()])
    if not kept:
        raise ValueError(f"{memory}: no case was explored here; `meshcritic explore` fills a memory")
    path = memory / EXPLORED
    made_from = json.loads(path.read_text(encoding="utf-8"))["made_from"] if path.is_file() else {}
    if made_from.get("policy", policy.digest()) != policy.digest():
        raise ValueError(
            f"{memory} was explored with the policy {made_from['policy']}, and this is {policy.digest()}; see --policy"
        )
    return kept, made_from


def _last(log: Path) -> Json:
    """Each figure of a stage as it was logged last."""
    figures: Json = {}
    for entry in json.loads(log.read_text()):
        figures |= entry
    return figures


def _write(path: Path, told: Json) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(told, indent=1))
    partial.replace(path)
