"""A person decides in the terminal which mined rules are tried (`meshcritic explore --review admit_rule`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cli.console import print_message

__all__ = ["review_rules"]

HELP = "Enter tries all of them; numbers such as 0 2 retire these."


def review_rules(rules: Sequence[dict[str, Any]]) -> list[str]:
    """Print the rules, read the answer from standard input, and return the ids of those that are tried.

    Raises ValueError if standard input ends before an answer.
    """
    print_message(f"rules that were mined: {len(rules)}")
    for number, rule in enumerate(rules):
        print_message(f"  {number:3d}  {rule['text']}{_test(rule['predicate'])}")
    print_message(HELP)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise ValueError("standard input ended before the review was answered")
        known, named = {str(number): rule["id"] for number, rule in enumerate(rules)}, line.split()
        if unknown := [word for word in named if word not in known]:
            print_message(f"{unknown[0]!r} is no number of a rule. {HELP}")
            continue
        return [rule_id for number, rule_id in known.items() if number not in named]


def _test(predicate: dict[str, Any] | None) -> str:
    if predicate is None:
        return ""
    return f" [{predicate['metric']} {predicate['comparison']} {predicate['threshold']:g}]"
