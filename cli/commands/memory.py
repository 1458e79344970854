"""`meshcritic memory`: inspects, edits, exports and merges critics' memories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.console import console, print_json, print_message
from cli.options import Json

if TYPE_CHECKING:
    from memory.rule import Rule, RuleState
    from memory.rule_memory import RuleMemory
    from memory.store import MemoryStore
    from memory.transfer.exchange import MemoryDocument
    from memory.vectors.embed import TextEmbedder as SentenceEmbedder

__all__ = ["memory"]

memory = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Inspect, edit, export and merge critics' memories of rules and cases (docs/guides/memories.md).",
)

Decision = Literal["admitted", "retired", "skip", "quit"]
Folder = Annotated[Path, typer.Argument(help="Folder of the memory, such as runs/demo/memory.")]
Ids = Annotated[list[str], typer.Argument(help="Ids of rules, or the first characters of the ids.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, stored in the history of the rule.")]
KeepStates = Annotated[
    bool,
    typer.Option(
        "--keep-states",
        help="Admit the rules that are admitted in the other memory. Default: they start in quarantine.",
    ),
]
Similarity = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Cosine similarity of two sentences from which their rules are merged."
    ),
]
TextEmbedder = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Sentence embedding model of this memory. Default: the packaged MiniLM."
    ),
]
WithoutPrototypes = Annotated[
    bool, typer.Option("--without-prototypes", help="Add only rules and cases, no prototypes.")
]


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
        prototypes = store.read("SELECT COUNT(*) FROM prototypes")[0][0]
        cases = store.read("SELECT COUNT(*) FROM cases")[0][0]
    if as_json:
        print_json({"rules": rows, "cases": cases, "prototypes": prototypes})
        return
    console().print(rule_table(rows))
    print_message(f"{len(rows)} rules, {cases} cases, {prototypes} prototypes")


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
def admit(folder: Folder, rules: Ids, reason: Reason = "by hand") -> None:
    """Admit rules: the critic uses them.

    Example: `meshcritic memory admit runs/demo/memory 3f1c --reason "correct in all reviewed cases"`
    """
    _set_states(folder, rules, "admitted", reason)


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
    weight: Annotated[float, typer.Option(min=0.0, help="Weight of --when; seed rules have 0.3 to 2.")] = 1.0,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="When the rule matters most, such as facing:side; repeatable."),
    ] = None,
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
    with _open_to_write(folder, embedder) as (_, rules):
        add_seed_rules(rules, embedder)
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
def retire(folder: Folder, rules: Ids, reason: Reason = "by hand") -> None:
    """Retire rules: the critic never uses them again. Their history is kept.

    Example: `meshcritic memory retire runs/demo/memory 3f1c 77aa`
    """
    _set_states(folder, rules, "retired", reason)


@memory.command("export")
def export_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
    as_json: Json = False,
) -> None:
    """Export a memory to one JSON file.

    Example: `meshcritic memory export runs/demo/memory memory.json`
    """
    from memory.folder import open_store
    from memory.transfer.exchange import snapshot, write_document

    with open_store(folder) as store:
        document = snapshot(store)
    write_document(document, file)
    counts = {name: len(getattr(document, name)) for name in ("rules", "cases", "prototypes")}
    if as_json:
        print_json({"file": str(file), **counts})
        return
    print_message(f"{file}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@memory.command("import")
def import_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="JSON file written by `meshcritic memory export`.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Add an exported memory to this one. The folder is created if missing.

    Sentences are embedded again. Prototypes can only be added to a memory with the same image embedder.

    Example: `meshcritic memory import runs/mine/memory memory.json --keep-states`
    """
    from memory.transfer.exchange import read_document

    document = read_document(file)
    _merge(folder, document, file.name, keep_states, without_prototypes, similarity, text_embedder, as_json)


@memory.command()
def merge(
    folder: Folder,
    other: Annotated[Path, typer.Argument(help="Folder of the memory to add; it is not changed.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Add another memory to this one. Each case counts once, and rules with the same meaning are merged.

    Example: `meshcritic memory merge runs/demo/memory runs/other/memory --keep-states`
    """
    from memory.transfer.exchange import read_memory

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no memory here")
    document = read_memory(other)
    source = "/".join(other.resolve().parts[-2:])
    _merge(folder, document, source, keep_states, without_prototypes, similarity, text_embedder, as_json)


@memory.command()
def recover(
    folder: Annotated[Path, typer.Argument(help="Folder of the damaged memory; it is not changed.")],
    new: Annotated[Path, typer.Argument(help="Folder for what can be read of it.")],
    as_json: Json = False,
) -> None:
    """Copy what is whole of a damaged memory into a new folder.

    Exploring into the new folder adds the cases that were lost.

    Example: `meshcritic memory recover runs/demo/memory runs/demo/recovered`
    """
    from memory.transfer.recovery import recover as run

    copied = run(folder, new)
    if as_json:
        print_json({"folder": str(new), **copied})
        return
    counts = ", ".join(f"{copied[name]} {name}" for name in ("rules", "cases", "prototypes"))
    print_message(f"{new}: {counts}")


@contextmanager
def _open_to_write(folder: Path, embedder: SentenceEmbedder) -> Iterator[tuple[MemoryStore, RuleMemory]]:
    """The memory in the folder, or a new one, of which nothing is left if the block fails."""
    from memory.folder import removed_if_new_and_failed, store_path
    from memory.rule_memory import RuleMemory
    from memory.store import MemoryStore

    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; a memory is a folder")
    with removed_if_new_and_failed(folder), MemoryStore(store_path(folder)) as store:
        yield store, RuleMemory(store, embedder)


def _merge(
    folder: Path,
    document: MemoryDocument,
    source: str,
    keep_states: bool,
    without_prototypes: bool,
    similarity: float,
    text_embedder: str | None,
    as_json: bool,
) -> None:
    from memory.prototype_memory import PrototypeMemory
    from memory.transfer.merge import merge_document
    from memory.vectors.embed import load_text_embedder

    with _open_to_write(folder, load_text_embedder(text_embedder)) as (store, rules):
        prototypes = None
        if document.prototypes and not without_prototypes:
            embedder = _common_embedder(store.meta("image_embedder"), document)
            prototypes = PrototypeMemory(store, len(document.prototypes[0].vector), embedder)
        report = merge_document(rules, prototypes, document, source, keep_states, similarity)
    if as_json:
        print_json(asdict(report))
        return
    print_message(
        f"{report.rules_added} rules added, {report.rules_joined} merged with an equivalent rule; "
        f"{report.cases_added} cases added, {report.cases_known} already known; "
        f"{report.prototypes_kept} prototypes added"
    )


def _common_embedder(ours: str | None, document: MemoryDocument) -> str:
    """The image embedder of both memories. Raises ValueError if they differ."""
    theirs = document.image_embedder
    assert theirs is not None  # a document with prototypes names their embedder
    if ours not in (None, theirs):
        raise ValueError(
            f"the prototypes of this memory are embeddings of {ours!r}, those of the other one of {theirs!r}; "
            "--without-prototypes adds only rules and cases"
        )
    return theirs


def _set_states(folder: Path, prefixes: list[str], state: RuleState, reason: str) -> None:
    from memory.folder import open_store
    from memory.ledger import RuleLedger

    with open_store(folder) as store:
        ledger = RuleLedger(store)
        known = {rule.rule_id: rule for rule in ledger.all()}
        chosen = [_full_id(prefix, known) for prefix in prefixes]
        with ledger.transaction():
            for rule_id in chosen:
                ledger.set_state(rule_id, state, reason)
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
