"""Scoring a group: concurrent questions, and groups larger than one question."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from agent.agent import critique_many
from agent.context import CritiqueSettings
from agent.pictures.panels import Views
from agent.prompts.question import Brief
from agent.scoring.ranking import order_seed
from agent.scoring.scoring import score_group
from agent.types import lost_questions
from agent.vlm import Capabilities, DataPart, EmbeddedCritic, ImagePart, Reply
from tests.agent.critique_case import group, make_agent, sample, spoiled_group

COUNT = 20
QUALITY = np.random.default_rng(5).permutation(COUNT) * 4.0
WAIT_S = 60.0  # for the last thread at a barrier; only a failing test waits that long
SETTINGS = CritiqueSettings(view_size_px=64)
SECOND = order_seed(SETTINGS.seed, "case") + 1  # of the second label order


def brief(shown: bool = True) -> Brief:
    """Evidence with one metric, the index of each hypothesis."""
    values = list(map(float, range(COUNT)))
    evidence = {
        "tool": "t",
        "metric": "number_1",
        "unit": "1",
        "values": values,
        "parts": [()] * COUNT,
        "sentences": [""] * COUNT,
    }
    pixels = np.zeros((8, 8, 3), np.uint8)
    views = [Views(pixels, pixels)] * COUNT if shown else []
    return Brief([evidence], [], [], [], ImagePart(b"", "the photograph") if shown else None, views)


class Consistent:
    """Scores in a fixed order, on a scale that changes from question to question."""

    name, revision = "consistent", "1"

    def __init__(self, max_images: int | None, concurrency: int = 1) -> None:
        self.capabilities = Capabilities(images=True, max_images=max_images, concurrency=concurrency)
        self.images: list[int] = []

    def generate(self, parts, schema, seed):
        self.images.append(sum(isinstance(part, ImagePart) for part in parts))
        (evidence,) = [part.data for part in parts if isinstance(part, DataPart) and part.name == "evidence"]
        rng = np.random.default_rng([seed, len(evidence["labels"])])
        stretch, shift = rng.uniform(0.3, 1), rng.uniform(0, 20)
        numbers = evidence["metrics"]["number_1"]["values"]
        return Reply(
            json.dumps(
                {
                    label: {"comment": f"number {int(j)}", "score": stretch * QUALITY[int(j)] + shift}
                    for label, j in numbers.items()
                }
            )
        )


@pytest.mark.parametrize("max_images", [None, 30, 9, 6])
def test_the_order_of_a_consistent_backend_is_recovered_for_any_image_limit(max_images):
    judge = Consistent(max_images)
    result = score_group(judge, brief(), COUNT, SETTINGS, "case")
    assert np.argsort(result.scores).tolist() == np.argsort(QUALITY).tolist()
    assert result.comments == tuple(f"number {j}" for j in range(COUNT))
    assert set(result.rank_std) == {0.0}
    assert max(judge.images) <= (max_images or COUNT + 1)


def test_without_images_the_whole_group_is_one_question():
    judge = Consistent(3)
    score_group(judge, brief(shown=False), COUNT, SETTINGS, "case")
    assert judge.images == [0, 0, 0]


def test_a_limit_below_two_hypotheses_is_a_reason():
    judge = Consistent(2)
    result = score_group(judge, brief(), COUNT, SETTINGS, "case")
    assert result.scores == (None,) * COUNT
    assert "too few to compare" in result.reason
    assert judge.images == []


def test_threads_do_not_change_the_result():
    alone = score_group(Consistent(9), brief(), COUNT, SETTINGS, "case")
    together = score_group(Consistent(9, concurrency=8), brief(), COUNT, SETTINGS, "case")
    assert [reply["text"] for reply in together.replies] == [reply["text"] for reply in alone.replies]
    assert replace(together, replies=()) == replace(alone, replies=())


def test_an_order_with_a_chunk_that_fails_is_left_out():
    class FailsOnce(Consistent):
        def generate(self, parts, schema, seed):
            if seed == SECOND and len(self.images) == 5:  # its second chunk of four
                self.images.append(0)
                raise ConnectionError("gone")
            return super().generate(parts, schema, seed)

    result = score_group(FailsOnce(9), brief(), COUNT, SETTINGS, "case")
    assert None not in result.scores
    assert [reply["error"] for reply in result.replies if "error" in reply] == [
        "consistent failed: ConnectionError: gone"
    ]
    counts = result.questions
    assert (counts.asked - counts.answered, counts.lost) == (1, 1)
    assert lost_questions(counts, result.failures).endswith(
        "lost score: consistent failed: ConnectionError: gone"
    )


class Together(EmbeddedCritic):
    """Answers a task only when the given number of its questions are waiting concurrently."""

    def __init__(self, concurrency: int, **waiting: int) -> None:
        self.capabilities = Capabilities(concurrency=concurrency)
        self.barriers = {task: threading.Barrier(count, timeout=WAIT_S) for task, count in waiting.items()}

    def generate(self, parts, schema, seed):
        self.barriers[schema["title"]].wait()
        return super().generate(parts, schema, seed)


def test_the_label_orders_of_a_group_are_asked_concurrently():
    backend = Together(concurrency=3, tag=1, score=3, reflect=1, revise=1)
    assert None not in make_agent(backend).score(sample(), group(spoiled_group()))


def test_eight_groups_are_critiqued_concurrently_with_all_their_label_orders():
    backend = Together(concurrency=24, tag=8, score=24, reflect=1, revise=1)
    groups = [(sample(f"case-{n}"), group(spoiled_group(seed=n))) for n in range(8)]
    verdicts = list(critique_many(make_agent(backend), groups))
    alone = [make_agent().critique(*pair) for pair in groups]
    assert [verdict.scores for verdict in verdicts] == [verdict.scores for verdict in alone]
    assert [verdict.sample_id for verdict in verdicts] == [f"case-{n}" for n in range(8)]


def test_a_backend_without_concurrency_is_called_from_one_thread():
    threads = set()

    class Recording(EmbeddedCritic):
        def generate(self, parts, schema, seed):
            threads.add(threading.current_thread())
            return super().generate(parts, schema, seed)

    groups = [(sample(f"case-{n}"), group(spoiled_group(seed=n))) for n in range(2)]
    assert len(list(critique_many(make_agent(Recording()), groups))) == 2
    assert len(threads) == 1


def test_groups_are_taken_as_needed():
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield sample(), group(spoiled_group())

    backend = Together(concurrency=2, tag=1, score=1, reflect=1, revise=1)
    verdicts = critique_many(make_agent(backend), endless())
    next(verdicts)
    verdicts.close()
    assert drawn == 4
