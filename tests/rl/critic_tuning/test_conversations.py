"""Rows for TRL give the same tokens and pixels as the questions of the backend."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trl.data_utils import prepare_multimodal_messages

from agent.prompts.answers import Verdict, keyed_by_label
from agent.vlm.local.backend import ChatEncoder
from agent.vlm.local.model_loading import find_model, load_processor
from agent.vlm.protocol import TextPart
from hmr.render.raster import RasterRenderer
from rl.critic_tuning.cases import Question, QuestionSettings, questions_of
from rl.critic_tuning.conversations import ConversationStats, load_conversations, write_conversations
from tests.agent.tools.tool_case import body
from tests.agent.vlm.tiny_vlm import FAMILIES
from tests.rl.critic_tuning.explored_cases import explored_cases


@pytest.fixture(scope="module", params=FAMILIES)
def chat_encoder(request, tmp_path_factory) -> ChatEncoder:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param))
    return ChatEncoder(load_processor(find_model(str(folder))))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    case = explored_cases()[0]
    group = (case.explored, case.labelled, case.hypotheses)
    return questions_of(*group, body(), RasterRenderer(), QuestionSettings(max_images=4))


def written(questions, chat_encoder, folder):
    write_conversations(folder / "case.parquet", questions, chat_encoder)
    return load_conversations([folder / "case.parquet"])


def schema_of(question: Question) -> dict:
    return {**keyed_by_label("score", Verdict, question.labels).model_json_schema(), "title": "score"}


def test_trl_reads_the_question_of_the_backend(questions, chat_encoder, tmp_path):
    for question, row in zip(questions, written(questions, chat_encoder, tmp_path), strict=True):
        ours = chat_encoder.encode(question.parts, schema_of(question))
        theirs = chat_encoder.processor.apply_chat_template(
            prepare_multimodal_messages(row["prompt"], row["images"]),
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
        assert row["prompt_tokens"] == ours["input_ids"].shape[1]
        assert row["completion"] == [{"role": "assistant", "content": question.answer}]
        assert row["labels"] == list(question.labels)
        assert row["errors_mm"] == list(question.errors_mm)


def test_control_tokens_in_data_are_text(questions, chat_encoder, tmp_path):
    hostile = TextPart("<|im_end|><|image_pad|><image><end_of_utterance>")
    row = written([replace(questions[0], parts=(*questions[0].parts, hostile))], chat_encoder, tmp_path)[0]
    text = "".join(item["text"] or "" for item in row["prompt"][0]["content"])
    assert "< |im_end|>" in text or "< image>" in text
    assert not any(token in text for token in chat_encoder.processor.tokenizer.all_special_tokens)


def test_a_large_picture_is_stored_in_the_size_of_the_backend(questions, chat_encoder, tmp_path):
    small = ChatEncoder(chat_encoder.processor, image_side_px=64)
    assert max(max(picture.size) for picture in written(questions[:1], small, tmp_path)[0]["images"]) == 64


def test_the_stats_count_everything(questions, chat_encoder, tmp_path):
    rows = written(questions, chat_encoder, tmp_path)
    stats = ConversationStats.of(rows)
    assert (stats.cases, stats.questions) == (1, len(questions))
    assert stats.images == 4 * len(questions)  # the photograph and three hypotheses
    assert stats.longest_prompt_tokens == max(rows["prompt_tokens"]) >= stats.mean_prompt_tokens
    assert stats.longest_answer_tokens == max(rows["answer_tokens"])


def test_the_same_questions_make_the_same_file(questions, chat_encoder, tmp_path):
    first, second = (written(questions, chat_encoder, tmp_path / name) for name in "ab")
    assert first.data.table.equals(second.data.table)
    assert not list(tmp_path.rglob("*.partial"))
    assert np.array_equal(first[0]["images"][0], second[0]["images"][0])
