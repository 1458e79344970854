"""Rewards of a critic's replies, as worked sums."""

import json

import pytest

from rl.critic_tuning.reward import MALFORMED, has_ranking, spearman_reward, well_formed

ERRORS = [40.0, 60.0, 90.0, 150.0]
LABELS = ["A", "B", "C", "D"]


def reply(scores: dict[str, float]) -> list[dict]:
    verdicts = {label: {"comment": "", "score": score} for label, score in scores.items()}
    return [{"role": "assistant", "content": json.dumps(verdicts)}]


def scored(*scores: float) -> list[dict]:
    return reply(dict(zip(LABELS, scores, strict=True)))


def reward(completion: list[dict], labels=LABELS, errors=ERRORS) -> float | None:
    return spearman_reward([completion], labels=[labels], errors_mm=[errors])[0]


def test_the_true_order_has_reward_one_and_its_reverse_minus_one():
    assert reward(scored(90, 70, 20, 10)) == pytest.approx(1.0)
    assert reward(scored(10, 20, 70, 90)) == pytest.approx(-1.0)


def test_neighbours_exchanged():
    # ranks of the scores 2 1 3 4 against 1 2 3 4: 1 - 6 (1 + 1) / (4 * 15) = 0.8
    assert reward(scored(70, 90, 20, 10)) == pytest.approx(0.8)


def test_a_tie_shares_its_ranks():
    # ranks 1.5 1.5 3 4 against 1 2 3 4, both about 2.5: products 1.5 + 0.5 + 0.25 + 2.25 = 4.5,
    # squares 1 + 1 + 0.25 + 2.25 = 4.5 and 5: 4.5 / sqrt(4.5 * 5) = 0.9487
    assert reward(scored(80, 80, 20, 10)) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_scores_that_are_all_equal_rank_nothing():
    assert reward(scored(50, 50, 50, 50)) == 0.0


MALFORMED_REPLIES = {
    "no JSON": [{"role": "assistant", "content": "The first one looks best to me."}],
    "cut off": [{"role": "assistant", "content": '{"A":{"comment":"","score":90},"B":{"comm'}],
    "nothing": [{"role": "assistant", "content": ""}],
    "a label missing": reply({"A": 90, "B": 70, "C": 20}),
    "a label too many": reply({"A": 90, "B": 70, "C": 20, "D": 10, "E": 0}),
    "a score out of bounds": scored(101, 70, 20, 10),
}


@pytest.mark.parametrize("fault", MALFORMED_REPLIES)
def test_a_malformed_reply_has_less_reward_than_the_worst_ranking(fault):
    assert reward(MALFORMED_REPLIES[fault]) == MALFORMED < -1.0
    assert well_formed([MALFORMED_REPLIES[fault]], labels=[LABELS]) == [0.0]


def test_an_answer_inside_prose_is_an_answer():
    content = f"Let me see. {scored(90, 70, 20, 10)[0]['content']}"
    assert reward([{"role": "assistant", "content": content}]) == pytest.approx(1.0)


@pytest.mark.parametrize("errors", [[40.0], [40.0, 60.0], [40.0, 40.0, 40.0]])
def test_a_group_without_a_ranking_has_no_reward(errors):
    labels = LABELS[: len(errors)]
    assert not has_ranking(errors)
    for completion in (reply(dict.fromkeys(labels, 5.0)), MALFORMED_REPLIES["no JSON"]):
        assert reward(completion, labels, errors) is None


def test_every_reply_is_read_by_the_labels_of_its_own_question():
    """TRL passes a batch of replies to several questions, with additional columns."""
    rewards = spearman_reward(
        [scored(90, 70, 20, 10), reply({"A": 1, "B": 2, "C": 3})],
        labels=[LABELS, LABELS[:3]],
        errors_mm=[ERRORS, [10.0, 20.0, 30.0]],
        case_id=["a", "b"],
        trainer_state=None,
    )
    assert rewards == pytest.approx([1.0, -1.0])
    assert well_formed([scored(1, 2, 3, 4)], labels=[LABELS], case_id=["a"]) == [1.0]
