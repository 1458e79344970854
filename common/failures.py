"""Failures that are not the fault of the input, and failures of the system as sentences."""

from __future__ import annotations

import errno

__all__ = ["ScoresMissing", "concerns_every_file", "is_expected", "sentence_of"]

LACKING = ("can't allocate memory", "out of memory", "can't start new thread")
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ScoresMissing(ValueError):
    """The scores that a command was run for are missing, because of the backend. The command ends with exit code 1.

    Exit code 2 is for invalid input.
    """


def sentence_of(error: BaseException) -> str:
    """What failed, for the user; an error of the system names its file."""
    if isinstance(error, MemoryError) or _lacks_resources(error):
        first_line = str(error).partition("\n")[0]
        return "there is not enough memory" + (f": {first_line}" if first_line else "")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        files = [error.filename, *([error.filename2] if error.filename2 is not None else [])]
        return f"{' to '.join(map(str, files))}: {error.strerror}"
    return str(error) or type(error).__name__


def is_expected(error: Exception) -> bool:
    """Whether the input or the system is at fault. A RuntimeError only is if torch got no memory or Python no thread;
    every other one is a fault of this program, whose traceback is needed."""
    return not isinstance(error, RuntimeError) or _lacks_resources(error)


def _lacks_resources(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LACKING)


def concerns_every_file(error: BaseException) -> bool:
    """Whether no other file could be written either: the disk is full or read-only."""
    return isinstance(error, OSError) and error.errno in NO_PLACE
