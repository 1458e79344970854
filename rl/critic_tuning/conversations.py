"""Stores questions as conversations in the format of TRL's trainers, one Parquet file per case.

| column                                | content                                                              |
|---------------------------------------|----------------------------------------------------------------------|
| prompt                                | one user turn: texts, and a placeholder for every picture            |
| images                                | the pictures, in the order of their placeholders                     |
| completion                            | the true answer, for SFT                                             |
| labels, errors_mm                     | for the reward; they are never part of the prompt                    |
| case_id, prompt_tokens, answer_tokens | for inspection, and to estimate the cost of a run                    |

Text, sanitising and picture sizes are those of the backend (`agent.vlm.local.backend.ChatEncoder`), so a critic is
trained on the input that it gets later. Files appear complete or not at all, and are not written again after a kill.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from PIL.Image import Image as Picture

from agent.prompts.answers import Verdict, keyed_by_label
from agent.vlm.local.backend import ChatEncoder
from common.storage.files import PathLike, atomic_path
from rl.critic_tuning.cases import Question

__all__ = ["ConversationStats", "load_conversations", "write_conversations"]

Json = dict[str, Any]

FEATURES = Features(
    {
        "case_id": Value("string"),
        "prompt": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        "images": List(Image()),
        "completion": List({"role": Value("string"), "content": Value("string")}),
        "labels": List(Value("string")),
        "errors_mm": List(Value("float64")),
        "prompt_tokens": Value("int32"),
        "answer_tokens": Value("int32"),
    }
)


@dataclass(frozen=True)
class ConversationStats:
    """Size of the training data; token counts include pictures."""

    cases: int
    questions: int
    images: int
    mean_prompt_tokens: int
    longest_prompt_tokens: int
    longest_answer_tokens: int

    @staticmethod
    def of(conversations: Dataset) -> ConversationStats:
        columns: Any = conversations.select_columns(["case_id", "prompt_tokens", "answer_tokens"])[:]
        pictures = cast(pa.Table, conversations.with_format("arrow")[:])["images"]
        return ConversationStats(
            len(set(columns["case_id"])),
            len(conversations),
            sum(len(chunk.flatten()) for chunk in pictures.chunks),
            round(sum(columns["prompt_tokens"]) / len(conversations)),
            max(columns["prompt_tokens"]),
            max(columns["answer_tokens"]),
        )


def write_conversations(path: PathLike, questions: Sequence[Question], chat_encoder: ChatEncoder) -> None:
    """Write the questions of one case."""
    rows = [_row(question, chat_encoder) for question in questions]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema), partial)


def load_conversations(paths: Sequence[PathLike]) -> Dataset:
    """The rows of the files, in the order given."""
    return Dataset(pa.concat_tables([pq.read_table(path) for path in paths]))


def _row(question: Question, chat_encoder: ChatEncoder) -> Json:
    model = keyed_by_label("score", Verdict, question.labels)
    schema = {**model.model_json_schema(), "title": "score"}
    (turn,) = chat_encoder.messages(question.parts, schema)
    tokens = chat_encoder.encode(question.parts, schema)["input_ids"]
    return {
        "case_id": question.case_id,
        "prompt": [{"role": turn["role"], "content": [_placeholder(item) for item in turn["content"]]}],
        "images": [{"bytes": _png(item["image"])} for item in turn["content"] if item["type"] == "image"],
        "completion": [{"role": "assistant", "content": question.answer}],
        "labels": list(question.labels),
        "errors_mm": list(question.errors_mm),
        "prompt_tokens": tokens.shape[1],
        "answer_tokens": len(chat_encoder.processor.tokenizer(question.answer)["input_ids"]),
    }


def _placeholder(item: Json) -> Json:
    return {"type": item["type"], "text": item.get("text")}


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
