"""The measurement tools of the critique: all together, and the test of self-contact against libigl's exact one.

    pip install -e ".[bench]"
    python -m benchmarks evidence

The tools measure groups of 20 hypotheses of `wild` scenes that are posed, rendered and detected beforehand, which
every critique needs anyway.
"""

from __future__ import annotations

import statistics

from agent.agent import CritiqueAgent
from agent.default import default_agent, open_default_memory
from agent.tools.running import run_tool
from agent.types import Case, Evidence
from benchmarks.critic.self_contact import Skin, compare, parser
from benchmarks.performance.figure import Figure, at_least, at_most, median_ms, times_faster
from benchmarks.performance.groups import wild_groups
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy

GROUPS, SAMPLES = 5, 20
POSES = 400


def figures() -> list[Figure]:
    policy, body = load_policy(), load_body()
    groups = wild_groups(policy, body, GROUPS, SAMPLES)
    with open_default_memory(None, policy, frozen=False) as memory:
        agent = default_agent(policy, body, memory)
        cases = [agent.case(*group) for group in groups]
        tools_ms = statistics.median(median_ms(lambda case=case: _measure(agent, case), 3) for case in cases)
    contact = compare(body, Skin.of(body, 10), parser().parse_args(["--poses", str(POSES)]))
    rho = contact.rho
    return [
        Figure("evidence tools together, per hypothesis", tools_ms / SAMPLES, "ms", goal=at_most(5.0),
               note=f"{len(agent.tools)} tools, groups of {SAMPLES}"),
        Figure("self-contact of a body", contact.proxy_ms, "ms of CPU time", "libigl, exact", contact.exact_ms,
               times_faster(50.0)),
        Figure("self-contact, rank agreement with the exact test", rho.mean, "Spearman's rho",
               goal=at_least(0.9), note=f"{POSES} poses, 95 % interval {rho.low:.2f} to {rho.high:.2f}"),
    ]  # fmt: skip


def _measure(agent: CritiqueAgent, case: Case) -> list[Evidence]:
    found = [run_tool(tool, case) for tool in agent.tools]
    return [evidence for evidence in found if isinstance(evidence, Evidence)]
