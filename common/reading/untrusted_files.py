"""Around the decoding of files from elsewhere, for which libraries raise errors of many types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.storage.files import PathLike

__all__ = ["damage_named", "reason_in_a_line"]

MAX_REASON = 200


@contextmanager
def damage_named(path: PathLike, advice: str = "") -> Iterator[None]:
    """A block that only decodes a file. Whatever it raises becomes a ValueError that names the file, with `advice`
    after it; a missing file stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({reason_in_a_line(error)}){advice and f'; {advice}'}"
        ) from error


def reason_in_a_line(error: Exception) -> str:
    """The start of an error's message, without line breaks."""
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
