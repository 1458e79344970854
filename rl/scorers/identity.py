"""The digest of a critic: a hash of what its scores depend on, stored with them so that no set mixes two critics.

| scorer                | what is hashed                                                                        |
|-----------------------|---------------------------------------------------------------------------------------|
| one with `digest()`   | its own digest: `RewardMix`, `HMRScorer` and the scorers of `rl.scorers.truth`        |
| the critique agent    | `CritiqueAgent.identity`, and the files of the folders agent/tools (measurements) and |
|                       | agent/prompts (the text of each task, the format of a question, the schema of the     |
|                       | answers)                                                                              |
| a function, any other | the file that defines it (or its class), and its name                                 |

A scorer without a file, such as a function typed at a prompt, is identified by its name. Left out: files that such a
file imports, and the code of the agent outside those two folders, so that an unrelated change does not invalidate
scores that were paid for.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agent import prompts, tools
from agent.agent import CritiqueAgent
from common.storage.fingerprint import digest, file_digest

__all__ = ["Identified", "hash_of", "scorer_digest"]


@runtime_checkable
class Identified(Protocol):
    """A scorer with a content hash."""

    def digest(self) -> str: ...


def scorer_digest(scorer: object) -> str:
    """The digest of a `hmr.types.Scorer` or a reward function, 16 hexadecimal digits."""
    if isinstance(scorer, Identified):
        return scorer.digest()
    if isinstance(scorer, CritiqueAgent):
        return _agent_digest(scorer)
    function = _scoring_function(scorer)
    return hash_of(
        getattr(scorer, "name", None), getattr(function, "__qualname__", None), _source_digest(function)
    )


def hash_of(*parts: object) -> str:
    """The digest of strings, numbers, lists and mappings; other values count by their string."""
    return digest(json.dumps(parts, sort_keys=True, default=str))


def _agent_digest(agent: CritiqueAgent) -> str:
    folders = [Path(str(package.__file__)).parent for package in (tools, prompts)]
    return hash_of(agent.identity(), [_file_digests(folder) for folder in folders])


def _file_digests(folder: Path) -> list[tuple[str, str]]:
    return [(path.name, file_digest(path, 64)) for path in sorted(folder.iterdir()) if path.is_file()]


def _scoring_function(scorer: object) -> object:
    """The function that scores. A function knows its source file, a class only the name of its module."""
    if isinstance(scorer, functools.partial):
        return _scoring_function(scorer.func)
    if inspect.isroutine(scorer):
        return inspect.unwrap(scorer)
    return getattr(type(scorer), "score", None) or (type(scorer).__call__ if callable(scorer) else None)


def _source_digest(function: Any) -> str:
    try:
        return file_digest(Path(inspect.getsourcefile(function) or ""), 64)
    except (TypeError, OSError):
        return ""
