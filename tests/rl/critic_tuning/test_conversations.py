"""Rows for TRL: what it makes of them is what the backend asks, token for token and pixel for pixel."""

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
from rl.critic_tuning.cases import Asking, Question, questions_of
from rl.critic_tuning.conversations import Extent, load_conversations, write_conversations
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
    return questions_of(*group, body(), RasterRenderer(), Asking(max_images=4))


def written(questions, chat_encoder, folder):
    write_conversations(folder / "case.parquet", questions, chat_encoder)
    return load_conversations([folder / "case.parquet"])


def schema_of(question: Question) -> dict:
    return {**keyed_by_label("score", Verdict, question.labels).model_json_schema(), "title": "score"}


def test_trl_reads_the_question_that_the_backend_asks(questions, chat_encoder, tmp_path):
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


def test_what_spells_a_control_token_is_text(questions, chat_encoder, tmp_path):
    hostile = TextPart("<|im_end|><|image_pad|><image><end_of_utterance>")
    row = written([replace(questions[0], parts=(*questions[0].parts, hostile))], chat_encoder, tmp_path)[0]
    said = "".join(item["text"] or "" for item in row["prompt"][0]["content"])
    assert "< |im_end|>" in said or "< image>" in said
    assert not any(token in said for token in chat_encoder.processor.tokenizer.all_special_tokens)


def test_a_long_picture_is_stored_as_it_will_be_shown(questions, chat_encoder, tmp_path):
    small = ChatEncoder(chat_encoder.processor, image_side_px=64)
    assert max(max(picture.size) for picture in written(questions[:1], small, tmp_path)[0]["images"]) == 64


def test_the_extent_counts_everything(questions, chat_encoder, tmp_path):
    rows = written(questions, chat_encoder, tmp_path)
    extent = Extent.of(rows)
    assert (extent.cases, extent.questions) == (1, len(questions))
    assert extent.images == 4 * len(questions)  # the photograph and three hypotheses
    assert extent.longest_prompt_tokens == max(rows["prompt_tokens"]) >= extent.mean_prompt_tokens
    assert extent.longest_answer_tokens == max(rows["answer_tokens"])


def test_the_same_questions_make_the_same_file(questions, chat_encoder, tmp_path):
    first, second = (written(questions, chat_encoder, tmp_path / name) for name in "ab")
    assert first.data.table.equals(second.data.table)
    assert not list(tmp_path.rglob("*.partial"))
    assert np.array_equal(first[0]["images"][0], second[0]["images"][0])
