"""Which critic it was: a hash of what shapes a scorer's scores, kept with them, so that those of two are never mixed.

| scorer                | what is hashed                                                                        |
|-----------------------|---------------------------------------------------------------------------------------|
| one with `digest()`   | it knows best: `RewardMix`, `HMRScorer` and the truths of `rl.scorers.truth` do               |
| the critique agent    | its backend with every setting, rules and prototypes, tools and prompts, detector,     |
|                       | settings                                                                               |
| a function, any other | the file that it (or its class) is written in, and its name                           |

What has no file, as what was typed at a prompt, is known by its name alone. Left out: files that such a file imports,
and the agent's code beside its tools: scores that were paid for should outlive a change that is none to them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

__all__ = ["Identified", "hash_of", "scorer_digest"]


@runtime_checkable
class Identified(Protocol):
    """A scorer that tells itself from others of its name."""

    def digest(self) -> str: ...


@runtime_checkable
class _Agent(Protocol):
    """The part of `agent.agent.CritiqueAgent` that shapes a score."""

    backend: Any
    rules: Any
    prototypes: Any
    tools: Sequence[Any]
    detector: Any
    image_embedder: Any
    settings: Any


def scorer_digest(scorer: object) -> str:
    """Of a `hmr.types.Scorer` or a reward function."""
    if isinstance(scorer, Identified):
        return scorer.digest()
    if isinstance(scorer, _Agent):
        return _agent_digest(scorer)
    written = _written(scorer)
    return hash_of(getattr(scorer, "name", None), getattr(written, "__qualname__", None), _source(written))


def hash_of(*parts: object) -> str:
    """Of plain values: words, numbers, lists, mappings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _agent_digest(agent: _Agent) -> str:
    from agent import prompts, tools  # loaded already: the scorer is an agent

    return hash_of(
        [agent.backend.name, agent.backend.revision],
        [dataclasses.asdict(rule) for rule in agent.rules.all()],
        [dataclasses.asdict(prototype) for prototype in agent.prototypes.all()],
        [tool.name for tool in agent.tools],
        [*_eyes(agent.detector), agent.image_embedder.name],
        dataclasses.asdict(agent.settings),
        [_files(Path(str(room.__file__)).parent) for room in (tools, prompts)],
    )


def _eyes(detector: Any) -> list[str]:
    """The embedded ones by their class alone, as before there were others to name."""
    name, kind = getattr(detector, "name", None), type(detector).__qualname__
    return [kind] if name in (None, "embedded") else [kind, name]


def _files(folder: Path) -> list[tuple[str, str]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def _written(scorer: object) -> object:
    """The function that scores: code knows its file wherever it was loaded from, a class only by its module's name."""
    if isinstance(scorer, functools.partial):
        return _written(scorer.func)
    if inspect.isroutine(scorer):
        return inspect.unwrap(scorer)
    return getattr(type(scorer), "score", None) or (type(scorer).__call__ if callable(scorer) else None)


def _source(written: Any) -> str:
    try:
        path = inspect.getsourcefile(written)
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()
    except (TypeError, OSError):
        return ""
