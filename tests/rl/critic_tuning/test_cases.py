"""Explored cases as questions: the form of the agent, and answers from the truth of the same group."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agent.exploration.learning import Explored
from agent.prompts import load_prompt
from agent.prompts.answers import Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.scoring.ranking import label_orders, order_seed
from agent.vlm.embedded.critic import EmbeddedCritic
from agent.vlm.local.constrained_decoding import GrammarCompiler, bound_schema
from agent.vlm.local.model_loading import find_model, load_processor
from agent.vlm.protocol import Capabilities, DataPart, ImagePart, TextPart
from hmr.render.raster import RasterRenderer
from rl.critic_tuning import cases
from rl.critic_tuning.cases import QuestionSettings, questions_of
from rl.critic_tuning.reward import spearman_reward
from tests.agent.critique_case import make_agent
from tests.agent.tools.tool_case import body
from tests.agent.vlm.tiny_vlm import tiny_qwen3_vl
from tests.rl.critic_tuning.explored_cases import Case, explored_cases

UNLIMITED = QuestionSettings(max_images=None)


@pytest.fixture(scope="module")
def case() -> Case:
    return explored_cases()[0]


def ask(case: Case, settings: QuestionSettings = UNLIMITED) -> list[cases.Question]:
    return questions_of(case.explored, case.labelled, case.hypotheses, body(), RasterRenderer(), settings)


class Recorder(EmbeddedCritic):
    """An embedded critic that accepts images and records the questions that it scored."""

    capabilities = Capabilities(images=True)

    def __init__(self):
        super().__init__()
        self.questions = []

    def generate(self, parts, schema, seed):
        if schema["title"] == "score":
            self.questions.append(list(parts))
        return super().generate(parts, schema, seed)


def pictures(parts) -> dict[str, str]:
    return {part.caption: part.sha256 for part in parts if isinstance(part, ImagePart)}


def test_questions_equal_those_of_the_agent_pixel_by_pixel(case):
    backend = Recorder()
    agent = make_agent(backend)
    agent.critique(case.labelled.sample, case.hypotheses)
    seed = order_seed(agent.settings.seed, case.labelled.sample.id)
    orders = label_orders(5, agent.settings.permutations, seed)
    sent = {
        (caption, int(order["ABCDE".index(caption[-1])])): sha
        for parts, order in zip(backend.questions, orders, strict=True)
        for caption, sha in pictures(parts).items()
        if caption.startswith("hypothesis")
    }
    compared = 0
    for question in ask(case, QuestionSettings(label_orders=4, max_images=None)):
        assert pictures(question.parts)["the photograph"] == pictures(backend.questions[0])["the photograph"]
        assert question.parts[0] == TextPart(load_prompt("score").text) == backend.questions[0][0]
        for label, error in zip(question.labels, question.errors_mm, strict=True):
            key = (f"hypothesis {label}", case.explored.errors_mm.index(error))
            if key in sent:
                assert pictures(question.parts)[key[0]] == sent[key]
                compared += 1
    assert compared >= 5


def test_the_stored_inputs_are_used_and_the_errors_are_not_shown(case):
    (question,) = ask(case)
    data = {part.name: part.data for part in question.parts if isinstance(part, DataPart)}
    assert data["rules"] == case.explored.brief.rules
    assert data["tags"] == list(case.explored.brief.tags)
    text = "".join(part.text for part in question.parts if not isinstance(part, ImagePart))
    assert not any(f"{error:.1f}" in text for error in case.explored.errors_mm)


def test_the_true_answer_has_reward_one(case):
    for question in ask(case, QuestionSettings(label_orders=3, max_images=4)):
        completion = [{"role": "assistant", "content": question.answer}]
        rewards = spearman_reward([completion], labels=[question.labels], errors_mm=[question.errors_mm])
        assert rewards == pytest.approx([1.0])


def test_scores_are_spread_over_the_full_range_by_rank(case):
    # five hypotheses: the k-th best gets 100 (1 - k / 4)
    (question,) = ask(case)
    answer = json.loads(question.answer)
    best_first = [answer[question.labels[i]]["score"] for i in np.argsort(question.errors_mm)]
    assert best_first == [100.0, 75.0, 50.0, 25.0, 0.0]


def test_constrained_decoding_could_have_written_the_answer(case, tmp_path):
    """Otherwise a critic would be trained on answers that it can never give."""
    llguidance = pytest.importorskip("llguidance")
    tokenizer = load_processor(find_model(str(tiny_qwen3_vl(tmp_path)))).tokenizer
    grammars = GrammarCompiler(tokenizer, [tokenizer.eos_token_id])
    for question in ask(case, QuestionSettings(max_images=4, comment_chars=60)):
        schema = keyed_by_label("score", Verdict, question.labels).model_json_schema()
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            bound_schema(schema, 60), overrides={"whitespace_flexible": False}
        )
        matcher = llguidance.LLMatcher(grammars.tokens, grammar)
        assert matcher.consume_tokens(tokenizer(question.answer)["input_ids"])
        assert matcher.is_accepting()


def test_a_group_beyond_the_image_limit_is_asked_about_in_chunks(case):
    questions = ask(case, QuestionSettings(max_images=4))
    assert all(len(pictures(question.parts)) == 4 for question in questions)
    assert {error for question in questions for error in question.errors_mm} == set(case.explored.errors_mm)


def test_orders_differ_between_cases_and_depend_on_the_seed():
    def orders(seed: int) -> list[list[int]]:
        found = [
            (case, ask(case, QuestionSettings(max_images=None, seed=seed))[0]) for case in explored_cases()
        ]
        return [[case.explored.errors_mm.index(error) for error in q.errors_mm] for case, q in found]

    first, second = orders(0)
    assert first != second
    assert orders(0) == [first, second] != orders(1)


def evidence(metric: str, values: list[float | None]) -> dict:
    sentences = [f"{metric} of {j}" for j in range(len(values))]
    return {"metric": metric, "values": values, "sentences": sentences}


def test_the_comment_names_the_fault_that_agrees_with_the_truth():
    """Errors 10, 20, 30, 40: `a` ranks as they do (rho 1), `b` in reverse (-1), `c` with one exchange (0.8)."""
    measurements = [
        evidence("a", [1.0, 2.0, 3.0, 4.0]),
        evidence("b", [4.0, 3.0, 2.0, 1.0]),
        evidence("c", [1.0, 2.0, 4.0, 3.0]),
        evidence("d", [None, None, None, None]),
    ]
    explored = Explored("x", Brief(measurements, [], [], []), (None,) * 4, (10.0, 20.0, 30.0, 40.0))
    # hypothesis 0: nothing is below it anywhere that counts, so `a`, nearest to the truth; 1: a 1 * 1/4, c 0.8 * 1/4;
    # 2: a 1 * 2/4, c 0.8 * 3/4 = 0.6; 3: a 1 * 3/4, c 0.8 * 2/4
    assert cases._largest_faults(explored) == ["a of 0", "a of 1", "c of 2", "a of 3"]


def test_another_group_than_the_one_explored_is_refused(case):
    other = replace(explored_cases()[1], explored=case.explored)
    with pytest.raises(ValueError, match=r"are not those explored: their errors are .* mm and were"):
        ask(other)
    fewer = replace(case.hypotheses, params=case.hypotheses.params[:4])
    with pytest.raises(ValueError, match="are not those explored"):
        ask(replace(case, hypotheses=fewer))


def test_a_group_without_truth_is_refused(case):
    blank = replace(case.explored, errors_mm=(50.0,) * 5)
    with pytest.raises(ValueError, match="cannot be trained on: its 5 errors give no ranking"):
        ask(replace(case, explored=blank))


@pytest.mark.parametrize(("field", "value"), [("label_orders", 0), ("max_images", 3)])
def test_invalid_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least"):
        QuestionSettings(**{field: value})
