"""The record of the rules: states, cases, steps and schema migrations."""

from __future__ import annotations

import sqlite3

import pytest

from memory.folder import open_store
from memory.ledger import RuleLedger
from memory.rule import Provenance, Rule, StateChange
from memory.rule_memory import RuleMemory
from memory.store import FrozenMemoryError, MemoryStore
from tests.memory.conftest import seed

KNEE, FOOT = seed("knee"), seed("foot")
MINED = Rule.create("hand", ["arm"], Provenance("mined", "test", "case"))


@pytest.fixture
def rules(store, words) -> RuleMemory:
    rules = RuleMemory(store, words)
    rules.add([KNEE, FOOT], "a seed")
    rules.add([MINED], "mined from 16 cases")
    return rules


def test_the_history_of_a_rule_has_every_state_with_its_reason(rules):
    rules.set_state(MINED.rule_id, "quarantined", "rho .40 to .40", 0.0, "held-out")
    rules.set_state(MINED.rule_id, "admitted", "rho .40 to .43", 0.03, "other")
    assert rules.history(MINED.rule_id) == [
        StateChange("quarantined", "mined from 16 cases"),
        StateChange("quarantined", "rho .40 to .40", 0.0, "held-out"),
        StateChange("admitted", "rho .40 to .43", 0.03, "other"),
    ]
    assert rules.history(KNEE.rule_id) == [StateChange("admitted", "a seed")]
    assert rules.history("nobody") == []


def test_a_ledger_needs_no_embedder(rules, store):
    rules.record_case("a", [KNEE.rule_id], True)
    assert RuleLedger(store).all() == rules.all()


def test_the_data_of_cases_is_returned_in_the_requested_order(rules):
    rules.record_case("b", [KNEE.rule_id], True, {"scores": [0.1, None]})
    rules.record_case("a", [], False, {"scores": []})
    rules.record_case("c", [FOOT.rule_id, KNEE.rule_id], False)
    rules.record_case("b", [], False, {"scores": "of a case that was recorded before"})
    assert list(rules.explored(["c", "b", "nobody", "a"]).items()) == [
        ("b", {"scores": [0.1, None]}),
        ("a", {"scores": []}),
    ]
    assert rules.cases() == [
        ("a", False, []),
        ("b", True, [KNEE.rule_id]),
        ("c", False, sorted([KNEE.rule_id, FOOT.rule_id])),
    ]


def test_a_case_judged_again_is_the_same_case_and_counts_once_for_each_rule(rules):
    rules.record_case("a", [KNEE.rule_id], False)
    for success in (True, False):  # the second time says nothing new
        rules.recount_case("a", [KNEE.rule_id, FOOT.rule_id], success)
    knee, foot, _ = rules.all()
    assert (knee.uses, knee.successes) == (1, 0)
    assert (foot.uses, foot.successes) == (1, 1)
    assert rules.cases() == [("a", False, [KNEE.rule_id])]
    assert rules.recounts() == {"a": {FOOT.rule_id: True}}


def test_unknown_cases_and_rules_cannot_be_recounted(rules):
    with pytest.raises(KeyError, match="no case has id 'a'"):
        rules.recount_case("a", [KNEE.rule_id], True)
    rules.record_case("a", [], True)
    with pytest.raises(KeyError, match="no rule has id 'x'"):
        rules.recount_case("a", ["x"], True)


def test_a_step_is_marked_in_the_same_transaction(rules):
    def mine_and_die() -> None:
        with rules.transaction():
            rules.mark_done("mine/1")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        mine_and_die()
    assert not rules.is_done("mine/1")
    rules.mark_done("mine/1")
    rules.mark_done("mine/1")
    assert rules.steps() == ["mine/1"]


def test_the_cases_of_a_joined_rule_are_transferred_once_each(rules):
    rules.record_case("both", [KNEE.rule_id, FOOT.rule_id], True)
    rules.record_case("foot alone", [FOOT.rule_id], False)
    rules.join(FOOT.rule_id, KNEE.rule_id, "says the same")
    # knee had 1 case of 1; foot's 2 are the same one and a failure: 2 cases, 1 success
    knee, foot, _ = rules.all()
    assert (knee.uses, knee.successes, knee.state) == (2, 1, "admitted")
    assert (foot.uses, foot.state) == (0, "retired")


FIRST_SCHEMA = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE rules (
        number INTEGER PRIMARY KEY AUTOINCREMENT, rule_id TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
        tags TEXT NOT NULL, predicate TEXT, provenance TEXT NOT NULL, state TEXT NOT NULL, embedding BLOB NOT NULL
    ) STRICT;
    CREATE TABLE cases (case_id TEXT PRIMARY KEY, success INTEGER NOT NULL) STRICT;
    CREATE TABLE rule_uses (
        case_id TEXT NOT NULL REFERENCES cases (case_id), rule_id TEXT NOT NULL REFERENCES rules (rule_id),
        PRIMARY KEY (rule_id, case_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE prototypes (
        number INTEGER PRIMARY KEY AUTOINCREMENT, prototype_id TEXT NOT NULL UNIQUE, case_id TEXT NOT NULL,
        rationale TEXT NOT NULL, score REAL NOT NULL, tags TEXT NOT NULL, evidence TEXT NOT NULL,
        weights TEXT NOT NULL, embedding BLOB NOT NULL
    ) STRICT;
    INSERT INTO rules VALUES
        (1, 'a', 'mind the knee', '[]', NULL, '{"kind": "seed", "backend": "x", "case_id": null}', 'retired', x'00');
    INSERT INTO cases VALUES ('old', 1);
    INSERT INTO rule_uses VALUES ('old', 'a');
    PRAGMA user_version = 1;
"""


def test_a_memory_with_the_first_schema_is_migrated(tmp_path):
    path = tmp_path / "memory.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(FIRST_SCHEMA)
    connection.close()
    before = path.read_bytes()
    with open_store(tmp_path, frozen=True) as store:  # read as it would be, and left as it is
        assert (RuleLedger(store).all()[0].uses, len(RuleLedger(store).history("a"))) == (1, 1)
        with pytest.raises(FrozenMemoryError):
            RuleLedger(store).mark_done("mine/1")
        with pytest.raises(ValueError, match="readonly"):
            store.read("DELETE FROM meta")
    assert path.read_bytes() == before
    with MemoryStore(path) as store:
        ledger = RuleLedger(store)
        (rule,) = ledger.all()
        assert (rule.text, rule.state, rule.uses, rule.successes) == ("mind the knee", "retired", 1, 1)
        assert ledger.history("a") == [StateChange("retired", "from a memory that kept no history")]
        assert ledger.record_case("new", ["a"], False, {})
    with MemoryStore(path, frozen=True) as store:
        assert RuleLedger(store).all()[0].uses == 2


RECOUNTED_AS_CASES = """
    INSERT INTO rules VALUES
        (2, 'b', 'mind the foot', '[]', NULL, '{"kind": "seed", "backend": "x", "case_id": null}', 'admitted', x'00');
    INSERT INTO cases VALUES ('old/weigh/12', 0), ('photos/weigh/1', 1);
    INSERT INTO rule_uses VALUES ('old/weigh/12', 'a'), ('old/weigh/12', 'b'), ('photos/weigh/1', 'b');
"""


def test_recounts_stored_as_cases_are_migrated(tmp_path):
    connection = sqlite3.connect(tmp_path / "memory.sqlite")
    connection.executescript(FIRST_SCHEMA + RECOUNTED_AS_CASES)
    connection.close()
    with MemoryStore(tmp_path / "memory.sqlite") as store:
        ledger = RuleLedger(store)
        # "photos/weigh/1" is a case of that name, as there is no case "photos"
        assert ledger.cases() == [("old", True, ["a"]), ("photos/weigh/1", True, ["b"])]
        assert ledger.recounts() == {"old": {"b": False}}
        assert [(rule.uses, rule.successes) for rule in ledger.all()] == [(1, 1), (2, 1)]
