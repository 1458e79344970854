"""Replies on file: `Recorder` writes what any backend says, `ReplayBackend` plays it back without that backend.

A recording is JSONL: first who spoke (name, revision, what it takes in), then one line a reply, under the key of its
question. It holds hashes of what was asked and the text that came back: no picture, no key, no header. Replies that
did not fit are recorded too, so that a replayed run repairs where the first one did.

A question counts as the same only if its pictures and numbers are the same to the last bit: on another kind of
machine, floating point may differ and a replay may find nothing. Left out: errors, which a replay gives as "no reply
on file".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.tracing.redaction import writable
from agent.vlm.protocol import Capabilities, Part, Reply, VLMBackend, checked_reply
from agent.vlm.wrappers.wrapper import Wrapper, question_key
from common.jsonl import open_for_append

__all__ = ["Recorder", "ReplayBackend", "from_argument"]

Json = dict[str, Any]
FORMAT = 1


class Recorder(Wrapper):
    """Adds every reply of `inner` to a file, one flushed line each; an earlier recording of the same backend goes on.

    Raises ValueError where the file holds something else.
    """

    def __init__(self, inner: VLMBackend, path: Path) -> None:
        super().__init__(inner)
        begun = path.exists() and path.stat().st_size > 0
        if begun:
            head = _records(path)[0]
            if (head["backend"], head["revision"]) != (inner.name, inner.revision):
                raise ValueError(
                    f"{path} holds replies of {head['backend']}, not of {inner.name} {inner.revision}"
                )
        self._lock = threading.Lock()
        self._file = open_for_append(path)
        if not begun:
            self._write(_head(inner))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        reply = checked_reply(self.inner.generate(parts, schema, seed))
        record = {
            "key": question_key(self.name, self.revision, parts, schema, seed),
            "task": schema["title"],
            "seed": seed,
            "parts": [part.sha256 for part in parts],
            "text": reply.text,
            "ms": round(reply.ms, 3),
            "tokens": [reply.tokens_in, reply.tokens_out],
        }
        with self._lock:
            self._write(record)
        return reply

    def _write(self, record: Json) -> None:
        self._file.write(writable(json.dumps(record, ensure_ascii=False)) + "\n")
        self._file.flush()


class ReplayBackend:
    """Plays a recording back, under the name of who spoke; of several replies to one question, the last.

    Raises FileNotFoundError without the file, ValueError where it is no recording. A question that is not on file
    raises LookupError.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"replay:FILE plays a recording back, and there is no file {path}")
        head, *replies = _records(path)
        self.name, self.revision = head["backend"], head["revision"]
        self.capabilities = Capabilities(**{**head["capabilities"], "sends_to": ""})
        self._replies = {record["key"]: record for record in replies}

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        record = self._replies.get(question_key(self.name, self.revision, parts, schema, seed))
        if record is None:
            raise LookupError(f"no reply on file to this question (task {schema['title']}, seed {seed})")
        return Reply(record["text"], record["ms"], *record["tokens"])


def from_argument(argument: str) -> ReplayBackend:
    """The backend of `replay:FILE`."""
    return ReplayBackend(Path(argument))


def _head(backend: VLMBackend) -> Json:
    return {
        "recording": FORMAT,
        "backend": backend.name,
        "revision": backend.revision,
        "capabilities": asdict(backend.capabilities),
    }


def _records(path: Path) -> list[Json]:
    """Head and replies; a killed run may have left the last line cut short, and that one is none."""
    try:
        records = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        if records[0]["recording"] == FORMAT:
            return records
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{path} is not a recording of format {FORMAT}")
