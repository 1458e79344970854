"""`meshcritic memory`: what a critic has learned, as a person looks at it, decides about it and shares it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import console, say
from cli.options import Json

if TYPE_CHECKING:
    from memory.exchange import MemoryDocument
    from memory.rule import Rule, RuleState

__all__ = ["memory"]

memory = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What a critic has learned: look at it, decide about it, share it (docs/memories.md).",
)

Folder = Annotated[Path, typer.Argument(help="A memory's folder, such as runs/demo/memory.")]
Ids = Annotated[list[str], typer.Argument(help="Rule ids, or their beginnings.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the rule's history.")]
KeepStates = Annotated[
    bool,
    typer.Option(
        "--keep-states", help="Rules in service there serve here; otherwise they start in quarantine."
    ),
]
Similarity = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Cosine from which two sentences say the same.")
]
TextEmbedder = Annotated[
    str | None, typer.Option(help="Sentence model of the receiving memory; default: the packaged MiniLM.")
]
WithoutPrototypes = Annotated[
    bool, typer.Option("--without-prototypes", help="Take the rules and cases only.")
]


@memory.command("list")
def list_rules(
    folder: Folder,
    state: Annotated[str | None, typer.Option(help="quarantined, admitted or retired; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Every rule with its state, uses, successes, weight and the last line of its history.

    Example: `meshcritic memory list runs/demo/memory --state admitted`
    """
    from cli.memory_view import rule_rows, rule_table
    from memory.folder import open_stored
    from memory.ledger import RuleLedger

    _check_state(state)
    with open_stored(folder) as store:
        rows = rule_rows(RuleLedger(store), state)
        prototypes = store.read("SELECT COUNT(*) FROM prototypes")[0][0]
        cases = store.read("SELECT COUNT(*) FROM cases")[0][0]
    if as_json:
        print(json.dumps({"rules": rows, "cases": cases, "prototypes": prototypes}))
        return
    console().print(rule_table(rows))
    say(f"{len(rows)} rules, {cases} cases, {prototypes} prototypes")


@memory.command()
def review(
    folder: Folder,
    admit_above: Annotated[
        float | None, typer.Option(help="Without asking: admit what gained more than this at its last trial.")
    ] = None,
    retire_below: Annotated[
        float | None,
        typer.Option(help="Without asking: retire what gained less than this at its last trial."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk through the rules in quarantine: what each says, where it comes from, what its trials gained.

    Asks for each rule, unless a flag or --json decides, or nobody sits at the terminal.

    Example: `meshcritic memory review runs/demo/memory --admit-above 0.002`
    """
    from cli.memory_view import rule_card, rule_rows
    from memory.folder import open_stored
    from memory.ledger import RuleLedger

    with open_stored(folder) as store:
        ledger = RuleLedger(store)
        rows = rule_rows(ledger, "quarantined")
        asks = admit_above is None and retire_below is None and not as_json and _somebody_is_there()
        for row in rows:
            if not as_json:
                console().print(rule_card(row))
            verdict = _ask() if asks else _by_gain(row["gain"], admit_above, retire_below)
            if verdict == "quit":
                break
            if verdict != "skip":
                reason = "by a person's review" if asks else f"gain {row['gain']:+.4f} at its last trial"
                ledger.set_state(
                    row["id"], "admitted" if verdict == "admit" else "retired", reason, row["gain"]
                )
                row["state"] = "admitted" if verdict == "admit" else "retired"
    if as_json:
        print(json.dumps({"rules": rows}))
    elif not rows:
        say("no rule is in quarantine")


@memory.command()
def admit(folder: Folder, rules: Ids, reason: Reason = "by hand") -> None:
    """Put rules into service.

    Example: `meshcritic memory admit runs/demo/memory 3f1c --reason "read it, it is sound"`
    """
    _set_states(folder, rules, "admitted", reason)


@memory.command()
def retire(folder: Folder, rules: Ids, reason: Reason = "by hand") -> None:
    """Take rules out of service for good; their record stays.

    Example: `meshcritic memory retire runs/demo/memory 3f1c 77aa`
    """
    _set_states(folder, rules, "retired", reason)


@memory.command("export")
def export_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    as_json: Json = False,
) -> None:
    """Write everything a memory holds into one JSON file.

    Example: `meshcritic memory export runs/demo/memory memory.json`
    """
    from memory.exchange import snapshot, write_document
    from memory.folder import open_stored

    with open_stored(folder) as store:
        document = snapshot(store)
    write_document(document, file)
    counts = {name: len(getattr(document, name)) for name in ("rules", "cases", "prototypes")}
    if as_json:
        print(json.dumps({"file": str(file), **counts}))
        return
    say(f"{file}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@memory.command("import")
def import_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Take an exported memory into this one, or make a new one of it.

    Sentences are embedded anew; prototypes need a memory that looks at photographs through the same model.

    Example: `meshcritic memory import runs/mine/memory memory.json --keep-states`
    """
    from memory.exchange import read_document

    document = read_document(file)
    _absorb(folder, document, file.name, keep_states, without_prototypes, similarity, text_embedder, as_json)


@memory.command()
def merge(
    folder: Folder,
    other: Annotated[Path, typer.Argument(help="The memory's folder that is taken in; it stays as it is.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Reconcile two memories: every case counts once, rules that say the same become one.

    Example: `meshcritic memory merge runs/demo/memory runs/other/memory --keep-states`
    """
    from memory.exchange import read_memory

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no memory here")
    document = read_memory(other)
    source = "/".join(other.resolve().parts[-2:])
    _absorb(folder, document, source, keep_states, without_prototypes, similarity, text_embedder, as_json)


def _absorb(
    folder: Path,
    document: MemoryDocument,
    source: str,
    keep_states: bool,
    without_prototypes: bool,
    similarity: float,
    text_embedder: str | None,
    as_json: bool,
) -> None:
    from memory.embed import load_text_embedder
    from memory.folder import store_path
    from memory.merge import absorb
    from memory.prototypes import PrototypeMemory
    from memory.rules import RuleMemory
    from memory.store import MemoryStore

    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; a memory is a folder")
    with MemoryStore(store_path(folder)) as store:
        rules, prototypes = RuleMemory(store, load_text_embedder(text_embedder)), None
        if document.prototypes and not without_prototypes:
            looks = _same_model(store.meta("image_embedder"), document)
            prototypes = PrototypeMemory(store, len(document.prototypes[0].vector), looks)
        report = absorb(rules, prototypes, document, source, keep_states, similarity)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    say(
        f"{report.rules_added} rules added, {report.rules_joined} joined with one that says the same; "
        f"{report.cases_added} cases added, {report.cases_known} counted before; "
        f"{report.prototypes_kept} prototypes kept"
    )


def _same_model(ours: str | None, document: MemoryDocument) -> str:
    theirs = document.image_embedder
    assert theirs is not None  # a document with prototypes names their embedder
    if ours not in (None, theirs):
        raise ValueError(
            f"prototypes here were seen through {ours!r}, not {theirs!r}; "
            "--without-prototypes takes the rules and cases alone"
        )
    return theirs


def _set_states(folder: Path, beginnings: list[str], state: RuleState, reason: str) -> None:
    from memory.folder import open_stored
    from memory.ledger import RuleLedger

    with open_stored(folder) as store:
        ledger = RuleLedger(store)
        known = {rule.rule_id: rule for rule in ledger.all()}
        chosen = [_resolve(beginning, known) for beginning in beginnings]
        with ledger.transaction():
            for rule_id in chosen:
                ledger.set_state(rule_id, state, reason)
    for rule_id in chosen:
        say(f"{rule_id} {state}: {known[rule_id].text}")


def _resolve(beginning: str, known: dict[str, Rule]) -> str:
    found = [rule_id for rule_id in known if rule_id.startswith(beginning)]
    if len(found) != 1:
        what = "no rule's id begins" if not found else f"{len(found)} rules' ids begin"
        raise ValueError(f"{what} with {beginning!r}; `meshcritic memory list` shows them")
    return found[0]


def _check_state(state: str | None) -> None:
    from typing import get_args

    from memory.rule import RuleState

    if state is not None and state not in get_args(RuleState):
        raise ValueError(f"a rule is {', '.join(get_args(RuleState))}, not {state!r}")


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _ask() -> str:
    answer = typer.prompt("[a]dmit, [r]etire, [s]kip or [q]uit", default="s")
    return {"a": "admit", "r": "retire", "q": "quit"}.get(answer.strip()[:1].lower(), "skip")


def _by_gain(gain: float | None, admit_above: float | None, retire_below: float | None) -> str:
    """A rule that was never tried is left alone."""
    if gain is not None and admit_above is not None and gain > admit_above:
        return "admit"
    if gain is not None and retire_below is not None and gain < retire_below:
        return "retire"
    return "skip"
