"""`meshcritic memory`: lists, reviews and edits the rules of critics' memories.

The commands for whole memories are in `cli.commands.memory_transfer`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.commands.memory_transfer import export_memory, import_memory, merge_memory, recover_memory
from cli.console import console, print_json, print_message
from cli.memory_folder import Folder, TextEmbedder, open_to_write
from cli.options import Json

if TYPE_CHECKING:
    from memory.rule import Rule, RuleState

__all__ = ["memory"]

memory = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Inspect, edit, export and merge critics' memories of rules and cases (docs/guides/memories.md).",
)

Decision = Literal["admitted", "retired", "skip", "quit"]
Ids = Annotated[list[str], typer.Argument(help="Ids of rules, or the first characters of the ids.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, stored in the history of the rule.")]


@memory.command("list")
def list_rules(
    folder: Folder,
    state: Annotated[
        str | None, typer.Option(help="Only rules in this state: quarantined, admitted or retired.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the rules with state, uses, successes, weight, and the reason for the state.

    Example: `meshcritic memory list runs/demo/memory --state admitted`
    """
    from cli.memory_view import rule_rows, rule_table
    from memory.folder import open_store
    from memory.ledger import RuleLedger

    _check_state(state)
    with open_store(folder) as store:
        rows = rule_rows(RuleLedger(store), state)
        counts = store.counts()
    if as_json:
        print_json({"rules": rows, "cases": counts["cases"], "prototypes": counts["prototypes"]})
        return
    console().print(rule_table(rows))
    print_message(f"{len(rows)} rules, {counts['cases']} cases, {counts['prototypes']} prototypes")


@memory.command()
def review(
    folder: Folder,
    admit_above: Annotated[
        float | None,
        typer.Option(
            help="Admit, without asking, rules that raised the mean SRCC by more than this in their last trial."
        ),
    ] = None,
    retire_below: Annotated[
        float | None,
        typer.Option(help="Retire, without asking, rules whose gain in their last trial was below this."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show each rule in quarantine with its source and its gain, and ask whether to admit or retire it.

    With `--admit-above` or `--retire-below` it does not ask. With `--json` or without a terminal it only shows rules.

    Example: `meshcritic memory review runs/demo/memory --admit-above 0.002`
    """
    from cli.memory_view import rule_panel, rule_rows
    from memory.folder import open_store
    from memory.ledger import RuleLedger

    with open_store(folder) as store:
        ledger = RuleLedger(store)
        rows = rule_rows(ledger, "quarantined")
        asks = admit_above is None and retire_below is None and not as_json and _is_interactive()
        for row in rows:
            if not as_json:
                console().print(rule_panel(row))
            decision = _ask() if asks else _decide(row["gain"], admit_above, retire_below)
            if decision == "quit":
                break
            if decision != "skip":
                reason = "by a person's review" if asks else f"gain {row['gain']:+.4f} at its last trial"
                row["state"] = decision
                ledger.set_state(row["id"], decision, reason, row["gain"])
    if as_json:
        print_json({"rules": rows})
    elif not rows:
        print_message("no rule is in quarantine")


@memory.command()
def admit(folder: Folder, rules: Ids, reason: Reason = "by hand", as_json: Json = False) -> None:
    """Admit rules: the critic uses them.

    Example: `meshcritic memory admit runs/demo/memory 3f1c --reason "correct in all reviewed cases"`
    """
    _set_states(folder, rules, "admitted", reason, as_json)


@memory.command()
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of the memory; a new one also gets the seed rules.")],
    sentence: Annotated[str, typer.Argument(help="The rule in words, for backends that read.")],
    when: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC>NUMBER",
            help="The fault as a measurement, such as 'stature_off_mm > 30'; the embedded critic uses only rules that "
            "have one.",
        ),
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0.0, help="Weight of --when; the the seed rules have 13.2 together.")
    ] = 1.0,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="When the rule matters most, such as facing:side; repeatable."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="The critic's detector, for which a new memory's seed rules are weighed.")
    ] = "blazepose",
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Add a rule of your own, which the critic uses from now on.

    Example: `meshcritic memory add my-memory "People have a usual height." --when "stature_off_mm > 30"`
    """
    from agent.seed_rules import add_seed_rules
    from memory.rule import Predicate, Provenance, Rule
    from memory.vectors.embed import load_text_embedder

    predicate = Predicate.parse(when, weight) if when else None
    if predicate:
        _warn_of_unknown_metric(predicate.metric)
    rule = Rule.create(sentence, tag or [], Provenance("person", "person", None), predicate, "admitted")
    embedder = load_text_embedder(text_embedder)
    with open_to_write(folder, embedder) as (_, rules):
        add_seed_rules(rules, embedder, detector)
        added = rules.add([rule], reason := "written by hand")
        if not added and {known.rule_id: known.state for known in rules.all()}[rule.rule_id] != "admitted":
            rules.set_state(rule.rule_id, "admitted", reason, None)
    if as_json:
        print_json({"id": rule.rule_id, "added": bool(added)})
    else:
        print_message(f"{rule.rule_id} admitted{'' if added else ', known before'}: {rule.text}")


def _warn_of_unknown_metric(metric: str) -> None:
    """A rule on a metric that no installed tool measures never applies; that of a tool server is not known here."""
    from agent.tools import load_tools
    from agent.tools.running import metric_of
    from agent.tools.served.contract import PREFIX

    known = [metric_of(tool) for tool in load_tools()]
    if None not in known and metric not in known and not metric.startswith(PREFIX):
        names = ", ".join(sorted(name for name in known if name))
        print_message(f"no installed tool measures {metric}, so the rule never applies; they measure {names}")


@memory.command()
def retire(folder: Folder, rules: Ids, reason: Reason = "by hand", as_json: Json = False) -> None:
    """Retire rules: the critic never uses them again. Their history is kept.

    Example: `meshcritic memory retire runs/demo/memory 3f1c 77aa`
    """
    _set_states(folder, rules, "retired", reason, as_json)


memory.command("export")(export_memory)
memory.command("import")(import_memory)
memory.command("merge")(merge_memory)
memory.command("recover")(recover_memory)


def _set_states(folder: Path, prefixes: list[str], state: RuleState, reason: str, as_json: bool) -> None:
    from memory.folder import open_store
    from memory.ledger import RuleLedger

    with open_store(folder) as store:
        ledger = RuleLedger(store)
        known = {rule.rule_id: rule for rule in ledger.all()}
        chosen = [_full_id(prefix, known) for prefix in prefixes]
        with ledger.transaction():
            for rule_id in chosen:
                ledger.set_state(rule_id, state, reason)
    if as_json:
        print_json({"rules": [{"id": name, "state": state, "text": known[name].text} for name in chosen]})
        return
    for rule_id in chosen:
        print_message(f"{rule_id} {state}: {known[rule_id].text}")


def _full_id(prefix: str, known: dict[str, Rule]) -> str:
    found = [rule_id for rule_id in known if rule_id.startswith(prefix)]
    if len(found) != 1:
        subject = "no rule id starts" if not found else f"{len(found)} rule ids start"
        raise ValueError(f"{subject} with {prefix!r}; `meshcritic memory list` shows the ids")
    return found[0]


def _check_state(state: str | None) -> None:
    from typing import get_args

    from memory.rule import RuleState

    if state is not None and state not in get_args(RuleState):
        raise ValueError(f"--state is one of {', '.join(get_args(RuleState))}, not {state!r}")


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _ask() -> Decision:
    answer = typer.prompt("[a]dmit, [r]etire, [s]kip or [q]uit", default="s").strip()[:1].lower()
    decisions: dict[str, Decision] = {"a": "admitted", "r": "retired", "q": "quit"}
    return decisions.get(answer, "skip")


def _decide(gain: float | None, admit_above: float | None, retire_below: float | None) -> Decision:
    """Rules that were never tried are skipped."""
    if gain is not None and admit_above is not None and gain > admit_above:
        return "admitted"
    if gain is not None and retire_below is not None and gain < retire_below:
        return "retired"
    return "skip"
