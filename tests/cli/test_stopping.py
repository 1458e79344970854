"""Commands that ask a backend, stopped by one signal while the server is silent: no request follows, all is resumed."""

from __future__ import annotations

import itertools
import json
import signal
import threading

import numpy as np
import pytest
from PIL import Image

from agent.vlm.wrappers.cache import ReplyCache
from tests.agent.vlm.chat_server import chat_server, fair
from tests.command import call
from tests.processes import start_python

pytestmark = pytest.mark.slow  # processes of their own

COUNT = 4  # hypotheses per group
A_GROUP = 5  # questions: a tag, three label orders, a reflection


class StopAt:
    """Answers requests until one for which `is_silent` is true; that one and all later ones get no answer.

    When `held` of them wait, which is all that the client sends at once, the process gets a signal. Such a request ends
    when the client closes its connection.
    """

    def __init__(self, is_silent, number: signal.Signals, held: int = 1) -> None:
        self.is_silent, self.number, self.held = is_silent, number, held
        self.process, self.started = None, threading.Event()
        self.waiting, self.closed = 0, threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, handler, question) -> None:
        self.started.wait()
        with self._lock:
            if silent := self.waiting > 0 or self.is_silent(handler.server):
                self.waiting += 1
                if self.process is not None and self.waiting == self.held:
                    self.process.send_signal(self.number)
        if not silent:
            fair(handler, question)
            return
        assert handler.rfile.read(1) == b""
        self.closed.release()

    def run(self, *words) -> None:
        """Run a command until the signal ends it and its connections are closed."""
        self.process = start_python("-m", "meshcritic", *words)
        self.started.set()
        _, err = self.process.communicate()
        assert self.process.returncode == 128 + self.number, err
        assert "Traceback" not in err
        assert err.splitlines()[-1] == f"meshcritic: stopped by {self.number.name}"
        for _ in range(self.held):
            self.closed.acquire()


def after(count):
    requests = itertools.count()
    return lambda server: next(requests) >= count


@pytest.fixture
def policy(tmp_path, tiny_policy):
    tiny_policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def scene(tmp_path):
    """Arguments of `critique` on given bodies."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    np.savez(
        tmp_path / "h.npz",
        global_orient=np.tile([np.pi, 0.0, 0.0], (COUNT, 1)),
        body_pose=np.linspace(0, 0.3, COUNT)[:, None] * np.ones((1, 69)),
        betas=np.zeros((COUNT, 10)),
        transl=np.tile([0.0, 0.2, 4.0], (COUNT, 1)),
        focal_px=np.array(150.0),
        center_px=np.array([45.0, 60.0]),
        image_size=np.array([90, 120]),
    )
    return (tmp_path / "photo.png", "--hypotheses", tmp_path / "h.npz")


def test_check_vlm_is_stopped_with_requests_in_flight_and_queued(policy, tmp_path):
    """Three requests at once: the tags of three groups are answered, the next three requests are not.

    Both runs are processes with the same number of threads, which pictures depend on in their last bit.
    """
    scenes, replies = 6, tmp_path / "replies.sqlite"
    stop = StopAt(after(3), signal.SIGINT, held=3)
    with chat_server(stop) as server:
        command = ("check-vlm", f"openai:any@{server.url}", "--scenes", scenes, "--set", "concurrency=3")
        command = (*command, "--policy", policy, "--reply-cache", replies, "--json")
        stop.run(*command)
        assert len(server.questions) == 6
        with ReplyCache(replies) as cache:
            kept = len(cache)  # the last two answers may have come too late
        assert 1 <= kept <= 3
        server.acts = [fair]
        server.questions.clear()
        resumed = start_python("-m", "meshcritic", *command)
        _, err = resumed.communicate()
        assert resumed.returncode == 0, err
        asked = {json.dumps(question) for question in server.questions}  # without repeated attempts
        assert len(asked) == scenes * A_GROUP - kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_critique_is_stopped_while_the_server_is_silent(number, scene, policy, tmp_path):
    stop = StopAt(after(0), number)
    with chat_server(stop) as server:
        spec = ("--backend", f"openai:any@{server.url}")
        stop.run("critique", *scene, "--policy", policy, "--out", tmp_path / "out", *spec)
        assert len(server.questions) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"trace.jsonl", "parts"}


@pytest.mark.slow
def test_a_stopped_exploration_is_resumed(policy, tmp_path, monkeypatch, capsys):
    stop = StopAt(lambda server: server.tasks.count("tag") == 2, signal.SIGTERM)
    with chat_server(stop) as server:
        command = (
            "explore",
            "--images",
            4,
            "--samples",
            COUNT,
            "--policy",
            policy,
            "--out",
            tmp_path / "out",
        )
        command = (*command, "--backend", f"openai:any@{server.url}")
        stop.run(*command)
        assert server.tasks.count("tag") == 2
        server.acts = [fair]
        code, _, err = call(monkeypatch, capsys, *command)
    assert code == 0
    assert "1 of 2 cases were explored before" in err


@pytest.fixture
def memory(policy, tmp_path, monkeypatch, capsys):
    command = (
        "explore",
        "--images",
        4,
        "--samples",
        COUNT,
        "--policy",
        policy,
        "--out",
        tmp_path / "explored",
    )
    assert call(monkeypatch, capsys, *command)[0] == 0
    return tmp_path / "explored" / "memory"


@pytest.mark.slow
def test_a_stopped_evaluation_of_critics_is_resumed(memory, policy, tmp_path, monkeypatch, capsys):
    """The first group is scored when the second one is tagged, because they are scored one by one."""
    stop = StopAt(lambda server: server.tasks.count("tag") == 2, signal.SIGINT)
    with chat_server(stop) as server:
        command = ("critic-eval", "--images", 3, "--samples", COUNT, "--calibration", 4, "--memory", memory)
        command = (*command, "--policy", policy, "--out", tmp_path / "out", "--set", "concurrency=1")
        command = (*command, "--backend", f"openai:any@{server.url}", "--json")
        stop.run(*command)
        assert server.tasks.count("tag") == 2
        server.acts = [fair]
        assert call(monkeypatch, capsys, *command)[0] == 0
        assert server.tasks.count("tag") == 2 + 2


@pytest.mark.slow
def test_a_stopped_alignment_is_resumed(memory, policy, tmp_path, monkeypatch, capsys):
    (tmp_path / "training.yaml").write_text("max_steps: 2\nlearning_rate: 1.0e-5\n")
    stop = StopAt(lambda server: server.tasks.count("tag") == 2, signal.SIGINT)
    with chat_server(stop) as server:
        command = ("align", "--critic", f"openai:any@{server.url}", "--images", 3, "--group-size", COUNT)
        command = (*command, "--memory", memory, "--policy", policy, "--out", tmp_path / "out")
        command = (*command, "--config", tmp_path / "training.yaml", "--set", "concurrency=1")
        stop.run(*command)
        assert server.tasks.count("tag") == 2
        server.acts = [fair]
        assert call(monkeypatch, capsys, *command)[0] == 0
        assert server.tasks.count("tag") == 2 + 2
