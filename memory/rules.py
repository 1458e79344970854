"""Rule memory: short critique rules, how often each was used and how often that was right.

Retrieval score of rule i for a query with text q and tags T_q (the method's section 2, arXiv 2602.19180):

    symbol   here                       value
    Psi_i    score                      R_i + U_i
    R_i      similarity + tag_overlap   cos(e(q), e(t_i)) + |T_q & T_i| / |T_q|   (the paper: |T_q & T_i|)
    U_i      success_rate + bonus       N_i^s / N_i^u + C * sqrt(log N_total / (N_i^u + 1))
    N_i^u    rule.uses                  cases that used the rule
    N_i^s    rule.successes             those among them whose ranking agreed with the truth
    N_total  -                          uses of all rules together
    C        exploration                0 when frozen

Choices the paper leaves open. Dividing the overlap by |T_q| keeps the paper's order for any one query and
puts both parts of R on the scale of a cosine. A rule with N^u = 0 has proven nothing: its success rate is 0.
While exploring (C > 0) such a rule comes before every used one, as UCB1 plays each arm once (Auer et al.,
Machine Learning 47, 2002); among themselves the unused are ordered by Psi. With N_total = 0 the logarithm is
taken as 0. Ties go to the smaller rule id. What a rule is stands in `memory.rule`, how its uses are counted in
`memory.ledger`.

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

from memory.embed import TextEmbedder
from memory.index_sync import SyncedIndex
from memory.ledger import ALL_RULES, RuleLedger, rule_from_row, rule_to_row
from memory.rule import Predicate, Provenance, Rule, RuleState, StateChange
from memory.store import MemoryStore
from memory.text_limits import normalise_tags

__all__ = ["Predicate", "Provenance", "RetrievedRule", "Rule", "RuleMemory", "RuleState", "StateChange"]

# Psi is ranked over this many of the rules nearest in meaning; a memory of fewer rules, and so every one
# that a critic filled, is ranked whole.
_CANDIDATES = 10_000


@dataclass(frozen=True)
class RetrievedRule:
    """A rule and why it was retrieved: score = similarity + tag_overlap + success_rate + bonus."""

    rule: Rule
    similarity: float  # cosine of the sentence embeddings
    tag_overlap: float  # share of the query's tags that the rule has, 0 to 1
    success_rate: float  # 0 to 1
    bonus: float  # exploration; 0 when frozen
    score: float


class RuleMemory(RuleLedger):
    """The rules of a store, found by meaning, tags and record. Safe to share between threads.

    `exploration` is C of the formula above. Raises ValueError, naming both, if the store's rules were
    embedded by another model.
    """

    def __init__(self, store: MemoryStore, embedder: TextEmbedder, exploration: float = 0.5) -> None:
        super().__init__(store)
        self.exploration = exploration
        self._embedder = embedder
        self._catalogue: _Catalogue | None = None
        self._version: tuple[int, int, int] | None = None
        store.check("text_embedder", self._embedder_id)

    def all(self) -> list[Rule]:
        return list(self._current().rules)

    def add(
        self,
        rules: Sequence[Rule],
        reason: str = "added",
        earlier: Mapping[str, Sequence[StateChange]] = MappingProxyType({}),
    ) -> list[str]:
        """Adds the rules whose id is not known yet, each with the `reason` for its state, and returns their
        ids.

        Their counts start at 0 whatever the given rules say: a record is made of cases. `earlier` is what
        happened to them in another memory, by rule id. Raises FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            known = {row["rule_id"] for row in connection.execute("SELECT rule_id FROM rules")}
            new = list({rule.rule_id: rule for rule in rules if rule.rule_id not in known}.values())
            if new:
                self._store.claim("text_embedder", self._embedder_id)
                embeddings = self._embedder.embed([rule.text for rule in new])
                self._store.claim("text_dim", str(embeddings.shape[1]))
                for rule, vector in zip(new, embeddings, strict=True):
                    connection.execute(_INSERT, (*rule_to_row(rule), vector.tobytes()))
                    for change in (*earlier.get(rule.rule_id, ()), StateChange(rule.state, reason)):
                        self._note(rule.rule_id, change)
        return [rule.rule_id for rule in new]

    def embeddings(self, rules: Sequence[Rule]) -> Float32[np.ndarray, "rules dim"]:
        """Where their sentences lie, as unit vectors: known rules as stored, others embedded now."""
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
        """The (at most) k rules in service with the largest Psi, best first.

        Frozen, nothing is explored (C = 0). Otherwise rules never used come before the others. Retired rules
        are never returned, quarantined ones only on request, for a trial.
        """
        if not len(self):
            return []
        vector, exploration = self._embedder.embed([query])[0], 0.0 if frozen else self.exploration
        with self._store.lock:
            found, cosines = self._vectors.search(vector, _CANDIDATES)
            catalogue = self._current()
        similarities = catalogue.similarities(found, cosines)
        overlaps, rates = catalogue.tag_overlaps(normalise_tags(tags)), catalogue.success_rates()
        bonuses = catalogue.bonuses(exploration)
        psi = similarities + overlaps + rates + bonuses
        served = catalogue.admitted | (catalogue.quarantined & include_quarantined)
        behind = (catalogue.uses > 0) & (exploration > 0)
        best = _best(np.flatnonzero(served & np.isfinite(psi)), k, behind, psi, catalogue.alphabetical)
        terms = zip(*(column[best] for column in (similarities, overlaps, rates, bonuses, psi)), strict=True)
        return [
            RetrievedRule(catalogue.rules[place], *map(float, values))
            for place, values in zip(best, terms, strict=True)
        ]

    def save_index(self) -> None:
        """Caches the vector index beside the database, for a faster start."""
        if len(self):
            self._vectors.save()

    @property
    def _embedder_id(self) -> str:
        return f"{self._embedder.name}@{self._embedder.revision}"

    @cached_property
    def _vectors(self) -> SyncedIndex:
        return SyncedIndex(self._store, "rules", int(self._store.meta("text_dim") or self._embedder.dim))

    def _current(self) -> _Catalogue:
        with self._store.lock:
            version = self._store.version()
            if self._catalogue is None or version != self._version:
                self._catalogue, self._version = _Catalogue.read(self._store), version
            return self._catalogue


_INSERT = """
    INSERT INTO rules (rule_id, text, tags, predicate, provenance, state, embedding) VALUES (?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, eq=False)
class _Catalogue:
    """All rules as columns, in the order of `numbers`, so that Psi is a few sums over arrays."""

    rules: tuple[Rule, ...]
    numbers: Int64[np.ndarray, "rules"]
    alphabetical: Int64[np.ndarray, "rules"]  # rank of the rule id, to break ties
    uses: Int64[np.ndarray, "rules"]
    successes: Int64[np.ndarray, "rules"]
    admitted: Bool[np.ndarray, "rules"]
    quarantined: Bool[np.ndarray, "rules"]
    by_tag: dict[str, list[int]]

    @staticmethod
    def read(store: MemoryStore) -> _Catalogue:
        rows = store.read(ALL_RULES)
        rules = tuple(map(rule_from_row, rows))
        by_tag: dict[str, list[int]] = {}
        for place, rule in enumerate(rules):
            for tag in rule.tags:
                by_tag.setdefault(tag, []).append(place)
        return _Catalogue(
            rules=rules,
            numbers=np.array([row["number"] for row in rows], np.int64),
            alphabetical=np.argsort(np.argsort(np.array([rule.rule_id for rule in rules], str))),
            uses=np.array([rule.uses for rule in rules], np.int64),
            successes=np.array([rule.successes for rule in rules], np.int64),
            admitted=np.array([rule.state == "admitted" for rule in rules], bool),
            quarantined=np.array([rule.state == "quarantined" for rule in rules], bool),
            by_tag=by_tag,
        )

    def similarities(
        self, numbers: Int64[np.ndarray, "found"], cosines: Float[np.ndarray, "found"]
    ) -> Float[np.ndarray, "rules"]:
        """The cosines found, in the order of the rules; minus infinity for a rule that was not found."""
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


def _best(
    places: Int64[np.ndarray, "served"],
    k: int,
    behind: Bool[np.ndarray, "rules"],
    psi: Float[np.ndarray, "rules"],
    alphabetical: Int64[np.ndarray, "rules"],
) -> Int64[np.ndarray, "best"]:
    """The first k places: those not `behind`, then by falling Psi, then by the alphabet."""
    if k < 1 or not len(places):
        return places[:0]
    key = psi[places] - behind[places] * (np.ptp(psi[places]) + 1)
    kth = np.partition(key, -min(k, len(key)))[-min(k, len(key))]
    places = places[key >= kth]  # sorting these few is fifty times as fast as sorting all
    return places[np.lexsort((alphabetical[places], -psi[places], behind[places]))][:k]
