"""Recordings of replies: `Recorder` writes the replies of a backend to a file, `ReplayBackend` returns them from there.

A recording is JSONL: a header with the backend's name, revision and capabilities, then one line per reply under the key
of its question. It contains hashes of the question and the text of the reply, but no picture, key or HTTP header.
Malformed replies are recorded too, so a replayed run makes the same repairs as the recorded one.

A question is found only if its pictures and numbers are equal to the last bit. On another kind of machine floating
point results may differ, and then nothing is found. Left out: errors, which become "no reply on file" in a replay.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agent.vlm.protocol import Capabilities, Part, Reply, VLMBackend, checked_reply
from agent.vlm.wrappers.wrapper import Wrapper, question_key
from common.reading.untrusted_files import reason_in_a_line
from common.reading.validate import members, numbers
from common.redaction import writable
from common.storage.files import PathLike
from common.storage.jsonl import open_for_append

__all__ = ["Recorder", "ReplayBackend", "from_argument"]

Json = dict[str, Any]
FORMAT = 1
HEADER = {"recording": int, "backend": str, "revision": str, "capabilities": dict}
REPLY = {"key": str, "text": str, "ms": int | float, "tokens": list}


class Recorder(Wrapper):
    """Appends every reply of `inner` to a file, one flushed line each; continues a recording of the same backend.

    Raises ValueError if the file has other content.
    """

    def __init__(self, inner: VLMBackend, path: PathLike) -> None:
        super().__init__(inner)
        path = Path(path)
        started = path.exists() and path.stat().st_size > 0
        if started:
            header = _read(path)[0]
            if (header["backend"], header["revision"]) != (inner.name, inner.revision):
                raise ValueError(
                    f"{path} has replies of {header['backend']}, not of {inner.name} {inner.revision}"
                )
        self._lock = threading.Lock()
        self._file = open_for_append(path)
        if not started:
            self._write(_header(inner))

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
            **({"thinking": reply.thinking} if reply.thinking else {}),
            **({"finish": reply.finish} if reply.finish else {}),
        }
        with self._lock:
            self._write(record)
        return reply

    def _write(self, record: Json) -> None:
        self._file.write(writable(json.dumps(record, ensure_ascii=False)) + "\n")
        self._file.flush()


class ReplayBackend:
    """Returns recorded replies, under the recorded backend's name; the last one if a question has several.

    Raises FileNotFoundError if there is no file, ValueError if it is not a recording. `generate` raises LookupError for
    a question without a recorded reply.
    """

    def __init__(self, path: PathLike) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"replay:FILE needs a recording; there is no file {path}")
        header, *replies = _read(path)
        self.name, self.revision = header["backend"], header["revision"]
        self.capabilities = Capabilities(**{**header["capabilities"], "sends_to": ""})
        self._replies = {record["key"]: record for record in replies}

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        record = self._replies.get(question_key(self.name, self.revision, parts, schema, seed))
        if record is None:
            raise LookupError(f"no reply on file to this question (task {schema['title']}, seed {seed})")
        kept = {field: record[field] for field in ("thinking", "finish") if field in record}
        return Reply(record["text"], record["ms"], *record["tokens"], **kept)


def from_argument(argument: str) -> ReplayBackend:
    """The backend of `replay:FILE`."""
    return ReplayBackend(argument)


def _header(backend: VLMBackend) -> Json:
    return {
        "recording": FORMAT,
        "backend": backend.name,
        "revision": backend.revision,
        "capabilities": asdict(backend.capabilities),
    }


def _read(path: Path) -> list[Json]:
    """Header and replies, without a last line that a killed run did not finish."""
    try:
        header, *replies = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        if members(header, HEADER, "its first line")["recording"] != FORMAT:
            raise ValueError(f"its first line names the format {header['recording']!r}")
        if unknown := sorted(header["capabilities"].keys() - {field.name for field in fields(Capabilities)}):
            raise ValueError(f"its first line has an unknown capability, {unknown[0]!r}")
        TypeAdapter(Capabilities).validate_python(header["capabilities"])
        for number, record in enumerate(replies, start=2):
            members(record, REPLY, f"its line {number}")
            numbers(record["tokens"], (2,), f"tokens of its line {number}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a recording of format {FORMAT} ({reason_in_a_line(error)})"
        ) from error
    return [header, *replies]
