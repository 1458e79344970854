from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from memory.rule_memory import RuleMemory
from memory.store import FrozenMemoryError, MemoryStore
from memory.transfer.exchange import snapshot
from tests.closing import assert_close_waits
from tests.memory.conftest import seed


def keys(store: MemoryStore) -> list[str]:
    return [row["key"] for row in store.read("SELECT key FROM meta ORDER BY key")]


def write_and_fail(store: MemoryStore) -> None:
    with store.transaction():
        with store.transaction() as inner:
            inner.execute("INSERT INTO meta VALUES ('never', '1')")
        raise InterruptedError


def test_a_rollback_includes_inner_transactions(store):
    with pytest.raises(InterruptedError):
        write_and_fail(store)
    assert keys(store) == []


def test_content_survives_closing(tmp_path):
    with MemoryStore(tmp_path / "new" / "memory.sqlite") as store:
        store.set_meta_once("a", "1")
    with MemoryStore(tmp_path / "new" / "memory.sqlite") as store:
        assert store.meta("a") == "1"


def test_counts_are_those_of_the_tables(store):
    with store.transaction() as connection:
        connection.executemany("INSERT INTO cases VALUES (?, 1)", [("a",), ("b",)])
    assert store.counts() == {"rules": 0, "cases": 2, "prototypes": 0}


def test_closing_waits_for_a_query_of_another_thread(store):
    assert_close_waits(store._connection, lambda: store.meta("a"), store.close)


def test_the_version_changes_with_own_writes_other_writes_and_rollbacks(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store, MemoryStore(path) as other:
        seen = [store.version()]
        assert store.version() == seen[-1]
        store.set_meta_once("a", "1")
        seen.append(store.version())
        other.set_meta_once("b", "1")
        seen.append(store.version())
        with pytest.raises(InterruptedError):
            write_and_fail(store)
        seen.append(store.version())
        assert len(set(seen)) == 4


def test_a_different_meta_value_is_refused_with_both_values(store):
    store.set_meta_once("text_embedder", "minilm@1")
    store.set_meta_once("text_embedder", "minilm@1")
    with pytest.raises(ValueError, match=r"'minilm@1', not 'bge@2'"):
        store.set_meta_once("text_embedder", "bge@2")


def test_frozen_store_reads_and_refuses_to_write(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        store.set_meta_once("a", "1")
    with MemoryStore(path, frozen=True) as store:
        assert store.meta("a") == "1"
        store.set_meta_once("a", "1")  # nothing to write
        with pytest.raises(FrozenMemoryError, match="is frozen"):
            store.set_meta_once("b", "1")
        with pytest.raises(ValueError, match="readonly"):  # not by our word alone
            store.read("DELETE FROM meta")


def test_frozen_store_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        store.set_meta_once("a", "1")
    monkeypatch.setattr("memory.store.os.access", lambda path, mode: False)  # root may write anywhere
    with MemoryStore(path, frozen=True) as store:
        assert store.meta("a") == "1"
        assert [file.name for file in tmp_path.iterdir()] == ["memory.sqlite"]


def test_frozen_store_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no memory at"):
        MemoryStore(tmp_path / "memory.sqlite", frozen=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frozen", [False, True])
def test_other_files_are_refused(tmp_path, frozen):
    path = tmp_path / "memory.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(ValueError, match="not a memory database"):
        MemoryStore(path, frozen)


def test_a_frozen_store_sees_the_log_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """Of a writer that was killed, or that runs on another machine."""
    source, folder = tmp_path / "source" / "memory.sqlite", tmp_path / "copy"
    folder.mkdir()
    with MemoryStore(source) as store:
        store.set_meta_once("a", "1")
        for path in source.parent.iterdir():
            shutil.copy(path, folder)
    (folder / "memory.sqlite-shm").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 2
    monkeypatch.setattr("memory.store.os.access", lambda path, mode: False)  # root may write anywhere
    with MemoryStore(folder / "memory.sqlite", frozen=True) as store:
        assert store.meta("a") == "1"
        with pytest.raises(FrozenMemoryError):
            store.set_meta_once("b", "1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_locked_memory_is_not_called_something_else(tmp_path, monkeypatch):
    path = tmp_path / "memory.sqlite"
    MemoryStore(path).close()
    monkeypatch.setattr("memory.store._BUSY_S", 0.0)
    with MemoryStore(path) as store, sqlite3.connect(path) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match=r"memory\.sqlite is locked by another process; try again"):
            store.set_meta_once("a", "1")
        writer.execute("ROLLBACK")


@pytest.fixture
def filled(tmp_path, words):
    """A memory of some pages."""
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        rules = RuleMemory(store, words)
        rules.add([seed(f"knee {number}") for number in range(60)])
        for number in range(60):
            rules.record_case(
                f"case-{number}", [rule.rule_id for rule in rules.all()[:5]], True, {"a": number}
            )
    return path


@pytest.mark.parametrize("frozen", [False, True])
def test_a_page_of_zeros_is_named_and_nothing_is_changed(filled, frozen):
    whole = filled.read_bytes()
    assert len(whole) > 10 * 4096
    for page in range(1, len(whole) // 4096):
        filled.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        before = filled.read_bytes()
        with pytest.raises(ValueError, match=r"memory\.sqlite (is damaged|cannot be used)"):
            MemoryStore(filled, frozen)
        assert filled.read_bytes() == before


def test_a_memory_with_any_flipped_bit_is_read_or_refused_in_a_sentence(filled, words):
    random, whole = np.random.default_rng(0), filled.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        filled.write_bytes(damaged)
        with contextlib.suppress(ValueError), MemoryStore(filled, frozen=True) as store:
            rules = RuleMemory(store, words)
            rules.retrieve("knee", [], 3, frozen=True)
            rules.explored([f"case-{number}" for number in range(60)])
            snapshot(store)


def test_newer_schema_is_refused(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store, store.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="schema 99"):
        MemoryStore(path)


def test_foreign_keys_are_enforced(store):
    with store.transaction() as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO rule_uses VALUES ('no case', 'no rule', NULL)")


KILLED_WHILE_COUNTING = """
import sys
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.memory.conftest import WordCounts

store = MemoryStore(sys.argv[1])
rules = RuleMemory(store, WordCounts())
rules.record_case("done", [rule.rule_id for rule in rules.all()], True)
with store.transaction() as connection:
    connection.execute("PRAGMA cache_spill = 1")
    rules.record_case("half", [rule.rule_id for rule in rules.all()], True)
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_kill_in_a_transaction_leaves_no_incomplete_case(tmp_path, words):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        RuleMemory(store, words).add([seed("knee"), seed("foot")])
    command = [sys.executable, "-c", KILLED_WHILE_COUNTING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with MemoryStore(path) as store:
        rules = RuleMemory(store, words)
        assert [(rule.uses, rule.successes) for rule in rules.all()] == [(1, 1), (1, 1)]
        assert rules.has_case("done")
        assert not rules.has_case("half")
        assert rules.record_case("half", [], True)  # and the case can be done again
