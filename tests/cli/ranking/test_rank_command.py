"""The page that collects rankings, over HTTP on loopback, and the critics that are compared with them."""

from __future__ import annotations

import http.client
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.photos.hypotheses_file import write_hypotheses
from cli.ranking.groups import GroupPictures, draw_group, find_groups, read_group
from cli.ranking.server import RankingServer
from cli.ranking.session import Session
from common.storage.versions import versions
from eval.rankings.file import Order, RankedGroup, RankingsFile, read_rankings
from hmr.body.model import Body
from hmr.render import load_renderer
from hmr.types import Box, Camera, Hypotheses
from tests.agent.critique_case import spoiled_group
from tests.command import call

GROUPS = [
    RankedGroup(name, Path(f"{name}.jpg"), Path(f"{name}.npz"), 0, size)
    for name, size in (("a", 3), ("b", 5))
]


def pictures(group: str) -> GroupPictures:
    """Stand-ins that name their hypothesis."""
    return GroupPictures(f"{group} photo".encode(), tuple(f"{group} h{index}".encode() for index in range(5)))


class Client:
    """A browser on the page."""

    def __init__(self, server: RankingServer) -> None:
        self.server = server

    def send(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, raw, headers)
        reply = connection.getresponse()
        found = reply.status, reply.read(), dict(reply.headers)
        connection.close()
        return found

    def get(self, name: str = "") -> bytes:
        status, content, _ = self.send("GET", f"/{self.server.access.token}/{name}")
        assert status == 200, content
        return content

    def question(self) -> dict[str, Any]:
        return json.loads(self.get("question"))

    def answer(self, number: int, order: Any) -> tuple[int, dict[str, Any]]:
        path = f"/{self.server.access.token}/answer"
        status, content, _ = self.send(
            "POST", path, {"question": number, "order": order}, Origin=self.server.access.origin
        )
        return status, json.loads(content)

    def shown(self, number: int, count: int) -> list[str]:
        return [self.get(f"picture/{number}/{place}").decode() for place in range(count)]


@contextmanager
def serving(
    path: Path, judge: str = "1", pairs: int | None = None, draw: Callable[[str], GroupPictures] = pictures
) -> Iterator[tuple[Client, threading.Thread]]:
    """The loop of the server ends by itself with the last answer, and is ended here otherwise."""
    with RankingsFile(path) as file, RankingServer(Session(file, GROUPS, judge, pairs, 0), draw) as server:
        thread = threading.Thread(target=server.serve_until_finished, daemon=True)
        thread.start()
        try:
            yield Client(server), thread
        finally:
            server.finished.set()
            thread.join()


def test_positions_are_stored_as_hypotheses(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    with serving(path) as (client, thread):
        seen = []
        for _ in range(2):
            state = client.question()
            names = client.shown(state["question"], state["count"])
            seen.append(names)
            order = [[place] for place in reversed(range(2, state["count"]))] + [[0, 1]]
            assert client.answer(state["question"], order)[0] == 200
        thread.join(30)
        assert not thread.is_alive()  # the command ends with the last answer
    found = read_rankings(path)
    assert [item.group for item in found.orders] == [names[0][0] for names in seen]
    for item, names in zip(found.orders, seen, strict=True):
        said = [[names.index(f"{item.group} h{index}") for index in equal] for equal in item.order]
        assert said == [[place] for place in reversed(range(2, len(names)))] + [[0, 1]]
    assert set(found.groups) == {"a", "b"}


def test_the_judge_sees_neither_scores_nor_the_order_in_the_file(tmp_path: Path):
    def orders(judge: str) -> dict[str, list[str]]:
        with serving(tmp_path / f"{judge}.jsonl", judge) as (client, _):
            session = client.server.session
            return {
                question.group: client.shown(number, len(question.shown))
                for number, question in enumerate(session.questions)
            }

    by_judge = [orders(str(judge)) for judge in range(6)]
    assert orders("0") == by_judge[0]  # seeded
    assert len({tuple(found["b"]) for found in by_judge}) > 1
    assert all(sorted(found["b"]) == [f"b h{index}" for index in range(5)] for found in by_judge)
    with serving(tmp_path / "r.jsonl") as (client, _):
        assert set(client.question()) == {"question", "count", "done", "total"}
        assert b"score" not in client.get()


def test_the_same_command_continues(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    with serving(path, pairs=2) as (client, _):
        first = client.question()
        assert (first["done"], first["total"], first["count"]) == (0, 4, 2)
        assert client.answer(first["question"], [[0], [1]])[1]["done"] == 1
        assert len(read_rankings(path).orders) == 1  # on the disk before the reply
    path.write_bytes(path.read_bytes() + b'{"judge": "1", "gr')  # killed within a line
    with serving(path, pairs=2) as (client, _):
        state = client.question()
        assert (state["done"], state["question"] != first["question"]) == (1, True)
    with serving(path, judge="2", pairs=2) as (client, _):
        assert client.question()["done"] == 0


@pytest.mark.parametrize(
    "order",
    [
        [[0], [1]],
        [[0], [1], [1]],
        [[0], [1], [5]],
        [0, 1, 2],
        "012",
        [[0], [1], [True]],
        [[0.0], [1], [2]],
        None,
    ],
)
def test_an_order_that_does_not_fit_is_not_stored(tmp_path: Path, order):
    with serving(tmp_path / "r.jsonl") as (client, _):
        number = client.question()["question"]
        status, reply = client.answer(number, order)
        assert (status, "order takes each of the positions" in reply["error"]) == (400, True)
        assert client.question()["question"] == number
    assert read_rankings(tmp_path / "r.jsonl").orders == []


def test_a_question_is_answered_once(tmp_path: Path):
    with serving(tmp_path / "r.jsonl", pairs=1) as (client, _):
        number = client.question()["question"]
        assert client.answer(number, [[0], [1]])[0] == 200
        assert client.answer(number, [[1], [0]]) == (400, {"error": "this question is not open"})
        assert client.answer(99, [[1], [0]])[0] == 400
    assert len(read_rankings(tmp_path / "r.jsonl").orders) == 1


def test_only_the_own_page_is_answered(tmp_path: Path):
    with serving(tmp_path / "r.jsonl") as (client, _):
        token, origin = client.server.access.token, client.server.access.origin
        port = client.server.server_address[1]
        answer = {"question": client.question()["question"], "order": [[0], [1], [2]]}
        refused = [
            ("GET", f"/{token}/question", None, {"Host": f"evil.example:{port}"}),
            ("GET", f"/{token}/question", None, {"Host": f"localhost:{port}"}),
            ("GET", f"/{token}/question", None, {"Origin": "http://evil.example"}),
            ("POST", f"/{token}/answer", answer, {"Origin": "http://evil.example"}),
            ("POST", f"/{token}/answer", answer, {"Origin": "null"}),
            ("POST", f"/{token}/answer", answer, {}),
        ]
        for method, path, body, headers in refused:
            assert client.send(method, path, body, **headers)[0] == 403, (path, headers)
        absent = [
            "/", "/question", "/wrong/question", f"/{token}", f"/{token}/../r.jsonl", f"/{token}/%2e%2e/r.jsonl",
            f"/{token}/picture/0", f"/{token}/picture/99/0", f"/{token}/picture/0/99", f"/{token}/picture/-1/0",
            f"/{token}/picture/0/photo/..", f"/{token}/favicon.ico", f"/{token}/question?x=1",
        ]  # fmt: skip
        for path in absent:
            assert client.send("GET", path)[0] == 404, path
        assert client.send("POST", f"/{token}/question", answer, Origin=origin)[0] == 404
        for content in (b"{", b"[]", b'{"question": 0}', b"[" * 9000):
            assert client.send("POST", f"/{token}/answer", content, Origin=origin)[0] == 400, content[:10]
        large = b'{"question": 0, "order": ' + b" " * 20_000 + b"[]}"
        assert client.send("POST", f"/{token}/answer", large, Origin=origin)[0] == 413
        assert client.send("DELETE", f"/{token}/answer", Origin=origin)[0] == 501
    assert client.server.server_address[0] == "127.0.0.1"
    assert read_rankings(tmp_path / "r.jsonl").orders == []


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path):
    with serving(tmp_path / "r.jsonl") as (client, _):
        _, page, headers = client.send("GET", f"/{client.server.access.token}/")
        again = client.send("GET", f"/{client.server.access.token}/")[2]["Content-Security-Policy"]
    policy = headers["Content-Security-Policy"]
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert page.decode().count(f'nonce="{nonce}"') == 2
    assert nonce not in again
    assert b"http" not in page
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")


def test_a_group_that_is_too_large_for_a_whole_ranking_is_refused(tmp_path: Path):
    large = [RankedGroup("c", Path("c.jpg"), Path("c.npz"), 0, 36)]
    with RankingsFile(tmp_path / "r.jsonl") as file:
        with pytest.raises(ValueError, match=r"c has 36 hypotheses, .* at most 35 at once; --pairs N"):
            Session(file, large, "1", None, 0)
        assert len(Session(file, large, "1", 7, 0).questions) == 7


# -- files and pictures ------------------------------------------------------------------------------------------------


def write_group(folder: Path, name: str, people: int = 1, size: int = 3) -> Path:
    """A photograph NAME.png and its NAME-0.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    camera = Camera(300.0, 45.0, 60.0, 90, 120)
    groups = [
        (Box(5.0, 5.0, 85.0, 115.0), Hypotheses(spoiled_group(seed=row, group=size), camera))
        for row in range(people)
    ]
    write_hypotheses(folder / f"{name}-0.npz", groups)
    return folder


def test_groups_are_found_with_their_photographs(tmp_path: Path):
    write_group(write_group(tmp_path, "one"), "two", people=2)
    found = find_groups(tmp_path, tmp_path)
    assert [(group.name, group.person, group.size) for group in found] == [
        ("one-0", 0, 3), ("two-0.0", 0, 3), ("two-0.1", 1, 3),
    ]  # fmt: skip
    assert found[0].photo == tmp_path / "one.png"
    (tmp_path / "two.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"two-0.npz: there is no photograph two-0 or two in .*--photos"
    ):
        find_groups(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no .npz file"):
        find_groups(tmp_path / "elsewhere", tmp_path)


def test_every_hypothesis_is_drawn(tmp_path: Path, body: Body):
    (group,) = find_groups(write_group(tmp_path, "one"), tmp_path)
    drawn = draw_group(read_group(group, body), body, load_renderer())
    sizes = [Image.open(io.BytesIO(jpeg)).size for jpeg in (drawn.photo, *drawn.hypotheses)]
    assert sizes == [(288, 288)] + [(576, 288)] * 3
    assert len(set(drawn.hypotheses)) == 3
    with pytest.raises(ValueError, match=r"holds 3 hypotheses of person 0, and the rankings are of 4"):
        read_group(RankedGroup("x", group.photo, group.hypotheses, 0, 4), body)
    with pytest.raises(ValueError, match=r"holds 1 person\(s\), and the rankings name person 1"):
        read_group(RankedGroup("x", group.photo, group.hypotheses, 1, 3), body)


def test_the_command_serves_until_the_last_answer(tmp_path: Path, monkeypatch, capsys):
    write_group(tmp_path, "one")
    servers: list[RankingServer] = []

    def answer_all(server: RankingServer) -> None:
        client = Client(server)
        while not (state := client.question()).get("finished"):
            assert client.get(f"picture/{state['question']}/photo")[:2] == b"\xff\xd8"
            if client.answer(state["question"], [[0], [1]])[1].get("finished"):
                return

    serve = RankingServer.serve_until_finished

    def serve_and_answer(server: RankingServer) -> None:
        servers.append(server)
        threading.Thread(target=answer_all, args=(server,), daemon=True).start()
        serve(server)

    monkeypatch.setattr(RankingServer, "serve_until_finished", serve_and_answer)
    words = ("rank", tmp_path, "--out", tmp_path / "r.jsonl", "--pairs", 2, "--judge", "anna")
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out) == (0, ""), err
    assert re.search(r"open http://127\.0\.0\.1:\d+/[\w-]{32}/ in a browser", err)
    assert "judge anna has answered all 2 questions" in err
    assert [item.judge for item in read_rankings(tmp_path / "r.jsonl").orders] == ["anna", "anna"]
    code, _, err = call(monkeypatch, capsys, *words)
    assert (code, len(servers)) == (0, 1)  # nothing is left to ask
    code, _, err = call(monkeypatch, capsys, "rank", tmp_path / "elsewhere")
    assert (code, "has no .npz file" in err) == (2, True)


# -- critics against people --------------------------------------------------------------------------------------------


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    write_group(write_group(tmp_path, "one"), "two")
    with RankingsFile(tmp_path / "r.jsonl") as file:
        for group in find_groups(tmp_path, tmp_path):
            file.add_group(group)
            for judge, order in (("1", ((0,), (1,), (2,))), ("2", ((0,), (2,), (1,)))):
                file.add_order(Order(judge, group.name, order))
    return tmp_path / "r.jsonl"


def test_a_critic_is_compared_with_people(ranked: Path, tiny_policy, tmp_path: Path, monkeypatch, capsys):
    tiny_policy.save_pretrained(tmp_path / "policy")
    words = ("--policy", tmp_path / "policy", "--detector", "embedded", "--out", tmp_path / "out", "--json")
    code, out, err = call(monkeypatch, capsys, "critic-eval", "--rankings", ranked, *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["people"]["judges"] == 2
    assert found["people"]["srcc"][0] == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2
    assert found["backends"]["embedded"]["groups_used"] == 2
    assert -1.0 <= found["backends"]["embedded"]["srcc"]["people"][0] <= 1.0
    assert (tmp_path / "out" / "backends.parquet").exists()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["settings"]["backends"] == ["embedded"]
    assert (run["settings"]["rankings"], run["versions"]) == (ranked.name, versions())


def test_options_of_scenes_are_refused_with_rankings(ranked: Path, monkeypatch, capsys):
    for given in (("--images", 99), ("--critic", "random"), ("--without", "rules"), ("--dry-run",)):
        code, _, err = call(monkeypatch, capsys, "critic-eval", "--rankings", ranked, *given)
        assert code == 2
        assert f"{given[0]} applies to synthetic scenes" in err
