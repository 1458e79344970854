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
taken as 0. Ties go to the smaller rule id. Counts are never stored: they are counted from the recorded
cases, so none can be half written.

Left out: decay of old successes, because exploration ends and the memory is then frozen.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int64

from memory.embed import TextEmbedder
from memory.limits import check_tags, check_text, normalise_tags
from memory.mirror import IndexMirror
from memory.store import MemoryStore

__all__ = ["Predicate", "Provenance", "RetrievedRule", "Rule", "RuleMemory", "RuleState"]

RuleState = Literal["quarantined", "admitted", "retired"]

# Psi is ranked over this many of the rules nearest in meaning; a memory of fewer rules, and so every one
# that a critic filled, is ranked whole.
_CANDIDATES = 10_000
_ALL_RULES = """
    SELECT rules.*, COUNT(rule_uses.case_id) AS uses, COALESCE(SUM(cases.success), 0) AS successes
    FROM rules LEFT JOIN rule_uses USING (rule_id) LEFT JOIN cases ON cases.case_id = rule_uses.case_id
    GROUP BY rules.number ORDER BY rules.number
"""


@dataclass(frozen=True)
class Predicate:
    """A fault that evidence can show: `metric comparison threshold`, such as `reprojection_px > 12`."""

    metric: str
    comparison: Literal[">", "<"]
    threshold: float  # in the metric's unit
    weight: float  # how much the fault counts, against the other rules'

    def __post_init__(self) -> None:
        if self.comparison not in (">", "<"):
            raise ValueError(f"a predicate compares by '>' or '<', not {self.comparison!r}")
        if not math.isfinite(self.threshold) or not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                "a predicate needs a finite threshold and a finite weight of at least 0, "
                f"not {self.threshold} and {self.weight}"
            )

    def violation(self, value: float | None) -> float | None:
        """How far `value` lies on the wrong side: e / (e + s) in [0, 1), or None where nothing was measured.

        e is the excess over the threshold (0 on the right side), s the threshold's size, or one unit of the
        metric where the threshold is 0. So it is 0 up to the threshold, 1/2 at twice a positive one, and
        saturates at 1.
        """
        if value is None:
            return None
        excess = value - self.threshold if self.comparison == ">" else self.threshold - value
        return max(excess, 0.0) / (max(excess, 0.0) + (abs(self.threshold) or 1.0))


@dataclass(frozen=True)
class Provenance:
    """Where a rule comes from."""

    kind: Literal["seed", "mined", "imported"]
    backend: str  # the VLM backend that proposed it; for seeds whatever wrote them
    case_id: str | None  # the exploration case it was mined from


@dataclass(frozen=True)
class Rule:
    """One critique rule with its record; `rule_id` is a hash of text, tags and predicate."""

    rule_id: str
    text: str
    tags: tuple[str, ...]
    predicate: Predicate | None
    provenance: Provenance
    state: RuleState
    uses: int = 0
    successes: int = 0

    def __post_init__(self) -> None:
        check_text("a rule", self.text)
        check_tags("a rule", self.tags)

    @staticmethod
    def create(
        text: str,
        tags: Sequence[str],
        provenance: Provenance,
        predicate: Predicate | None = None,
        state: RuleState | None = None,
    ) -> Rule:
        """A new rule: seeds enter service, everything else starts in quarantine unless `state` says
        otherwise.

        Raises ValueError for text that no memory accepts (`memory.limits`).
        """
        text, tags = text.strip(), normalise_tags(tags)
        content = [text, tags, asdict(predicate) if predicate else None]
        rule_id = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        default: RuleState = "admitted" if provenance.kind == "seed" else "quarantined"
        return Rule(rule_id, text, tags, predicate, provenance, state or default)


@dataclass(frozen=True)
class RetrievedRule:
    """A rule and why it was retrieved: score = similarity + tag_overlap + success_rate + bonus."""

    rule: Rule
    similarity: float  # cosine of the sentence embeddings
    tag_overlap: float  # share of the query's tags that the rule has, 0 to 1
    success_rate: float  # 0 to 1
    bonus: float  # exploration; 0 when frozen
    score: float


class RuleMemory:
    """The rules of a store. Safe to share between threads.

    `exploration` is C of the formula above. Raises ValueError, naming both, if the store's rules were
    embedded by another model.
    """

    def __init__(self, store: MemoryStore, embedder: TextEmbedder, exploration: float = 0.5) -> None:
        self.exploration = exploration
        self._store, self._embedder = store, embedder
        self._catalogue: _Catalogue | None = None
        self._version: tuple[int, int, int] | None = None
        store.check("text_embedder", self._embedder_id)

    def __len__(self) -> int:
        return self._store.read("SELECT COUNT(*) FROM rules")[0][0]

    def all(self) -> list[Rule]:
        """Every rule with its record, in the order they were added."""
        return list(self._current().rules)

    def add(self, rules: Sequence[Rule]) -> list[str]:
        """Adds the rules whose id is not known yet and returns their ids.

        Their counts start at 0 whatever the given rules say: a record is made of cases. Raises
        FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            known = {row["rule_id"] for row in connection.execute("SELECT rule_id FROM rules")}
            new = list({rule.rule_id: rule for rule in rules if rule.rule_id not in known}.values())
            if new:
                self._store.claim("text_embedder", self._embedder_id)
                embeddings = self._embedder.embed([rule.text for rule in new])
                self._store.claim("text_dim", str(embeddings.shape[1]))
                connection.executemany(
                    "INSERT INTO rules (rule_id, text, tags, predicate, provenance, state, embedding) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        (*_to_row(rule), vector.tobytes())
                        for rule, vector in zip(new, embeddings, strict=True)
                    ],
                )
        return [rule.rule_id for rule in new]

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

    def record_case(self, case_id: str, used: Sequence[str], success: bool) -> bool:
        """Counts a case for the rules it used: all of them or, if the process dies meanwhile, none.

        Returns False, and changes nothing, if the case was recorded before. Raises KeyError for a rule id
        that is not in the memory, and FrozenMemoryError.
        """
        with self._store.transaction() as connection:
            values = (case_id, int(success))
            case = connection.execute("INSERT INTO cases VALUES (?, ?) ON CONFLICT DO NOTHING", values)
            if new := case.rowcount == 1:
                for rule_id in dict.fromkeys(used):
                    self._require(rule_id)
                    connection.execute("INSERT INTO rule_uses VALUES (?, ?)", (case_id, rule_id))
        return new

    def has_case(self, case_id: str) -> bool:
        """Whether `record_case` has seen it: how an interrupted exploration knows where to go on."""
        return bool(self._store.read("SELECT 1 FROM cases WHERE case_id = ?", (case_id,)))

    def set_state(self, rule_id: str, state: RuleState) -> None:
        """Raises KeyError for an unknown rule id, ValueError for an unknown state, and FrozenMemoryError."""
        if state not in get_args(RuleState):
            raise ValueError(f"a rule is {', '.join(get_args(RuleState))}, not {state!r}")
        with self._store.transaction() as connection:
            self._require(rule_id)
            connection.execute("UPDATE rules SET state = ? WHERE rule_id = ?", (state, rule_id))

    def save_index(self) -> None:
        """Caches the vector index beside the database, for a faster start."""
        if len(self):
            self._vectors.save()

    @property
    def _embedder_id(self) -> str:
        return f"{self._embedder.name}@{self._embedder.revision}"

    def _require(self, rule_id: str) -> None:
        if not self._store.read("SELECT 1 FROM rules WHERE rule_id = ?", (rule_id,)):
            raise KeyError(f"no rule has id {rule_id!r}")

    @cached_property
    def _vectors(self) -> IndexMirror:
        return IndexMirror(self._store, "rules", int(self._store.meta("text_dim") or self._embedder.dim))

    def _current(self) -> _Catalogue:
        with self._store.lock:
            version = self._store.version()
            if self._catalogue is None or version != self._version:
                self._catalogue, self._version = _Catalogue.read(self._store), version
            return self._catalogue


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
        rows = store.read(_ALL_RULES)
        rules = tuple(map(_from_row, rows))
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


def _to_row(rule: Rule) -> tuple[str | None, ...]:
    predicate = json.dumps(asdict(rule.predicate)) if rule.predicate else None
    provenance = json.dumps(asdict(rule.provenance))
    return rule.rule_id, rule.text, json.dumps(rule.tags), predicate, provenance, rule.state


def _from_row(row: sqlite3.Row) -> Rule:
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
