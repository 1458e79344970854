"""Tunes a tiny random model by both stages, a few steps each.

As a program it stops at a step of the second stage, prints "stopped", and waits to be killed:
`python -m tests.rl.critic_tuning.tuning_run MODEL QUESTIONS OUT STEP`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.vlm.local.backend import ChatEncoder
from agent.vlm.local.model_loading import FoundModel, find_model, load_processor
from common.seeding import one_thread
from hmr.render.raster import RasterRenderer
from rl.critic_tuning.cases import Question, QuestionSettings, questions_of
from rl.critic_tuning.config import TuningSettings
from rl.critic_tuning.conversations import load_conversations, write_conversations
from rl.critic_tuning.stages import CriticTuning
from tests.agent.tools.tool_case import body
from tests.rl.critic_tuning.explored_cases import explored_cases

__all__ = ["SETTINGS", "brief_questions", "run", "variety", "write_questions"]

OFTEN = {
    "logging_steps": 1,
    "save_steps": 1,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 2,
}
SETTINGS = TuningSettings(
    lora={"r": 4, "lora_alpha": 8},
    sft={**OFTEN, "max_steps": 6, "learning_rate": 1e-2},
    grpo={
        **OFTEN,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "num_generations": 2,
        "max_completion_length": 80,
        "beta": 0.04,  # the adapter of the first stage is kept as the reference
    },
)


def brief_questions() -> list[Question]:
    """Short questions, because the tiny vocabulary makes a token of every letter."""
    questions = []
    for case in explored_cases():
        full = case.explored.brief
        brief = replace(full, evidence=full.evidence[:1], rules=[], prototypes=[])
        group = (replace(case.explored, brief=brief), case.labelled, case.hypotheses)
        questions += questions_of(
            *group, body(), RasterRenderer(), QuestionSettings(max_images=4, comment_chars=5)
        )
    return questions


def write_questions(model: Path, path: Path) -> Path:
    write_conversations(path, brief_questions(), ChatEncoder(load_processor(find_model(str(model)))))
    return path


def variety(completions: Sequence[Any], **others: Any) -> list[float]:
    """A reward that random weights can earn: the number of different characters in a reply."""
    return [float(len(set(completion[-1]["content"]))) for completion in completions]


def run(
    model: Path,
    questions: Path,
    out: Path,
    settings: TuningSettings = SETTINGS,
    on_step: Callable[[str, int], None] = lambda title, done: None,
    say: Callable[[str], None] = lambda line: None,
    reward: Callable[..., list[float]] = variety,
) -> FoundModel:
    def stage(title: str, total: int) -> Callable[[int], None]:
        return lambda done: on_step(title, done)

    conversations = load_conversations([questions])
    tuning = CriticTuning(conversations, settings, out, stage, say, reward)
    with one_thread():  # the number of threads changes the order of sums, and processes differ in it
        return tuning.run(find_model(str(model)))


def main(model: str, questions: str, out: str, stop_at: str) -> None:
    def stop(title: str, done: int) -> None:
        if title.startswith("grpo") and done == int(stop_at):
            print("stopped", flush=True)
            sys.stdin.read()

    run(Path(model), Path(questions), Path(out), on_step=stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
