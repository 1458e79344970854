"""The command `meshcritic`: one Typer application with a command per module of `cli.commands`."""

from __future__ import annotations

import os
import sqlite3
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.commands.align import align
from cli.commands.check_vlm import check_vlm
from cli.commands.critic_eval import critic_eval
from cli.commands.critique import critique
from cli.commands.data import data
from cli.commands.demo import demo
from cli.commands.evaluate import evaluate
from cli.commands.explore import explore
from cli.commands.mcp import mcp
from cli.commands.memory import memory
from cli.commands.predict import predict
from cli.commands.pretrain import pretrain
from cli.commands.rank import rank
from cli.commands.tables import tables
from cli.commands.trace import trace
from cli.commands.tune_critic import tune_critic
from cli.commands.view import view
from cli.console import print_message
from common.failures import ScoresMissing, is_expected, sentence_of
from common.stopping import ended_by_signals

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EOFError as error:  # click takes it for the end of a person's input, and says "Aborted."
            raise ValueError(f"a file ends too early ({error})") from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    demo, predict, critique, explore, pretrain, align, evaluate, critic_eval, tables, check_vlm, tune_critic, trace,
    rank, view, mcp,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(memory, name="memory")


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"meshcritic {version('meshcritic')}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Critique groups of 3D human mesh hypotheses, and align a diffusion policy with the critic's preferences."""


def _refuse_empty_arguments(words: list[str]) -> None:
    """An empty path would mean the current folder; `--save ""` saves nothing."""
    if any(word == "" and before != "--save" for before, word in zip(["", *words], words, strict=False)):
        raise ValueError("an argument is empty; is a variable of the shell not set?")


def main() -> None:
    """Run the command.

    Invalid input and failures of the system (a full disk, a locked database, too little memory) end with one sentence
    and exit code 2, a backend that gave no score with one sentence and exit code 1; MESHCRITIC_DEBUG=1 shows the
    traceback. The first SIGINT or SIGTERM ends the command within two seconds, with exit code 130 or 143
    (`common.stopping`).
    """
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault(
        "HF_HUB_DISABLE_TELEMETRY", "1"
    )  # TRL's trainers report their use to the hub otherwise
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars over local files
    # torch's threads otherwise spin between small operations, and take the cores that other work needs
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ended_by_signals():
        try:
            _refuse_empty_arguments(sys.argv[1:])
            app()
        except (ValueError, OSError, sqlite3.Error, MemoryError, RuntimeError) as error:
            if os.environ.get("MESHCRITIC_DEBUG") or not is_expected(error):
                raise
            print_message(f"meshcritic: {sentence_of(error)}")
            sys.exit(1 if isinstance(error, ScoresMissing) else 2)
