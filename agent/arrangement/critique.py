"""One critique of all people of a photograph: each person's group by the graph, then the arrangements of their bodies.

An arrangement takes one hypothesis of each person. `MAX_ARRANGEMENTS` are measured: the best hypothesis of every
person, and changes of it in one or two people to one of their `NEXT_BEST` next hypotheses, by the loss of score. They
are ranked by the mean of the arrangement's own score and of the chosen hypotheses' mean score.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import combinations

import torch

from agent.agent import CritiqueAgent, critique_many
from agent.arrangement.measure import TOOLS, measure, place
from agent.arrangement.scoring import score_evidence
from agent.arrangement.types import (
    Arrangement,
    ArrangementCritique,
    ArrangementScorer,
    ArrangementTool,
    PeopleCritique,
    PlacedPeople,
)
from agent.types import GroupCritique
from common.storage.fingerprint import json_digest
from hmr.types import BodyParams, Detection, Hypotheses, Sample

__all__ = ["MAX_ARRANGEMENTS", "PersonGroup", "candidates", "critique_arrangements", "critique_people"]

PersonGroup = tuple[Sample, Hypotheses] | tuple[Sample, Hypotheses, Detection | None]
MAX_ARRANGEMENTS = 32
NEXT_BEST = 3


def critique_people(
    agent: CritiqueAgent,
    people: Sequence[PersonGroup],
    *,
    tools: Sequence[ArrangementTool] = TOOLS,
    scorer: ArrangementScorer = score_evidence,
) -> PeopleCritique:
    """Critique the people of one photograph, each as by `CritiqueAgent.critique`, and their arrangements.

    Raises ValueError if the people do not share one camera, and what `CritiqueAgent.critique` raises.
    """
    _check_camera(people)
    critiques = tuple(critique_many(agent, people))
    return PeopleCritique(
        critiques, critique_arrangements(agent, people, critiques, tools=tools, scorer=scorer)
    )


def critique_arrangements(
    agent: CritiqueAgent,
    people: Sequence[PersonGroup],
    critiques: Sequence[GroupCritique],
    *,
    tools: Sequence[ArrangementTool] = TOOLS,
    scorer: ArrangementScorer = score_evidence,
) -> tuple[ArrangementCritique, ...]:
    """The arrangements of people who have been critiqued, best first; none if fewer than two have a score.

    Raises ValueError if the people do not share one camera.
    """
    _check_camera(people)
    started, start = time.time(), time.perf_counter()
    arrangements = candidates([critique.scores for critique in critiques])
    if not arrangements:
        return ()
    rows, placed = _place_candidates(agent, people, arrangements)
    found = []
    for arrangement in arrangements:
        chosen = list(zip(arrangement.people, arrangement.hypotheses, strict=True))
        scores = [critiques[person].scores[hypothesis] or 0.0 for person, hypothesis in chosen]
        bodies = placed[[rows[pair] for pair in chosen]]
        found.append(_critique_one(arrangement, bodies, sum(scores) / len(scores), tools, scorer))
    found.sort(key=lambda item: -(item.score + item.mean_score))
    _write_trace(agent, people, found, started, 1e3 * (time.perf_counter() - start))
    return tuple(found)


def _critique_one(
    arrangement: Arrangement,
    bodies: PlacedPeople,
    mean_score: float,
    tools: Sequence[ArrangementTool],
    scorer: ArrangementScorer,
) -> ArrangementCritique:
    evidence, missing = measure(bodies, arrangement.people, tools)
    verdict = scorer(evidence)
    return ArrangementCritique(
        arrangement, verdict.score, verdict.comment, tuple(evidence), tuple(missing), mean_score
    )


def _check_camera(people: Sequence[PersonGroup]) -> None:
    cameras = [person[1].camera for person in people]
    if different := [row for row, camera in enumerate(cameras) if camera != cameras[0]]:
        raise ValueError(
            f"people of one photograph share one camera; person {different[0]} has {cameras[different[0]]}, "
            f"person 0 {cameras[0]}"
        )


def candidates(scores: Sequence[Sequence[float | None]]) -> list[Arrangement]:
    """At most `MAX_ARRANGEMENTS` of people with scores, by decreasing sum of scores, the best one first.

    scores: of the hypotheses of each person. None if fewer than two people have one.
    """
    ranked = {person: _ranked(group) for person, group in enumerate(scores)}
    known = {person: group for person, group in ranked.items() if group}
    if len(known) < 2:
        return []
    best = {person: group[0][1] for person, group in known.items()}
    swaps = [
        (group[0][0] - score, {person: hypothesis})
        for person, group in known.items()
        for score, hypothesis in group[1 : 1 + NEXT_BEST]
    ]
    pairs = [
        (a[0] + b[0], a[1] | b[1]) for a, b in combinations(swaps, 2) if a[1].keys().isdisjoint(b[1].keys())
    ]
    changes = sorted([(0.0, {}), *swaps, *pairs], key=lambda change: change[0])
    chosen = [best | change for _, change in changes[:MAX_ARRANGEMENTS]]
    return [Arrangement(tuple(known), tuple(one[person] for person in known)) for one in chosen]


def _ranked(scores: Sequence[float | None]) -> list[tuple[float, int]]:
    """The scores of one person with their hypotheses, best first."""
    known = [(score, index) for index, score in enumerate(scores) if score is not None]
    return sorted(known, key=lambda item: (-item[0], item[1]))


def _place_candidates(
    agent: CritiqueAgent, people: Sequence[PersonGroup], arrangements: Sequence[Arrangement]
) -> tuple[dict[tuple[int, int], int], PlacedPeople]:
    """Each body of the arrangements once, and the row of (person, hypothesis)."""
    pairs = sorted({pair for one in arrangements for pair in zip(one.people, one.hypotheses, strict=True)})
    params = BodyParams.stack([people[person][1].params[hypothesis] for person, hypothesis in pairs])
    detections = {person: _detection(agent, people[person]) for person in dict(pairs)}
    with torch.no_grad():
        posed = agent.body(params)
    camera = people[0][1].camera
    placed = place(agent.body, posed, camera, agent.renderer, [detections[person] for person, _ in pairs])
    return {pair: row for row, pair in enumerate(pairs)}, placed


def _detection(agent: CritiqueAgent, person: PersonGroup) -> Detection | None:
    """What is known of a person, or what the agent's detector reports; None if it fails, as the critique notes."""
    sample, known = person[0], person[2] if len(person) == 3 else None
    if known is not None or agent.detector is None:
        return known
    try:
        return agent.detector.detect(sample)
    except Exception:  # noqa: BLE001
        return None


def _write_trace(
    agent: CritiqueAgent,
    people: Sequence[PersonGroup],
    found: Sequence[ArrangementCritique],
    started: float,
    ms: float,
) -> None:
    """One record beside those of the people's critiques."""
    ids = [person[0].id for person in people]
    with agent.trace.case():
        agent.trace.write(
            {
                "trace": uuid.uuid4().hex[:12],
                "case": f"people-{json_digest(ids, length=12)}",
                "node": "arrange_people",
                "started": round(started, 3),
                "inputs": {"people": ids},
                "outputs": {"arrangements": [item.to_json() for item in found]},
                "ms": round(ms, 3),
            }
        )
