"""The record of the rules: their states with the reasons, and the cases that used them.

Uses and successes are not stored but counted from the recorded cases, so they are always consistent; each case has an
id and counts once. No embedder is needed to list, review or export the rules of a memory;
`memory.rule_memory.RuleMemory` adds retrieval.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, astuple
from itertools import groupby
from typing import Any

from memory.rule import Predicate, Provenance, Rule, RuleState, StateChange
from memory.store import MemoryStore, damage_named

__all__ = ["ALL_RULES", "RuleLedger", "rule_from_row", "rule_to_row"]

Json = dict[str, Any]

ALL_RULES = """
    SELECT rules.*, COUNT(rule_uses.case_id) AS uses,
        COALESCE(SUM(COALESCE(rule_uses.success, cases.success)), 0) AS successes
    FROM rules LEFT JOIN rule_uses USING (rule_id) LEFT JOIN cases ON cases.case_id = rule_uses.case_id
    GROUP BY rules.number ORDER BY rules.number
"""


class RuleLedger:
    """Rules, cases and history of a store. Thread-safe."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.read("SELECT COUNT(*) FROM rules")[0][0]

    def all(self) -> list[Rule]:
        """All rules with their counts, in the order in which they were added."""
        return [rule_from_row(row) for row in self._store.read(ALL_RULES)]

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Everything written in the block, to any memory of this store, is committed together or not at all."""
        return self._store.transaction()

    # -- states ----------------------------------------------------------------------------------------------

    def set_state(
        self,
        rule_id: str,
        state: RuleState,
        reason: str,
        gain: float | None = None,
        held_out: str | None = None,
    ) -> None:
        """Sets the state of a rule and records the reason. A failed trial sets the state "quarantined" again.

        Raises KeyError for an unknown rule id, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            self._require_rule(rule_id)
            connection.execute("UPDATE rules SET state = ? WHERE rule_id = ?", (state, rule_id))
            self._add_history(rule_id, StateChange(state, reason, gain, held_out))

    def history(self, rule_id: str) -> list[StateChange]:
        """All states of the rule, starting when it was added; empty for an unknown rule."""
        return self.histories().get(rule_id, [])

    def histories(self) -> dict[str, list[StateChange]]:
        """The history of every rule, by rule id."""
        found: dict[str, list[StateChange]] = {
            row["rule_id"]: [] for row in self._store.read("SELECT rule_id FROM rules")
        }
        for row in self._store.read(
            "SELECT rule_id, state, reason, gain, held_out FROM rule_history ORDER BY number"
        ):
            found.setdefault(row["rule_id"], []).append(StateChange(*tuple(row)[1:]))
        return found

    def join(self, rule_id: str, into: str, reason: str) -> None:
        """Retires a rule in favour of an equivalent one, which takes over its cases; each case counts once.

        Raises KeyError for an unknown rule id, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            self._require_rule(into)
            self.set_state(rule_id, "retired", reason)
            connection.execute(
                "UPDATE OR IGNORE rule_uses SET rule_id = ? WHERE rule_id = ?", (into, rule_id)
            )
            connection.execute("DELETE FROM rule_uses WHERE rule_id = ?", (rule_id,))  # cases that used both

    # -- cases -----------------------------------------------------------------------------------------------

    def record_case(
        self, case_id: str, used: Sequence[str], success: bool, judged: Json | None = None
    ) -> bool:
        """Counts a case for the rules it used, in one transaction.

        `judged` is stored with the case; `explored` returns it. Returns False, and changes nothing, if the case was
        recorded before. Raises KeyError for an unknown rule id, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            values = (case_id, int(success))
            case = connection.execute("INSERT INTO cases VALUES (?, ?) ON CONFLICT DO NOTHING", values)
            if new := case.rowcount == 1:
                for rule_id in dict.fromkeys(used):
                    self._require_rule(rule_id)
                    use = (case_id, rule_id)
                    connection.execute("INSERT INTO rule_uses (case_id, rule_id) VALUES (?, ?)", use)
                if judged is not None:
                    connection.execute("INSERT INTO explored VALUES (?, ?)", (case_id, json.dumps(judged)))
        return new

    def recount_case(self, case_id: str, rule_ids: Sequence[str], success: bool) -> None:
        """Counts a recorded case for further rules, after it was judged again with them.

        It remains one case: for each rule only the first count is kept. Raises KeyError for an unknown case or rule id,
        and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            if not self.has_case(case_id):
                raise KeyError(f"no case has id {case_id!r}")
            for rule_id in rule_ids:
                self._require_rule(rule_id)
                use = (case_id, rule_id, int(success))
                connection.execute("INSERT INTO rule_uses VALUES (?, ?, ?) ON CONFLICT DO NOTHING", use)

    def cases(self) -> list[tuple[str, bool, list[str]]]:
        """All cases, sorted by id: the id, whether the case was a success, and the ids of the rules it used."""
        rows = self._store.read(
            "SELECT cases.case_id, cases.success, rule_id FROM cases LEFT JOIN rule_uses "
            "ON rule_uses.case_id = cases.case_id AND rule_uses.success IS NULL ORDER BY cases.case_id, rule_id"
        )
        return [
            (case_id, bool(success), [row["rule_id"] for row in uses if row["rule_id"]])
            for (case_id, success), uses in groupby(rows, lambda row: (row["case_id"], row["success"]))
        ]

    def recounts(self) -> dict[str, dict[str, bool]]:
        """Case id -> rule id -> success, of the cases that were judged again."""
        found: dict[str, dict[str, bool]] = {}
        for row in self._store.read(
            "SELECT case_id, rule_id, success FROM rule_uses WHERE success IS NOT NULL ORDER BY case_id, rule_id"
        ):
            found.setdefault(row["case_id"], {})[row["rule_id"]] = bool(row["success"])
        return found

    def has_case(self, case_id: str) -> bool:
        """Whether the case is recorded; an interrupted exploration continues after the recorded cases."""
        return bool(self._store.read("SELECT 1 FROM cases WHERE case_id = ?", (case_id,)))

    def explored(self, case_ids: Sequence[str]) -> dict[str, Json]:
        """The `judged` data by case id, in the given order; cases without data are left out."""
        rows = self._store.read(
            "SELECT case_id, judged FROM explored JOIN json_each(?) AS asked ON case_id = asked.value "
            "ORDER BY asked.key",
            (json.dumps(list(case_ids)),),
        )
        with damage_named("an explored case"):
            return {row["case_id"]: json.loads(row["judged"]) for row in rows}

    # -- steps -----------------------------------------------------------------------------------------------

    def is_done(self, step: str) -> bool:
        """Whether an exploration step other than a case, such as a round of mining, was done before."""
        return bool(self._store.read("SELECT 1 FROM steps WHERE step = ?", (step,)))

    def steps(self) -> list[str]:
        return [row["step"] for row in self._store.read("SELECT step FROM steps ORDER BY step")]

    def mark_done(self, step: str) -> None:
        """Call it in the transaction that writes the results of the step. Raises FrozenMemoryError."""
        with self._store.transaction() as connection:
            connection.execute("INSERT INTO steps VALUES (?) ON CONFLICT DO NOTHING", (step,))

    def _add_history(self, rule_id: str, change: StateChange) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO rule_history (rule_id, state, reason, gain, held_out) VALUES (?, ?, ?, ?, ?)",
                (rule_id, *astuple(change)),
            )

    def _require_rule(self, rule_id: str) -> None:
        if not self._store.read("SELECT 1 FROM rules WHERE rule_id = ?", (rule_id,)):
            raise KeyError(f"no rule has id {rule_id!r}")


def rule_to_row(rule: Rule) -> tuple[str | None, ...]:
    predicate = json.dumps(asdict(rule.predicate)) if rule.predicate else None
    provenance = json.dumps(asdict(rule.provenance))
    return rule.rule_id, rule.text, json.dumps(rule.tags), predicate, provenance, rule.state


def rule_from_row(row: sqlite3.Row | Mapping[str, Any]) -> Rule:
    with damage_named(f"the rule {row['rule_id']}"):
        return Rule(
            rule_id=row["rule_id"],
            text=row["text"],
            tags=tuple(json.loads(row["tags"])),
            predicate=Predicate(**json.loads(row["predicate"])) if row["predicate"] else None,
            provenance=Provenance(**json.loads(row["provenance"])),
            state=row["state"],
            uses=row["uses"],
            successes=row["successes"],
        )
