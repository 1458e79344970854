"""Rule memory: retrieval of critique rules by meaning, tags and success.

Retrieval score of rule i for a query with text q and tags T_q (section 2 of the method, arXiv 2602.19180):

    symbol   here                       value
    Psi_i    score                      R_i + U_i
    R_i      similarity + tag_overlap   cos(e(q), e(t_i)) + |T_q & T_i| / |T_q|   (the paper: |T_q & T_i|)
    U_i      success_rate + bonus       N_i^s / N_i^u + C * sqrt(log N_total / (N_i^u + 1))
    N_i^u    rule.uses                  cases that used the rule
    N_i^s    rule.successes             those of them whose ranking agreed with the true errors
    N_total  -                          uses of all rules together
    C        exploration                0 when frozen

Choices that the paper leaves open: dividing the overlap by |T_q| keeps the paper's order for any one query and puts
both terms of R on the scale of a cosine. A rule with N^u = 0 has a success rate of 0. During exploration (C > 0) unused
rules come before all used ones, as UCB1 plays each arm once (Auer et al., Machine Learning 47, 2002); unused rules are
ordered by Psi. With N_total = 0 the logarithm is taken as 0. Ties are ordered by rule id. `memory.rule` defines rules,
and `memory.ledger` counts their uses.

Left out: decay of old successes, because exploration ends and the memory is then frozen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from memory.ledger import ALL_RULES, RuleLedger, rule_from_row, rule_to_row
from memory.rule import Rule, StateChange
from memory.store import MemoryStore
from memory.text_limits import normalise_tags
from memory.vectors.embed import TextEmbedder, embedder_id
from memory.vectors.index_sync import SyncedIndex

__all__ = ["RetrievedRule", "RuleMemory"]

# Psi is computed for this many rules with the nearest embeddings; usual memories have fewer rules, so for all of them.
_CANDIDATES = 10_000


@dataclass(frozen=True)
class RetrievedRule:
    """A rule with the terms of its score: score = similarity + tag_overlap + success_rate + bonus."""

    rule: Rule
    similarity: float  # cosine of the sentence embeddings
    tag_overlap: float  # share of the query's tags that the rule has, 0 to 1
    success_rate: float  # 0 to 1
    bonus: float  # exploration; 0 when frozen
    score: float


class RuleMemory(RuleLedger):
    """The rules of a store with retrieval. Thread-safe.

    `exploration` is C of the formula above. Raises ValueError, with the names of both models, if the store's rules were
    embedded by another model.
    """

    def __init__(self, store: MemoryStore, embedder: TextEmbedder, exploration: float = 0.5) -> None:
        super().__init__(store)
        self.exploration = exploration
        self._embedder = embedder
        self._columns: _RuleColumns | None = None
        self._version: tuple[int, int, int] | None = None
        store.require_meta("text_embedder", embedder_id(embedder))

    def all(self) -> list[Rule]:
        return list(self._current().rules)

    def add(
        self,
        rules: Sequence[Rule],
        reason: str = "added",
        histories: Mapping[str, Sequence[StateChange]] = MappingProxyType({}),
        vectors: Float32[np.ndarray, "rules dim"] | None = None,
    ) -> list[str]:
        """Adds the rules with new ids and returns these ids; `reason` is recorded with their state.

        The counts of the given rules are ignored, because uses are counted from recorded cases. `histories` are
        the rules' histories in another memory, by rule id, and `vectors` their embeddings, if already known. Raises
        FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            known = {row["rule_id"] for row in connection.execute("SELECT rule_id FROM rules")}
            places = {rule.rule_id: place for place, rule in enumerate(rules) if rule.rule_id not in known}
            new = [rules[place] for place in places.values()]
            if new:
                self._store.set_meta_once("text_embedder", embedder_id(self._embedder))
                embeddings = (
                    self._embedder.embed([rule.text for rule in new])
                    if vectors is None
                    else vectors[list(places.values())]
                )
                self._store.set_meta_once("text_dim", str(embeddings.shape[1]))
                for rule, vector in zip(new, embeddings, strict=True):
                    connection.execute(_INSERT, (*rule_to_row(rule), vector.tobytes()))
                    for change in (*histories.get(rule.rule_id, ()), StateChange(rule.state, reason)):
                        self._add_history(rule.rule_id, change)
        return [rule.rule_id for rule in new]

    def embeddings(self, rules: Sequence[Rule]) -> Float32[np.ndarray, "rules dim"]:
        """The unit vectors of the rules' sentences, from the database or computed for unknown rules."""
        query = "SELECT rule_id, embedding FROM rules"
        known = {row["rule_id"]: row["embedding"] for row in self._store.read(query)}
        rows = [
            np.frombuffer(known[rule.rule_id], np.float32)
            if rule.rule_id in known
            else self._embedder.embed([rule.text])[0]
            for rule in rules
        ]
        return np.stack(rows) if rows else np.empty((0, self._embedder.dim), np.float32)

    def retrieve(
        self, query: str, tags: Sequence[str], k: int, frozen: bool, include_quarantined: bool = False
    ) -> list[RetrievedRule]:
        """The (at most) k admitted rules with the largest Psi, best first.

        With `frozen` there is no exploration (C = 0); otherwise unused rules come first. Retired rules are never
        returned, quarantined ones only with `include_quarantined`, for a trial.
        """
        if not len(self):
            return []
        vector, exploration = self._embedder.embed([query])[0], 0.0 if frozen else self.exploration
        with self._store.lock:
            found, cosines = self._vectors.search(vector, _CANDIDATES)
            columns = self._current()
        similarities = columns.similarities(found, cosines)
        overlaps, rates = columns.tag_overlaps(normalise_tags(tags)), columns.success_rates()
        bonuses = columns.bonuses(exploration)
        psi = similarities + overlaps + rates + bonuses
        eligible = columns.admitted | (columns.quarantined & include_quarantined)
        used = (columns.uses > 0) & (exploration > 0)
        best = _top_k(np.flatnonzero(eligible & np.isfinite(psi)), k, used, psi, columns.id_rank)
        terms = zip(*(term[best] for term in (similarities, overlaps, rates, bonuses, psi)), strict=True)
        return [
            RetrievedRule(columns.rules[index], *map(float, values))
            for index, values in zip(best, terms, strict=True)
        ]

    def save_index(self) -> None:
        """Writes the vector index to a cache file next to the database, for a faster start."""
        if len(self):
            self._vectors.save()

    @cached_property
    def _vectors(self) -> SyncedIndex:
        return SyncedIndex(self._store, "rules", int(self._store.meta("text_dim") or self._embedder.dim))

    def _current(self) -> _RuleColumns:
        with self._store.lock:
            version = self._store.version()
            if self._columns is None or version != self._version:
                self._columns, self._version = _RuleColumns.read(self._store), version
            return self._columns


_INSERT = """
    INSERT INTO rules (rule_id, text, tags, predicate, provenance, state, embedding) VALUES (?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, eq=False)
class _RuleColumns:
    """All rules as columns in the order of `numbers`, so Psi is computed with array operations."""

    rules: tuple[Rule, ...]
    numbers: Int64[np.ndarray, "rules"]
    id_rank: Int64[np.ndarray, "rules"]  # alphabetical rank of the rule id, to break ties
    uses: Int64[np.ndarray, "rules"]
    successes: Int64[np.ndarray, "rules"]
    admitted: Bool[np.ndarray, "rules"]
    quarantined: Bool[np.ndarray, "rules"]
    by_tag: dict[str, list[int]]

    @staticmethod
    def read(store: MemoryStore) -> _RuleColumns:
        rows = store.read(ALL_RULES)
        rules = tuple(map(rule_from_row, rows))
        by_tag: dict[str, list[int]] = {}
        for index, rule in enumerate(rules):
            for tag in rule.tags:
                by_tag.setdefault(tag, []).append(index)
        return _RuleColumns(
            rules=rules,
            numbers=np.array([row["number"] for row in rows], np.int64),
            id_rank=np.argsort(np.argsort(np.array([rule.rule_id for rule in rules], str))),
            uses=np.array([rule.uses for rule in rules], np.int64),
            successes=np.array([rule.successes for rule in rules], np.int64),
            admitted=np.array([rule.state == "admitted" for rule in rules], bool),
            quarantined=np.array([rule.state == "quarantined" for rule in rules], bool),
            by_tag=by_tag,
        )

    def similarities(
        self, numbers: Int64[np.ndarray, "found"], cosines: Float[np.ndarray, "found"]
    ) -> Float[np.ndarray, "rules"]:
        """The given cosines in the order of the rules; minus infinity for rules without one."""
        by_number = np.full(self.numbers[-1] + 1, -np.inf)
        by_number[numbers] = cosines
        return by_number[self.numbers]

    def tag_overlaps(self, tags: tuple[str, ...]) -> Float[np.ndarray, "rules"]:
        shared = np.zeros(len(self.rules))
        for tag in tags:
            shared[self.by_tag.get(tag, [])] += 1
        return shared / max(len(tags), 1)

    def success_rates(self) -> Float[np.ndarray, "rules"]:
        return self.successes / np.maximum(self.uses, 1)

    def bonuses(self, exploration: float) -> Float[np.ndarray, "rules"]:
        return exploration * np.sqrt(math.log(max(int(self.uses.sum()), 1)) / (self.uses + 1))


def _top_k(
    indices: Int64[np.ndarray, "eligible"],
    k: int,
    used: Bool[np.ndarray, "rules"],
    psi: Float[np.ndarray, "rules"],
    id_rank: Int64[np.ndarray, "rules"],
) -> Int64[np.ndarray, "best"]:
    """The first k of `indices`, ordered by `used` (False first), then by descending Psi, then by id."""
    if k < 1 or not len(indices):
        return indices[:0]
    key = psi[indices] - used[indices] * (np.ptp(psi[indices]) + 1)
    kth = np.partition(key, -min(k, len(key)))[-min(k, len(key))]
    indices = indices[key >= kth]  # sorting only these is fifty times as fast as sorting all
    return indices[np.lexsort((id_rank[indices], -psi[indices], used[indices]))][:k]
