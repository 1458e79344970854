"""`meshcritic check-vlm` with a local server."""

from agent.tracing.reading import read_trace
from eval.report.trace.pictures import PictureIndex
from tests.agent.vlm.chat_server import body, chat_server, completion, good, task_of
from tests.command import call


def test_lost_questions_are_printed(tmp_path, tiny_policy, monkeypatch, capsys):
    def without_tags(handler, question):
        act = body(completion("well")) if task_of(question) == "tag" else good
        act(handler, question)

    tiny_policy.save_pretrained(tmp_path / "policy")
    with chat_server(without_tags) as server:
        words = ("--scenes", 1, "--policy", tmp_path / "policy", "--out", tmp_path / "out")
        code, _, err = call(monkeypatch, capsys, "check-vlm", f"openai:m@{server.url}", *words)
    assert code == 0
    lost = "4 of 5 questions were answered; lost tag: malformed after one repair: "
    assert err.splitlines()[-1].startswith(lost)
    (critique,) = read_trace(tmp_path / "out").critiques
    assert (
        len(PictureIndex(tmp_path / "out").of(critique.trace)) == 1
    )  # the sheet, for `meshcritic trace --html`
