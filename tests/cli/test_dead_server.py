"""Commands whose backend gives no score at all end with exit code 1 and the reason on one line."""

from __future__ import annotations

import json

import pytest

from tests.agent.vlm.chat_server import body, chat_server, hang_up
from tests.command import call

DEAD = {"gone": hang_up, "a wrong key": body(b"", status=401), "words": body(b'{"choices": []}')}


@pytest.mark.parametrize("act", [pytest.param(DEAD["gone"], id="gone"), *(
    pytest.param(DEAD[name], id=name, marks=pytest.mark.slow) for name in ("a wrong key", "words")
)])  # fmt: skip
def test_check_vlm(act, tiny_policy, tmp_path, monkeypatch, capsys):
    tiny_policy.save_pretrained(tmp_path / "policy")
    with chat_server(act) as server:
        spec = f"openai:m@{server.url}"
        words = ("--scenes", 2, "--policy", tmp_path / "policy", "--set", "attempts=1", "--json")
        code, out, err = call(monkeypatch, capsys, "check-vlm", spec, *words)
    assert code == 1
    assert json.loads(out)["judged"] == 0
    line = err.splitlines()[-1]
    assert line.startswith("meshcritic: no hypothesis got a score: ")
    assert spec in line or "malformed" in line


@pytest.mark.slow
def test_critic_eval(tiny_policy, tmp_path, monkeypatch, capsys):
    tiny_policy.save_pretrained(tmp_path / "policy")
    words = ("--policy", tmp_path / "policy", "--samples", 3)
    assert call(monkeypatch, capsys, "explore", "--images", 4, "--out", tmp_path / "explored", *words)[0] == 0
    words = (*words, "--images", 2, "--calibration", 4, "--memory", tmp_path / "explored" / "memory")
    with chat_server(hang_up) as server:
        spec = ("--backend", f"openai:m@{server.url}", "--set", "attempts=1", "--out", tmp_path / "out")
        code, out, err = call(monkeypatch, capsys, "critic-eval", *words, *spec)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"meshcritic: no hypothesis got a score: {spec[1]} failed: ")
