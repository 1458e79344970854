"""Backends whose scores say nothing about the hypotheses are found out, and train nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from agent.scoring.degenerate import degeneracy_of
from agent.tracing.reading import read_trace
from agent.tracing.records import Trace
from agent.vlm import Capabilities, Reply
from rl.monitoring.metrics import score_metrics
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.scoring.test_scoring import SETTINGS

COUNT = 6


class Liar:
    """A text-only backend that answers every question by the labels: `score` gets the number of a label."""

    name, revision = "liar", "1"
    capabilities = Capabilities(images=False)

    def __init__(self, score) -> None:
        self.score = score

    def generate(self, parts, schema, seed):
        if schema["title"] not in ("score", "reflect"):
            return Reply('{"tags": []}')
        answer = {
            label: {"comment": "x", "score": self.score(number), "uncertain": False, "reason": ""}
            for number, label in enumerate(schema["properties"])
        }
        fields = ("comment", "score") if schema["title"] == "score" else ("uncertain", "reason")
        return Reply(
            json.dumps({label: {key: item[key] for key in fields} for label, item in answer.items()})
        )


LIES = {
    "equal": lambda number: 70,
    "label order": lambda number: 90 - 10 * number,
    "unscored": lambda number: None,
}


@pytest.mark.parametrize("kind", LIES)
def test_a_lying_backend_is_named_in_verdict_and_trace_and_trains_nobody(kind, tmp_path):
    hypotheses = group(spoiled_group(COUNT))
    with Trace(tmp_path / "trace.jsonl") as trace:
        agent = make_agent(Liar(LIES[kind]), settings=SETTINGS, trace=trace)
        critique = agent.critique(sample(), hypotheses)
        scores = agent.score(sample(), hypotheses)
    assert critique.degeneracy == kind
    (records,) = [item.records for item in read_trace(tmp_path).critiques]
    assert [item["outputs"]["degeneracy"] for item in records if "degeneracy" in item["outputs"]] == [kind]
    row = torch.tensor([[np.nan if score is None else score for score in scores]])
    metrics = score_metrics(row, torch.zeros_like(row, dtype=torch.bool), {})
    assert metrics["critic/degenerate_groups"] == 1
    assert len(set(scores)) == 1


@pytest.mark.parametrize("noise", [0.0, 5.0, 30.0])
def test_an_honest_backend_is_not_accused(noise):
    """Groups of 8 with a quality of standard deviation 20, 200 times."""
    random, accused = np.random.default_rng(0), 0
    for _ in range(200):
        quality = random.normal(size=8) * 20
        orders = [random.permutation(8) for _ in range(3)]
        given = [quality + noise * random.normal(size=8) for _ in orders]
        by_label = [[scores[order]] for scores, order in zip(given, orders, strict=True)]
        accused += degeneracy_of(by_label, given) != ""
    assert accused == 0


def test_two_hypotheses_under_one_order_are_not_accused():
    """The labels never changed, so nothing is known about their influence."""
    given = [np.array([80.0, 20.0])] * 3
    assert degeneracy_of([[scores] for scores in given], given) == ""


def test_chunks_are_compared_label_by_label():
    """Two chunks of three labels each, with the same scores by label under two orders."""
    by_label = [[np.array([3.0, 2.0, 1.0]), np.array([9.0, 5.0, 4.0])]] * 2
    by_hypothesis = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([4.0, 1.0, 3.0, 2.0])]
    assert degeneracy_of(by_label, by_hypothesis) == "label order"


def test_groups_that_prefer_something_are_not_counted():
    scores = torch.tensor([[1.0, 2.0], [5.0, 5.0], [np.nan, 3.0], [np.nan, np.nan]])
    assert score_metrics(scores, torch.ones(4, 2, dtype=torch.bool), {})["critic/degenerate_groups"] == 0.75
