"""Thinking, endings and error messages in the forms of several servers and templates."""

import pytest

from agent.vlm.messages import error_message, finish_of, read_message, split_thinking

TAGGED = {
    "none": ("answer", "answer", ""),
    "closed": ("<think>draft</think>answer", "answer", "draft"),
    "other names": ("<Thinking>draft</Thinking>\n\nanswer", "answer", "draft"),
    "opened by the template": ("draft</think>answer", "answer", "draft"),
    "cut off": ("<think>draft", "", "draft"),
    "answer first": ("answer<think>draft", "answer", "draft"),
    "twice": ("<think>one</think>answer<think>two</think>", "answer", "one\ntwo"),
    "nested": ("<think>one<think>two</think>three</think>answer", "answer", "one\ntwo\nthree"),
    "empty": ("<think>\n\n</think>\n\nanswer", "answer", ""),
    "Magistral": ("[THINK]draft[/THINK]answer", "answer", "draft"),
    "Kimi": ("◁think▷draft◁/think▷answer", "answer", "draft"),
    "gpt-oss": (
        "<|channel|>analysis<|message|>draft<|end|><|start|>assistant<|channel|>final<|message|>answer",
        "answer",
        "draft<|end|><|start|>assistant",
    ),
    "gpt-oss, cut off": ("<|channel|>analysis<|message|>draft", "", "draft"),
}


@pytest.mark.parametrize(("text", "answer", "thinking"), TAGGED.values(), ids=TAGGED)
def test_thinking_in_tags(text, answer, thinking):
    assert split_thinking(text) == (answer, thinking)


def test_the_same_thinking_in_two_fields_is_kept_once():
    message = {"content": "a", "reasoning": "draft", "reasoning_details": [{"type": "x", "text": "draft"}]}
    assert read_message(message).thinking == "draft"


def test_unknown_parts_are_not_part_of_the_answer():
    parts = [
        "a",
        {"type": "output_text", "text": "b"},
        {"type": "reasoning", "summary": [{"text": "draft"}]},
        3,
    ]
    message = read_message({"content": parts})
    assert (message.text, message.thinking, message.refusal) == ("ab", "draft", "")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", ""), ("length", "length"), ("MAX_TOKENS", "length"), ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"), ("refusal", "refusal"), (None, ""), (3, ""),
    ],
)  # fmt: skip
def test_why_an_answer_ended(reason, finish):
    assert finish_of(reason) == finish


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "bad"}}', "bad"),
        ('{"error": {"message": "bad", "param": "seed"}}', "bad (seed)"),
        ('{"error": {"message": "no seed", "param": "seed"}}', "no seed"),
        ('{"error": "bad"}', "bad"),
        ('{"detail": [{"msg": "bad"}]}', '[{"msg": "bad"}]'),
        ('{"message": "bad"}', "bad"),
        ("[1]", ""),
        ("oops", ""),
        ("{", ""),
    ],
)
def test_the_message_of_an_error(body, message):
    assert error_message(body) == message


def test_many_stray_tags_take_linear_time():
    """A reply of 2 MB; quadratic time would be minutes, and no time is asserted."""
    assert split_thinking("[/THINK]" * 250_000) == ("", "")
    answer, thinking = split_thinking("a [/THINK]" * 200_000 + "b")
    assert (answer, thinking.count("a")) == ("b", 200_000)
