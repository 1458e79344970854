"""The reply cache, recordings, the budget and the dry run."""

import json
from dataclasses import replace

import pytest

from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import ask
from agent.vlm import Capabilities, EmbeddedCritic, ImagePart, Reply, TextPart, VLMBackend, load_backend
from agent.vlm.options import BackendOptions
from agent.vlm.replay import Recorder
from agent.vlm.wrappers.budget import Budget, BudgetSpent, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from agent.vlm.wrappers.dry_run import DryRun
from agent.vlm.wrappers.wrapper import Wrapper, question_key
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.closing import assert_close_waits

MODEL = keyed_by_label("score", Verdict, ["A"])
SCHEMA = {"title": "score", "properties": {"A": {}}}
JUDGE = [TextPart("judge")]


class Counting:
    """Answers with the scores 1, 2, 3, ..., after the texts of `words`."""

    capabilities = Capabilities(images=True, max_images=5, sends_to="far.away")

    def __init__(self, *words: str, name: str = "counting", revision: str = "1") -> None:
        self.name, self.revision, self.words, self.calls = name, revision, list(words), 0

    def generate(self, parts, schema, seed):
        self.calls += 1
        if self.words:
            return Reply(self.words.pop(0))
        return Reply(json.dumps({"A": {"comment": "", "score": self.calls}}), 1.5, 10, 20)


def score(backend, parts=JUDGE, seed=0):
    answer = ask(backend, "score", parts, MODEL, seed)
    return answer.value and answer.value.A.score


@pytest.fixture
def cache(tmp_path):
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        yield cache


def test_closing_waits_for_a_query_of_another_thread(cache):
    assert_close_waits(cache._connection, lambda: cache.get("key"), cache.close)


def test_a_second_run_asks_only_the_missing_questions(cache):
    first, second = Counting(), Counting()
    assert [score(Cached(first, cache), seed=n) for n in (0, 1)] == [1, 2]
    assert [score(Cached(second, cache), seed=n) for n in (0, 1, 2)] == [1, 2, 1]
    assert (first.calls, second.calls) == (2, 1)


OTHERS = {
    "another model": (Counting(name="other"), JUDGE, 0),
    "another revision or setting": (Counting(revision="2"), JUDGE, 0),
    "other words": (Counting(), [TextPart("judge well")], 0),
    "another kind of part": (Counting(), [ImagePart(b"judge")], 0),
    "another seed": (Counting(), JUDGE, 1),
}


@pytest.mark.parametrize(("backend", "parts", "seed"), OTHERS.values(), ids=OTHERS)
def test_a_cached_answer_is_not_used_for_another_question(backend, parts, seed, cache):
    score(Cached(Counting("junk", "junk"), cache))
    score(Cached(Counting(), cache))
    score(Cached(backend, cache), parts, seed)
    assert backend.calls == 1


def test_the_key_includes_captions():
    keys = {
        question_key("n", "1", [ImagePart(b"png", caption)], SCHEMA, 0) for caption in ("hypothesis A", "B")
    }
    assert len(keys) == 2


def test_only_valid_answers_are_stored_including_repaired_ones(cache):
    assert score(Cached(Counting("junk", "junk"), cache)) is None
    assert len(cache) == 0
    assert score(Cached(Counting("junk"), cache)) == 2
    again = Counting()
    assert score(Cached(again, cache)) == 2
    assert again.calls == 0


LONE_SURROGATE = '\ud83d {"A": {"comment": "", "score": 5}}'


def test_a_lone_surrogate_is_recorded_and_cached_in_encodable_form(cache, tmp_path):
    path = tmp_path / "replies.jsonl"
    with Recorder(Counting(LONE_SURROGATE), path) as recorder:
        assert score(Cached(recorder, cache)) == 5
    silent = Counting()
    assert score(Cached(silent, cache)) == score(load_backend(f"replay:{path}")) == 5
    assert silent.calls == 0


def test_a_damaged_cache_asks_the_question(tmp_path):
    path = tmp_path / "replies.sqlite"
    with ReplyCache(path) as cache:
        for number in range(50):
            score(Cached(Counting(), cache), seed=number)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with ReplyCache(path) as cache:
        backend = Cached(Counting(), cache)
        assert [score(backend, seed=number) for number in (0, 1)] == [1, 2]


def test_a_failed_cache_write_is_only_a_warning(tmp_path):
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        backend = Cached(Counting(), cache)
        backend.generate = backend.inner.generate  # answers do not need the cache
    answer = ask(backend, "score", JUDGE, MODEL, 0)
    assert answer.value.A.score == 1
    assert answer.replies[0]["warning"].startswith("not kept: ProgrammingError")


def test_a_file_that_is_not_a_cache_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look at " * 50)
    with pytest.raises(ValueError, match="not a reply cache"):
        ReplyCache(tmp_path / "notes.txt")


def test_a_recording_is_replayed_without_the_backend(tmp_path):
    path = tmp_path / "replies.jsonl"
    live = Counting("junk")
    with Recorder(live, path) as recorder:
        recorded = [score(recorder, seed=n) for n in (0, 1)]
    replay = load_backend(f"replay:{path}")
    assert [score(replay, seed=n) for n in (0, 1)] == recorded == [2, 3]
    assert (replay.name, replay.revision) == ("counting", "1")
    assert replay.capabilities == Capabilities(images=True, max_images=5)  # but nothing is sent
    assert "no reply on file" in ask(replay, "score", JUDGE, MODEL, 7).reason
    assert isinstance(replay, VLMBackend)


def test_a_whole_critique_is_replayed(tmp_path):
    path = tmp_path / "replies.jsonl"
    hypotheses = group(spoiled_group())
    with Recorder(EmbeddedCritic(), path) as recorder:
        expected = make_agent(recorder).score(sample(), hypotheses)
    assert make_agent(load_backend(f"replay:{path}")).score(sample(), hypotheses) == expected


def test_a_recording_with_an_incomplete_last_line_is_continued(tmp_path):
    path = tmp_path / "replies.jsonl"
    with Recorder(Counting(), path) as recorder:
        score(recorder, seed=0)
        score(recorder, seed=1)
    path.write_bytes(path.read_bytes()[:-10])
    with Recorder(Counting(), path) as recorder:
        score(recorder, seed=2)
    replay = load_backend(f"replay:{path}")
    assert [score(replay, seed=n) for n in (0, 1, 2)] == [1, None, 1]


def test_two_backends_do_not_share_a_recording(tmp_path):
    path = tmp_path / "replies.jsonl"
    Recorder(Counting(), path).close()
    with pytest.raises(ValueError, match="has replies of counting, not of other 1"):
        Recorder(Counting(name="other"), path)


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", '{"recording": 99}\n'])
def test_a_file_that_is_not_a_recording_is_refused(text, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match="not a recording"):
        load_backend(f"replay:{tmp_path / 'file'}")


def test_a_file_with_other_content_is_not_overwritten(tmp_path):
    (tmp_path / "notes").write_text("mine, without an end of line")
    with pytest.raises(ValueError, match="not a recording"):
        Recorder(Counting(), tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine, without an end of line"


def test_a_missing_recording_is_refused_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_backend("replay:nowhere")


def test_questions_beyond_the_budget_have_a_reason():
    live = Counting()
    backend = with_budget(live, Budget(2))
    assert [score(backend, seed=n) for n in range(3)] == [1, 2, None]
    assert live.calls == 2
    assert "the budget of 2 calls is spent" in ask(backend, "score", JUDGE, MODEL, 9).reason


def test_cached_answers_do_not_count_against_the_budget(cache):
    score(Cached(Counting(), cache))
    assert score(Cached(with_budget(Counting(), Budget(0)), cache)) == 1


def test_a_budget_without_a_limit_counts():
    budget = Budget()
    score(with_budget(Counting("junk"), budget))
    assert budget.calls == 2
    with pytest.raises(BudgetSpent, match="0 calls"):
        Budget(0).spend()


def test_a_wrapper_has_the_identity_of_its_backend():
    live = Counting()
    wrapper = Wrapper(live)
    assert (wrapper.name, wrapper.revision, wrapper.capabilities) == ("counting", "1", live.capabilities)
    assert isinstance(wrapper, VLMBackend)


def test_a_dry_run_takes_the_longest_path_and_sends_nothing():
    live = Counting()
    live.capabilities = Capabilities(images=True, sends_to="far.away")
    dry = DryRun(live)
    make_agent(dry).critique(sample(), group(spoiled_group()))
    counts = dry.as_json()
    # tags once, three label orders, a reflection, then one revision and the reflection on it
    assert counts["by_task"] == {"tag": 1, "score": 3, "reflect": 2, "revise": 1}
    assert (counts["calls"], counts["calls_if_certain"]) == (7, 5)
    # the photograph for the tags; the photograph and a panel per hypothesis (of six) for the other six questions
    # and close-ups of the four most uncertain for the revision
    assert counts["images"] == 1 + 6 * 7 + 4
    assert counts["tokens_in"] > counts["tokens_out"] > 0
    assert counts["sends_to"] == "far.away"
    assert live.calls == 0


def test_a_dry_run_counts_uncached_questions_and_stores_nothing(cache):
    score(Cached(Counting(), cache))
    dry = DryRun(Counting())
    for seed in (0, 1):
        score(Cached(dry, cache, read_only=True), seed=seed)
    assert dry.calls == {"score": 1}
    assert len(cache) == 1


def test_one_file_cannot_be_recording_and_cache(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match="need two files, not one"):
        BackendOptions(record=tmp_path / "r", reply_cache=tmp_path / "sub" / ".." / "r")


def test_a_long_run_keeps_the_answers_of_a_backend_that_costs_something(tmp_path):
    asked = BackendOptions("openai:m@http://127.0.0.1:1/v1")
    assert asked.keeping_replies_in(tmp_path).reply_cache == tmp_path / "replies.sqlite"
    own = replace(asked, reply_cache=tmp_path / "own.sqlite")
    assert own.keeping_replies_in(tmp_path) == own
    for spec in ("embedded", "replay:replies.jsonl"):
        assert BackendOptions(spec).keeping_replies_in(tmp_path).reply_cache is None
