"""The questions of a run are counted by backend, over all agents and threads."""

from concurrent.futures import ThreadPoolExecutor

from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import ask
from agent.scoring.tally import tallied_questions
from agent.types import QuestionCounts, QuestionFailure, lost_questions
from agent.vlm import Capabilities, Reply, TextPart

MODEL = keyed_by_label("score", Verdict, ["A"])
FITS = '{"A": {"comment": "", "score": 1}}'


class Scripted:
    """Gives the same answers to every question, in turn."""

    capabilities, revision = Capabilities(), "1"

    def __init__(self, name: str, *texts: str) -> None:
        self.name, self._texts = name, list(texts)

    def generate(self, parts, schema, seed) -> Reply:
        is_repair = len(parts) > 1
        return Reply(self._texts[is_repair])


def ask_times(backend: Scripted, times: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: ask(backend, "score", [TextPart("judge")], MODEL, seed), range(times)))


def test_lost_questions_are_counted_by_backend_in_all_threads():
    with tallied_questions() as tally:
        ask_times(Scripted("well", FITS), 5)
        ask_times(Scripted("repaired", "?", FITS), 5)
        ask_times(Scripted("lost", "?", "?"), 20)
    assert tally.lost() == [
        "lost: 0 of 20 questions were answered; lost score x 20: malformed after one repair: there is no complete "
        "JSON object in the reply"
    ]


def test_questions_outside_the_block_are_not_counted():
    with tallied_questions() as tally:
        pass
    ask_times(Scripted("lost", "?", "?"), 1)
    assert tally.lost() == []


def test_the_most_frequent_reasons_are_named():
    failures = [QuestionFailure("unavailable", f"reason {n}", "tag") for n in range(9) for _ in range(9 - n)]
    sentence = lost_questions(QuestionCounts(asked=50, answered=5), failures)
    assert sentence.startswith("5 of 50 questions were answered; lost tag x 9: reason 0; tag x 8: reason 1;")
    assert sentence.endswith("tag x 4: reason 5; 6 for other reasons")
