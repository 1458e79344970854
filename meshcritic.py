"""The front door: the command `meshcritic`, and the one name that plug-ins import from.

    from meshcritic import CritiqueTool, Evidence, VLMBackend, load_body

Everything behind it is loaded when it is first used, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer

from cli.commands.align import align
from cli.commands.check_vlm import check_vlm
from cli.commands.critic_eval import critic_eval
from cli.commands.critique import critique
from cli.commands.data import data
from cli.commands.demo import demo
from cli.commands.evaluate import evaluate
from cli.commands.explore import explore
from cli.commands.memory import memory
from cli.commands.predict import predict
from cli.commands.pretrain import pretrain
from cli.commands.trace import trace
from cli.commands.tune_critic import tune_critic

_PUBLIC = {
    "BodyParams": "hmr.types",
    "Box": "hmr.types",
    "Camera": "hmr.types",
    "Detection": "hmr.types",
    "Hypotheses": "hmr.types",
    "Sample": "hmr.types",
    "Scorer": "hmr.types",
    "load_body": "hmr.body.model",
    "load_policy": "hmr.policy.checkpoint",
    "DiffusionPolicy": "hmr.policy.policy",
    "Case": "agent.types",
    "CritiqueTool": "agent.types",
    "Evidence": "agent.types",
    "GroupCritique": "agent.types",
    "CritiqueAgent": "agent.agent",
    "default_agent": "agent.default",
    "load_tools": "agent.tools",
    "Capabilities": "agent.vlm",
    "DataPart": "agent.vlm",
    "ImagePart": "agent.vlm",
    "MalformedReply": "agent.vlm",
    "Part": "agent.vlm",
    "Reply": "agent.vlm",
    "TextPart": "agent.vlm",
    "Unanswerable": "agent.vlm",
    "VLMBackend": "agent.vlm",
    "load_backend": "agent.vlm",
    "GroupPreferenceConfig": "rl.config",
    "GroupPreferenceTrainer": "rl.trainer",
    "PolicyAdapter": "rl.policy_adapter",
    "Draws": "rl.policy_adapter",
    "RewardMix": "rl.scorers.rewards",
    "build_preferences": "rl.preferences.build",
    "load_preferences": "rl.preferences.build",
}
__all__ = sorted(["main", *_PUBLIC])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="A critique agent judges groups of 3D human meshes and teaches a diffusion policy with what it found.",
)

COMMANDS = (
    demo, predict, critique, explore, pretrain, align, evaluate, critic_eval, check_vlm, tune_critic, trace,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(memory, name="memory")


def main() -> None:
    """The command. Bad input ends in one sentence and exit code 2; MESHCRITIC_DEBUG=1 shows the traceback."""
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers would report their use to the hub
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own bars over local files
    try:
        app()
    except (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if os.environ.get("MESHCRITIC_DEBUG"):
            raise
        print(f"meshcritic: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
