"""Pages that mkdocs generates from the program: the command line, the public names, the state machines."""

import sys
from pathlib import Path

import typer
import typer.cli
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent.parent))

from state_diagram import state_diagram

import meshcritic
from agent.exploration.graph import build_exploration_graph
from agent.graph import build_critique_graph
from cli.app import app


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"cli": command_line, "api": public_names, "state-machines": state_machines}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def command_line() -> str:
    command = typer.main.get_command(app)
    context = command.make_context("meshcritic", [], resilient_parsing=True)
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="meshcritic")
    return text.replace("# `meshcritic`", "# Command line", 1)


def public_names() -> str:
    """One mkdocstrings block per public name; constants keep their comment in the source."""
    lines = ["# Python API", "", "Every name on this page is imported from `meshcritic`:", ""]
    lines += ["    from meshcritic import CritiqueAgent, load_policy", ""]
    for name in sorted(set(meshcritic.__all__) - {"main"}, key=str.lower):
        lines += [f"::: meshcritic.{name}", ""]
    return "\n".join(lines)


def state_machines() -> str:
    lines = [
        "# State machines",
        "",
        "Both graphs are drawn from the compiled LangGraph objects when this site is built. A dashed edge is",
        "conditional. The tables have the same edges.",
        "",
    ]
    graphs = {
        "The critique": (build_critique_graph(), "agent/graph.py"),
        "Exploration": (build_exploration_graph(), "agent/exploration/graph.py"),
    }
    for title, (compiled, path) in graphs.items():
        graph = compiled.get_graph()
        lines += [f"## {title}", "", f"Defined in `{path}`.", ""]
        lines += [f"<figure>{state_diagram(graph, title)}</figure>", "", "| from | to | |", "|---|---|---|"]
        for edge in graph.edges:
            lines.append(
                f"| `{edge.source}` | `{edge.target}` | {'conditional' if edge.conditional else ''} |"
            )
        lines.append("")
    return "\n".join(lines)
