"""The record of the rules: which there are, in what state and why, and in which cases they proved right.

Counts are never stored: they are counted from the recorded cases, so none can be half written, and a case
has one id, so none counts twice. Nothing here needs an embedder: whoever only lists, reviews or exports a
memory opens its ledger. `memory.rules.RuleMemory` adds retrieval.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, astuple
from itertools import groupby
from typing import Any

from memory.rule import Predicate, Provenance, Rule, RuleState, StateChange
from memory.store import MemoryStore

__all__ = ["ALL_RULES", "RuleLedger", "rule_from_row", "rule_to_row"]

Json = dict[str, Any]

ALL_RULES = """
    SELECT rules.*, COUNT(rule_uses.case_id) AS uses,
        COALESCE(SUM(COALESCE(rule_uses.success, cases.success)), 0) AS successes
    FROM rules LEFT JOIN rule_uses USING (rule_id) LEFT JOIN cases ON cases.case_id = rule_uses.case_id
    GROUP BY rules.number ORDER BY rules.number
"""


class RuleLedger:
    """Rules, cases and history of a store. Safe to share between threads."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return self._store.read("SELECT COUNT(*) FROM rules")[0][0]

    def all(self) -> list[Rule]:
        """Every rule with its record, in the order they were added."""
        return [rule_from_row(row) for row in self._store.read(ALL_RULES)]

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All that is written inside it, to any memory of this store, or nothing."""
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
        """Puts a rule into a state and writes down why; a quarantined rule that stays there was tried in vain.

        Raises KeyError for an unknown rule id, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            self._require(rule_id)
            connection.execute("UPDATE rules SET state = ? WHERE rule_id = ?", (state, rule_id))
            self._note(rule_id, StateChange(state, reason, gain, held_out))

    def history(self, rule_id: str) -> list[StateChange]:
        """Every state the rule has been put into, the first when it came; empty for an unknown rule."""
        return self.histories().get(rule_id, [])

    def histories(self) -> dict[str, list[StateChange]]:
        """The history of every rule, by rule id."""
        found: dict[str, list[StateChange]] = {}
        for row in self._store.read(
            "SELECT rule_id, state, reason, gain, held_out FROM rule_history ORDER BY number"
        ):
            found.setdefault(row["rule_id"], []).append(StateChange(*tuple(row)[1:]))
        return found

    def join(self, rule_id: str, into: str, reason: str) -> None:
        """Retires a rule in favour of one that says the same and takes over its cases, each counted once.

        Raises KeyError for an unknown rule id, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            self._require(into)
            self.set_state(rule_id, "retired", reason)
            connection.execute(
                "UPDATE OR IGNORE rule_uses SET rule_id = ? WHERE rule_id = ?", (into, rule_id)
            )
            connection.execute("DELETE FROM rule_uses WHERE rule_id = ?", (rule_id,))  # cases that used both

    # -- cases -----------------------------------------------------------------------------------------------

    def record_case(
        self, case_id: str, used: Sequence[str], success: bool, judged: Json | None = None
    ) -> bool:
        """Counts a case for the rules it used: all of them or, if the process dies meanwhile, none.

        `judged` is kept beside the case for whoever learns from all cases together. Returns False, and
        changes nothing, if the case was recorded before. Raises KeyError for a rule id that is not in the
        memory, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            values = (case_id, int(success))
            case = connection.execute("INSERT INTO cases VALUES (?, ?) ON CONFLICT DO NOTHING", values)
            if new := case.rowcount == 1:
                for rule_id in dict.fromkeys(used):
                    self._require(rule_id)
                    use = (case_id, rule_id)
                    connection.execute("INSERT INTO rule_uses (case_id, rule_id) VALUES (?, ?)", use)
                if judged is not None:
                    connection.execute("INSERT INTO explored VALUES (?, ?)", (case_id, json.dumps(judged)))
        return new

    def recount_case(self, case_id: str, rule_ids: Sequence[str], success: bool) -> None:
        """Counts a recorded case, judged again under rules that it had not used, for those rules.

        It stays one case: it counts once for a rule, as it was counted first. Raises KeyError for a case or a rule
        that is not in the memory, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            if not self.has_case(case_id):
                raise KeyError(f"no case has id {case_id!r}")
            for rule_id in rule_ids:
                self._require(rule_id)
                use = (case_id, rule_id, int(success))
                connection.execute("INSERT INTO rule_uses VALUES (?, ?, ?) ON CONFLICT DO NOTHING", use)

    def cases(self) -> list[tuple[str, bool, list[str]]]:
        """Every case: its id, whether it was a success, and the ids of the rules it used; by case id."""
        rows = self._store.read(
            "SELECT cases.case_id, cases.success, rule_id FROM cases LEFT JOIN rule_uses "
            "ON rule_uses.case_id = cases.case_id AND rule_uses.success IS NULL ORDER BY cases.case_id, rule_id"
        )
        return [
            (case_id, bool(success), [row["rule_id"] for row in uses if row["rule_id"]])
            for (case_id, success), uses in groupby(rows, lambda row: (row["case_id"], row["success"]))
        ]

    def recounts(self) -> dict[str, dict[str, bool]]:
        """Of every case that was judged again, whether it was a success then, by rule id; by case id."""
        found: dict[str, dict[str, bool]] = {}
        for row in self._store.read(
            "SELECT case_id, rule_id, success FROM rule_uses WHERE success IS NOT NULL ORDER BY case_id, rule_id"
        ):
            found.setdefault(row["case_id"], {})[row["rule_id"]] = bool(row["success"])
        return found

    def has_case(self, case_id: str) -> bool:
        """Whether `record_case` has seen it: how an interrupted exploration knows where to go on."""
        return bool(self._store.read("SELECT 1 FROM cases WHERE case_id = ?", (case_id,)))

    def explored(self, case_ids: Sequence[str]) -> dict[str, Json]:
        """What was kept beside those of the cases that have something, by case id, in the order asked for."""
        rows = self._store.read(
            "SELECT case_id, judged FROM explored JOIN json_each(?) AS asked ON case_id = asked.value "
            "ORDER BY asked.key",
            (json.dumps(list(case_ids)),),
        )
        return {row["case_id"]: json.loads(row["judged"]) for row in rows}

    # -- steps -----------------------------------------------------------------------------------------------

    def is_done(self, step: str) -> bool:
        """Whether a step of exploration that is no case, such as a round of mining, was done before."""
        return bool(self._store.read("SELECT 1 FROM steps WHERE step = ?", (step,)))

    def steps(self) -> list[str]:
        return [row["step"] for row in self._store.read("SELECT step FROM steps ORDER BY step")]

    def mark_done(self, step: str) -> None:
        """Belongs into the transaction that writes what the step found. Raises FrozenMemoryError."""
        with self._store.transaction() as connection:
            connection.execute("INSERT INTO steps VALUES (?) ON CONFLICT DO NOTHING", (step,))

    def _note(self, rule_id: str, change: StateChange) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO rule_history (rule_id, state, reason, gain, held_out) VALUES (?, ?, ?, ?, ?)",
                (rule_id, *astuple(change)),
            )

    def _require(self, rule_id: str) -> None:
        if not self._store.read("SELECT 1 FROM rules WHERE rule_id = ?", (rule_id,)):
            raise KeyError(f"no rule has id {rule_id!r}")


def rule_to_row(rule: Rule) -> tuple[str | None, ...]:
    predicate = json.dumps(asdict(rule.predicate)) if rule.predicate else None
    provenance = json.dumps(asdict(rule.provenance))
    return rule.rule_id, rule.text, json.dumps(rule.tags), predicate, provenance, rule.state


def rule_from_row(row: sqlite3.Row) -> Rule:
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
