"""What is whole of a damaged memory is copied, and the copy is a memory like any other."""

import json

import numpy as np
import pytest

from memory.prototype_memory import Prototype, PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.transfer.exchange import snapshot
from memory.transfer.recovery import recover
from tests.agent.critique_case import HashEmbedder
from tests.cli.test_memory_command import call
from tests.memory.conftest import WordCounts, seed

PAGE = 4096


@pytest.fixture
def folder(tmp_path):
    with MemoryStore(tmp_path / "old" / "memory.sqlite") as store:
        rules = RuleMemory(store, WordCounts())
        rules.add([seed(f"knee {number}") for number in range(80)])
        for number in range(80):
            rules.record_case(
                f"case-{number}", [rule.rule_id for rule in rules.all()[:3]], True, {"a": number}
            )
        rules.mark_done("mine/1")
        made = [Prototype.create(f"case-{number}", "seen", 50.0, [], {}, {}) for number in range(80)]
        PrototypeMemory(store, 3, "encoder").add([(one, np.ones(3)) for one in made])
    return tmp_path / "old"


def test_a_whole_memory_is_copied_whole(folder, tmp_path):
    copied = recover(folder, tmp_path / "new")
    assert copied == {
        "meta": 4, "rules": 80, "cases": 80, "rule_uses": 240, "prototypes": 80, "rule_history": 80, "explored": 80,
        "steps": 1,
    }  # fmt: skip
    with MemoryStore(folder / "memory.sqlite") as old, MemoryStore(tmp_path / "new" / "memory.sqlite") as new:
        assert snapshot(new) == snapshot(old)


def test_rules_of_an_unknown_model_are_embedded_again(folder, tmp_path):
    """Their vectors would be compared with those of whatever model opens the memory first."""
    with MemoryStore(folder / "memory.sqlite") as store, store.transaction() as connection:
        connection.execute("DELETE FROM meta WHERE key = 'text_embedder'")
        connection.execute("UPDATE rules SET embedding = zeroblob(length(embedding))")
    assert recover(folder, tmp_path / "new", WordCounts)["rules"] == 80
    with MemoryStore(tmp_path / "new" / "memory.sqlite") as store:
        rules = RuleMemory(store, WordCounts())
        assert rules.retrieve("knee 7", [], 1, frozen=True)[0].similarity == pytest.approx(1)
        with pytest.raises(ValueError, match="was written with text_embedder"):
            RuleMemory(store, HashEmbedder())


@pytest.mark.slow
def test_rows_on_both_sides_of_a_lost_page_are_copied(folder, tmp_path):
    """Whatever page is lost, the copy can be opened, and most of the rest is in it."""
    path = folder / "memory.sqlite"
    whole, totals = path.read_bytes(), []
    for page in range(1, len(whole) // PAGE):
        path.write_bytes(whole[: page * PAGE] + bytes(PAGE) + whole[(page + 1) * PAGE :])
        before, new = path.read_bytes(), tmp_path / f"new-{page}"
        with pytest.raises(ValueError, match="memory recover"):
            MemoryStore(path)
        totals.append(sum(recover(folder, new, WordCounts).values()))
        assert path.read_bytes() == before
        with MemoryStore(new / "memory.sqlite", frozen=True) as store:
            RuleMemory(store, WordCounts()).retrieve("knee", [], 3, frozen=True)
            snapshot(store)
    assert max(totals) == 645  # of an index, which is made again
    assert np.median(totals) > 0.5 * 645


def test_what_cannot_be_recovered_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no memory here"):
        recover(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(ValueError, match="old has a memory; choose a new folder"):
        recover(folder, folder)
    (folder / "memory.sqlite").write_bytes(b"text" * 5_000)
    with pytest.raises(ValueError, match=r"nothing of .* can be read"):
        recover(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_counts_what_it_copied(folder, tmp_path):
    found = json.loads(call("recover", folder, tmp_path / "new", "--json"))
    assert (found["rules"], found["cases"], found["prototypes"]) == (80, 80, 80)
