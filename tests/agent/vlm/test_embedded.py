"""The embedded critic's arithmetic, by worked examples."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agent.vlm import DataPart, EmbeddedCritic, TextPart
from agent.vlm.embedded.critic import REOBSERVED, image_tags, metric_trust, mine
from agent.vlm.embedded.violations import violation
from tests.contracts.test_vlm_backends import questions

LABELS = ["A", "B", "C", "D", "E"]


def metric(values, unit="mm"):
    by_label = dict(zip(LABELS, values, strict=True))
    return {
        "tool": "t",
        "unit": unit,
        "values": by_label,
        "parts": {label: [] for label in LABELS},
        "sentences": {label: f"{label} is off." for label in LABELS},
    }


def rule(name, weight=1.0, threshold=0.0):
    return {
        "id": name,
        "text": f"Mind {name}.",
        "metric": name,
        "comparison": ">",
        "threshold": threshold,
        "weight": weight,
    }


def ask(task, metrics, rules, **data):
    parts = [
        DataPart("evidence", {"labels": LABELS, "metrics": metrics}),
        DataPart("rules", rules),
        DataPart("prototypes", data.pop("prototypes", [])),
        *(DataPart(name, value) for name, value in data.items()),
    ]
    return json.loads(EmbeddedCritic().generate(parts, {"title": task}, seed=0).text)


def test_violation_is_the_excess_over_the_spread_of_the_others():
    # without 10 or 50: 20 30 40 50 about 35, variance 125; without 20 or 40: 218.75; without 30: 250
    values, spread = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.sqrt([125, 218.75, 250, 218.75, 125])
    np.testing.assert_allclose(violation(values, ">", 0.0, "mm"), (values - 30) / spread)
    # above 30: excess 0 0 0 10 20, its median 0
    np.testing.assert_allclose(violation(values, ">", 30.0, "mm"), np.array([0, 0, 0, 10, 20]) / spread)
    np.testing.assert_allclose(violation(values, "<", 30.0, "mm"), np.array([20, 10, 0, 0, 0]) / spread)


def test_an_outlier_does_not_increase_its_own_scale():
    # the others span 3 mm, which is the resolution: (1000 - 2) / 3, clipped to 4
    assert violation(np.array([0.0, 1.0, 2.0, 3.0, 1000.0]), ">", 0.0, "mm")[-1] == 4.0


def test_a_single_value_is_no_violation():
    assert violation(np.array([np.nan, 7.0]), ">", 0.0, "mm").tolist() == [0.0, 0.0]


def test_differences_below_the_resolution_stay_small():
    # spread of the group .015 mm; resolution 3 mm
    values = np.array([100.00, 100.01, 100.02, 100.03])
    assert np.abs(violation(values, ">", 0.0, "mm")).max() < 0.01


def test_a_missing_value_is_no_violation():
    z = violation(np.array([10.0, np.nan, 30.0, 50.0]), ">", 0.0, "mm")
    assert z[1] == 0
    assert violation(np.full(3, np.nan), ">", 0.0, "mm").tolist() == [0, 0, 0]


def test_scores_fall_as_the_violation_grows_and_the_comment_names_the_worst_rule():
    metrics = {"small": metric([1, 2, 3, 4, 5]), "large": metric([10, 20, 30, 40, 90])}
    answer = ask("score", metrics, [rule("small", 0.1), rule("large", 5.0)])
    scores = [answer[label]["score"] for label in LABELS]
    assert scores == sorted(scores, reverse=True)
    assert answer["E"]["comment"] == "E is off: large 90, median of the group 30 (rule: Mind large)."
    assert answer["A"]["comment"] == "No rule finds it clearly worse than the group."


def test_the_comment_does_not_praise_what_cost_the_score():
    """The last one is worst, and still without a fault."""
    faults = {"large": metric([10, 20, 30, 40, 90])}
    faults["large"]["parts"] = {label: [] if label == "E" else ["torso"] for label in LABELS}
    answer = ask("score", faults, [rule("large", 5.0)])
    assert (
        answer["E"]["comment"] == "Worse than its group: large 90, median of the group 30 (rule: Mind large)."
    )


def test_the_comment_names_the_metric_that_cost_most_in_all():
    metrics = {"one": metric([1, 2, 3, 4, 9]), "two": metric([1, 2, 3, 4, 9])}
    # spread 3 (the resolution): penalties (9 - 3) / 3 + (9 - 5) / 3 = 3.3 against 1.5 (9 - 3) / 3 = 3
    rules = [rule("one"), rule("one", threshold=5.0), rule("two", 1.5)]
    same_jitter = [{**item, "id": "any"} for item in rules]
    comment = ask("score", metrics, same_jitter)["E"]["comment"]
    assert comment.startswith("E is off: one 9, median of the group 3 ")


def test_a_rule_about_a_metric_without_values_is_not_applied():
    metrics = {"seen": metric([1, 2, 3, 4, 50])}
    assert ask("score", metrics, [rule("seen"), rule("unseen")]) == ask("score", metrics, [rule("seen")])


def test_without_an_applicable_rule_there_is_no_score():
    with pytest.raises(ValueError, match="no retrieved rule applies"):
        ask("score", {"seen": metric([1, 2, 3, 4, 5])}, [rule("unseen")])


def test_trust_is_the_similarity_weighted_agreement_on_explored_cases():
    prototypes = [
        {"similarity": 0.9, "weights": {"a": 0.8, "b": 0.2}},
        {"similarity": 0.3, "weights": {"a": 0.0, "b": 0.2}},
    ]
    # a: (.9 * .8 + .3 * 0) / 1.2 = .6; b: .2; mean .4 -> 1.5 and .5; no prototype has c
    assert metric_trust(prototypes, ["a", "b", "c"]) == pytest.approx({"a": 1.5, "b": 0.5, "c": 1.0})
    assert metric_trust([], ["a"]) == {"a": 1.0}


def test_prototypes_shift_the_ranking_towards_the_trusted_metric():
    metrics = {"a": metric([1, 20, 30, 40, 50]), "b": metric([50, 40, 30, 20, 1])}
    rules = [rule("a"), rule("b", 1.2)]
    trusting_a = [{"similarity": 0.9, "weights": {"a": 0.9, "b": 0.0}}]
    answer = ask("score", metrics, rules, prototypes=trusting_a)
    assert answer["A"]["score"] > answer["E"]["score"]


def test_reflection_doubts_unstable_ranks_and_contradicted_scores():
    metrics = {"a": metric([1, 2, 3, 4, 5])}
    second = {"c": metric([90, 20, 30, 40, 50])}
    scores = {"A": 90, "B": 80, "C": 70, "D": 60, "E": 50}
    stds = {"A": 0, "B": 0, "C": 3.0, "D": 0, "E": 0}
    answer = ask(
        "reflect", metrics, [], scores=scores, rank_std=stds, later_evidence=second, dispersion_threshold=2.0
    )
    # A is first by score and last (place 5) by the new measurements; C moves by 3 places
    assert answer["A"]["reason"] == "ranked 1, but 5 by the new measurements"
    assert answer["C"]["reason"].startswith("its rank moves by 3.0 places")
    # and with them the whole group: a photograph that is measured again may change every score
    assert all(answer[label]["uncertain"] for label in LABELS)
    assert {answer[label]["reason"] for label in "BDE"} == {REOBSERVED}


def test_reflection_doubts_nothing_if_the_new_measurements_agree():
    metrics = {"a": metric([1, 2, 3, 4, 5])}
    answer = ask(
        "reflect", metrics, [], scores=dict(zip(LABELS, [90, 80, 70, 60, 50], strict=True)),
        rank_std=dict.fromkeys(LABELS, 0.5), later_evidence={"c": metric([10, 20, 30, 40, 50])},
        dispersion_threshold=2.0,
    )  # fmt: skip
    assert not any(answer[label]["uncertain"] or answer[label]["reason"] for label in LABELS)


def test_a_revision_replaces_the_first_measurements_by_the_new_ones():
    first, again = metric([50, 40, 30, 20, 10]), metric([10, 20, 30, 40, 50])
    unknown_before = metric([50, 40, 30, 20, 10])
    doubts = dict.fromkeys(LABELS, "read again")
    revised = ask(
        "revise", {"a": first}, [rule("a"), rule("b")], uncertain=doubts,
        later_evidence={"a": again, "b": unknown_before},
    )  # fmt: skip
    scores = [revised[label]["score"] for label in LABELS]
    # by `again`; the rule on b has no effect, as b was not measured before
    assert scores == sorted(scores, reverse=True)
    assert set(ask("revise", {"a": first}, [rule("a")], uncertain={"B": "why"}, later_evidence={})) == {"B"}


def test_mining_finds_the_metric_and_threshold_that_separate():
    over, under = [11.0, 12, 13, 14, 15, 16, 17, 18], [1.0, 2, 3, 4, 5, 6, 7, 8]
    mixed = [1.0, 2, 3, 4, 1, 2, 3, 4]
    discrepancy = {"tags": ["pose:bent"], "metrics": {"clear": {"over": over, "under": under},
                                                      "dull": {"over": mixed, "under": mixed}}}  # fmt: skip
    (found,) = mine(discrepancy)
    # every over-ranked value lies above 8, no under-ranked one; log odds (8.5 * 8.5) / (.5 * .5) = 5.67 -> 3
    assert (found["metric"], found["threshold"], found["weight"]) == ("clear", 8.0, 3.0)
    assert found["tags"] == ["pose:bent"]


def test_mining_finds_no_rule_in_few_hypotheses():
    assert mine({"tags": [], "metrics": {"clear": {"over": [9.0] * 7, "under": [1.0] * 7}}}) == []


@pytest.mark.parametrize(
    ("change", "tag"),
    [
        ({"confidence": {"legs": 0.1, "arms": 0.9}}, "occluded:legs"),
        ({"outside": {"bottom": 0.2, "top": 0.0}}, "truncated:bottom"),
        ({"torso_tilt_deg": 80.0}, "pose:lying"),
        ({"hip_flexion_deg": 90.0}, "pose:sitting"),
        ({"torso_tilt_deg": 45.0}, "pose:bent"),
        ({}, "pose:upright"),
        ({"facing_z": 0.9}, "facing:away"),
        ({"facing_z": -0.9}, "facing:camera"),
        ({"wrist_above_shoulder_mm": 200}, "arms:raised"),
        ({"box_px": 40.0}, "resolution:low"),
    ],
)
def test_tags_come_from_facts(change, tag):
    facts = {"confidence": {}, "outside": {}, "torso_tilt_deg": 0.0, "hip_flexion_deg": 0.0, "facing_z": 0.0}
    facts |= {"wrist_above_shoulder_mm": -300, "box_px": 300.0}
    assert tag in image_tags(facts | change)


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise", "mine"])
def test_the_wording_of_a_question_has_no_effect(task):
    """Only the data of the parts is read: neither the prompt nor the formatted text."""
    parts, schema, seed = questions()[task]
    reworded = [
        replace(part, text=f"Other words. {part.text[::-1]}") if isinstance(part, TextPart)
        else replace(part, formatted="other text") if isinstance(part, DataPart)
        else part
        for part in parts
    ]  # fmt: skip
    assert [part.sha256 for part in reworded] != [part.sha256 for part in parts]
    critic = EmbeddedCritic()
    assert critic.generate(reworded, schema, seed).text == critic.generate(parts, schema, seed).text
