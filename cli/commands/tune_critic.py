"""`meshcritic tune-critic`: a local vision-language model learns to judge from explored cases."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.backend_flags import BackendSet
from cli.console import say, stages
from cli.options import Json, PolicyDir, Seed, a_folder

if TYPE_CHECKING:
    from rl.critic_tuning.conversations import Extent

__all__ = ["tune_critic"]

RECIPE = Path(__file__).parents[2] / "configs" / "tune_critic.yaml"
STAGES = {"both": ("sft", "grpo"), "sft": ("sft",), "grpo": ("grpo",)}


def tune_critic(
    model: Annotated[
        str,
        typer.Argument(help="A name on the hub or a folder; NAME+ADAPTER_FOLDER trains an adapter further."),
    ],
    memory: Annotated[
        Path, typer.Option(help="An explored memory, such as runs/demo/memory: its cases teach.")
    ],
    out: Annotated[
        Path,
        typer.Option(callback=a_folder("--out"), help="Folder for the adapters and all that led to them."),
    ] = Path("runs/critic"),
    stage: Annotated[str, typer.Option(help="sft (true answers), grpo (rewards), both.")] = "both",
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with fields of peft and TRL; default: configs/tune_critic.yaml."),
    ] = None,
    calibration: Annotated[
        int, typer.Option(min=4, help="Scenes of lab-calibration that the memory was explored on.")
    ] = 128,
    settings: BackendSet = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare the questions, count them and their tokens, and stop.")
    ] = False,
    policy: PolicyDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a local critic (LoRA) on explored cases: TRL's SFT, then its GRPO with Spearman's rho as the reward.

    Example: `meshcritic tune-critic Qwen/Qwen3-VL-4B-Instruct --memory runs/demo/memory --out runs/critic`
    """
    if stage not in STAGES:
        raise ValueError(f"--stage is one of {', '.join(STAGES)}, not {stage!r}")
    from agent.vlm.local.backend import LocalSettings
    from agent.vlm.local.model_loading import find_model
    from agent.vlm.options import parse_settings
    from agent.vlm.settings import read_settings
    from eval.pipelines.critic_tuning import prepare_training_cases
    from eval.pipelines.critic_tuning import tune_critic as run
    from hmr.policy.checkpoint import load_policy
    from rl.critic_tuning.config import read_tuning

    local = read_settings(LocalSettings, "local", parse_settings(settings or ()))
    found, base = find_model(model), load_policy(policy)
    tuning = read_tuning(config or RECIPE, stages=STAGES[stage], seed=seed)
    with stages() as progress:
        training_cases = prepare_training_cases(
            found, memory, base, tuning, local, out, progress, calibration, workers=os.cpu_count() or 1
        )
        _say_extent(training_cases.extent)
        if dry_run:
            if as_json:
                print(json.dumps(dataclasses.asdict(training_cases.extent)))
            return
        tuned = run(found, training_cases, tuning, local, out, progress, say)
    if as_json:
        print((out / "tuning.json").read_text())
        return
    say(f"let it judge: meshcritic critique photo.jpg --backend local:{tuned.found.adapter}")


def _say_extent(extent: Extent) -> None:
    say(
        f"{extent.questions} questions about {extent.cases} explored cases, with {extent.images} pictures; "
        f"{extent.mean_prompt_tokens} tokens each, the longest {extent.longest_prompt_tokens}, "
        f"the longest true answer {extent.longest_answer_tokens}"
    )
