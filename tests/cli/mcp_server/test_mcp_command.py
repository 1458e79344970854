"""`meshcritic mcp` as a process: what it writes to stdout, and how it refuses its options."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import call

ROOT = Path(__file__).parents[3]
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}
BAD_CASE = {
    "name": "measure",
    "arguments": {"photo": "a.png", "hypotheses": "b.npz", "measurement": "silhouette"},
}
MESSAGES = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": BAD_CASE},
)


@pytest.mark.slow
def test_stdout_has_nothing_but_the_protocol_and_the_server_ends_with_its_client(tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-m", "meshcritic", "mcp", "--root", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        server.stdin.write("".join(f"{json.dumps(message)}\n" for message in MESSAGES))
        server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in range(2)]
        server.stdin.close()
        rest = server.stdout.read()
    assert rest == ""
    assert server.returncode == 0
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "meshcritic"
    assert answers[1]["result"]["isError"] is True
    assert answers[1]["result"]["content"][0]["text"] == "photo: there is no 'a.png'"


def test_a_root_that_is_no_folder_is_refused(monkeypatch, capsys, tmp_path):
    code, out, err = call(monkeypatch, capsys, "mcp", "--root", tmp_path / "gone")
    assert (code, out) == (2, "")
    assert err == f"meshcritic: --root takes an existing folder, and {tmp_path / 'gone'} is none\n"


def test_without_the_sdk_the_extra_is_named(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr("cli.commands.mcp.find_spec", lambda name: None if name == "mcp" else found(name))
    code, _, err = call(monkeypatch, capsys, "mcp")
    assert code == 2
    assert err == "meshcritic: meshcritic mcp needs the MCP SDK: pip install 'meshcritic[mcp]'\n"


@pytest.mark.slow
def test_faiss_does_not_report_its_instruction_set():
    """Also where a package has set up logging."""
    program = (
        "import logging, sys\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "import meshcritic\n"
        f"sys.argv = ['meshcritic', 'mcp', '--root', {str(ROOT / 'gone')!r}]\n"
        "meshcritic.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "faiss" not in ended.stderr
