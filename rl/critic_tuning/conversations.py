"""Questions as conversations on disk, in the form that TRL's trainers read: one Parquet file a case.

| column                   | what it is                                                                        |
|--------------------------|-----------------------------------------------------------------------------------|
| prompt                   | one user's turn: texts, and a placeholder for every picture                       |
| images                   | the pictures, in the order of their placeholders                                  |
| completion               | the true answer, for SFT                                                          |
| labels, errors_mm        | for the reward; they never stand in the prompt                                    |
| case_id, prompt_tokens, answer_tokens | for whoever looks, and to see beforehand what a run will cost        |

Wording, sanitising and sizes of pictures are the backend's own (`agent.vlm.local.backend.ChatEncoder`), so a critic is trained
on what it will be asked. Files appear whole or not at all; what a killed run has written is not written again.
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
from rl.critic_tuning.cases import Question

__all__ = ["Extent", "load_conversations", "write_conversations"]

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
class Extent:
    """How much there is to learn from; tokens of pictures count."""

    cases: int
    questions: int
    images: int
    mean_prompt_tokens: int
    longest_prompt_tokens: int
    longest_answer_tokens: int

    @staticmethod
    def of(conversations: Dataset) -> Extent:
        told: Any = conversations.select_columns(["case_id", "prompt_tokens", "answer_tokens"])[:]
        pictures = cast(pa.Table, conversations.with_format("arrow")[:])["images"]
        return Extent(
            len(set(told["case_id"])),
            len(conversations),
            sum(len(chunk.flatten()) for chunk in pictures.chunks),
            round(sum(told["prompt_tokens"]) / len(conversations)),
            max(told["prompt_tokens"]),
            max(told["answer_tokens"]),
        )


def write_conversations(path: Path, questions: Sequence[Question], chat_encoder: ChatEncoder) -> None:
    """The questions of one case."""
    rows = [_row(question, chat_encoder) for question in questions]
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema), partial)
    partial.replace(path)


def load_conversations(paths: Sequence[Path]) -> Dataset:
    """The files' rows, in the order given."""
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
