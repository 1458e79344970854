"""Eight processes write to one memory while others read it: every count is right, and nobody sees a lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.memory.conftest import WORDS, WordCounts, seed

WRITERS, READERS = 8, 2
# by each writer
UPDATES = int(os.environ.get("MESHCRITIC_UPDATES", "125"))


def write(path: Path, writer: int) -> None:
    """Records cases of its own, and cases of names that all writers share, of which one writer wins."""
    with MemoryStore(path) as store:
        rules = RuleMemory(store, WordCounts())
        known = [rule.rule_id for rule in rules.all()]
        for number in range(UPDATES):
            used = [known[number % len(known)], known[(number + writer) % len(known)]]
            assert rules.record_case(f"case-{writer}-{number}", used, number % 3 == 0, {"writer": writer})
            rules.record_case(f"shared-{number}", [known[0]], True)


def read(path: Path, done: Path) -> None:
    """Reads until `done` exists; cases are never lost, and a rule has never more successes than uses."""
    seen = 0
    while not done.exists():
        with MemoryStore(path, frozen=True) as store:
            rules = RuleMemory(store, WordCounts())
            count = len(rules.cases())
            assert count >= seen
            assert all(rule.successes <= rule.uses for rule in rules.all())
            rules.retrieve("knee", [], 3, frozen=True)
            seen = count
    assert seen


def started(function, *words) -> int:
    """The number of a forked process that ends with 0 if the function returns."""
    if child := os.fork():
        return child
    try:
        function(*words)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - the process ends with it
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


def expected_counts(rules: int) -> list[tuple[int, int]]:
    """Uses and successes of each rule; a case that names a rule twice counts once."""
    uses, successes = [0] * rules, [0] * rules
    for number in range(UPDATES):
        for writer in range(WRITERS):
            for rule in {number % rules, (number + writer) % rules}:
                uses[rule] += 1
                successes[rule] += number % 3 == 0
        uses[0] += 1
        successes[0] += 1
    return list(zip(uses, successes, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_eight_writers_and_two_readers(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        RuleMemory(store, WordCounts()).add([seed(word) for word in WORDS])
    readers = [started(read, path, tmp_path / "done") for _ in range(READERS)]
    writers = [started(write, path, number) for number in range(WRITERS)]
    codes = [os.waitpid(child, 0)[1] for child in writers]
    (tmp_path / "done").touch()
    codes += [os.waitpid(child, 0)[1] for child in readers]
    assert codes == [0] * (WRITERS + READERS), capfd.readouterr().err
    with MemoryStore(path) as store:
        rules = RuleMemory(store, WordCounts())
        assert len(rules.cases()) == (WRITERS + 1) * UPDATES
        assert [(rule.uses, rule.successes) for rule in rules.all()] == expected_counts(len(WORDS))
